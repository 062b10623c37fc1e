"""What an author says about a flow's cluster."""

import warnings
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, fields
from typing import Any, Literal

from pydantic import ValidationError

from flowgroup.errors import Refused
from flowgroup.model.variables import JobVariables, WorkerGroup

_SATURN = {
    "n_workers": "workers",
    "nprocs": "worker_processes",
    "nthreads": "worker_threads",
    "worker_is_spot": "worker_spot",
}
DEFAULT_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """
    A Dask cluster for a flow: `Cluster(workers=4, worker_memory="2GiB")`.

    `Cluster()` is two workers of one process with one thread each. What is left out is the pool's to say: memory,
    sizes, mode, idle time. With `workers_max`, and `workers_min` (else 0), the number of workers follows the work; groups
    have `min` and `max` for that. prefect-saturn's names are accepted: `n_workers`, `nprocs`, `nthreads`, `worker_is_spot`, and
    `autoclose=True` for `mode="per-run"`. `worker_groups` are workers of other kinds:
    `Cluster(workers=4, worker_groups=[WorkerGroup(name="gpu", count=2, size="gpu-large", dask_resources={"GPU": 1})])`;
    where they alone are said there are no others. A wrong value, or a thing said twice, raises Refused.
    """

    workers: int | None = None
    workers_min: int | None = None
    workers_max: int | None = None
    worker_processes: int | None = None
    worker_threads: int | None = None
    worker_memory: str | None = None
    worker_size: str | None = None
    scheduler_size: str | None = None
    driver_size: str | None = None
    worker_spot: bool | None = None
    worker_groups: Sequence[WorkerGroup] | None = None
    mode: Literal["shared", "exclusive", "per-run"] | None = None
    idle_timeout_s: float | None = None
    n_workers: InitVar[int | None] = None
    nprocs: InitVar[int | None] = None
    nthreads: InitVar[int | None] = None
    worker_is_spot: InitVar[bool | None] = None
    autoclose: InitVar[bool | None] = None

    def __post_init__(
        self,
        n_workers: int | None,
        nprocs: int | None,
        nthreads: int | None,
        worker_is_spot: bool | None,
        autoclose: bool | None,
    ) -> None:
        saturn = {
            "n_workers": n_workers,
            "nprocs": nprocs,
            "nthreads": nthreads,
            "worker_is_spot": worker_is_spot,
        }
        said: dict[str, str] = {}
        for name, value in saturn.items():
            if value is not None:
                self._take(name, _SATURN[name], value)
                said[_SATURN[name]] = name
        if autoclose is not None:
            self._autoclose(autoclose)
        if self.workers is None:
            object.__setattr__(self, "workers", self._at_first())
        self._check(said)

    def job_variables(self) -> dict[str, Any]:
        """What was said, by the names of the pool's job variables; nothing else, so that the pool's defaults hold."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.worker_groups is not None:
            groups = [group.model_dump(mode="json", exclude_unset=True) for group in self.worker_groups]
            values["worker_groups"] = groups
        return {name: value for name, value in values.items() if value is not None}

    def _at_first(self) -> int:
        if self.workers_max is not None:
            return self.workers_min or 0
        return 0 if self.worker_groups else DEFAULT_WORKERS

    def _take(self, alias: str, name: str, value: Any) -> None:
        if getattr(self, name) is not None:
            raise Refused(f"Cluster was given both {name} and {alias}, which mean the same: keep {name}")
        object.__setattr__(self, name, value)

    def _autoclose(self, autoclose: bool) -> None:
        # The frames in between: _autoclose, __post_init__, the generated __init__.
        warnings.warn(
            "autoclose is prefect-saturn's name: write mode='per-run' for a cluster that goes with its run",
            FutureWarning,
            stacklevel=4,
        )
        if autoclose:
            self._take("autoclose", "mode", "per-run")

    def _check(self, said: dict[str, str]) -> None:
        try:
            JobVariables.model_validate(self.job_variables())
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            if not first["loc"]:  # it is about several fields, which it names
                raise Refused(f"Cluster: {first['msg'].lower()}.") from exc
            name = str(first["loc"][0])
            remedy = JobVariables.model_fields[name].description or f"see the form of the work pool for {name}"
            raise Refused(
                f"Cluster({said.get(name, name)}={getattr(self, name)!r}): {first['msg'].lower()}. {remedy}"
            ) from exc
