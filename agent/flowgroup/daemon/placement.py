"""
Where a run goes and what it gets there. Pure.

In: the run, its deployment, the pool's template and our policy. Out: a Placement, or Refused with what somebody has to
change. It never asks anybody, and never opens a bundle: it checks what is said about it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flowgroup import signing
from flowgroup.errors import Refused
from flowgroup.model import references
from flowgroup.model.bundle import Statement
from flowgroup.model.causes import marked
from flowgroup.model.ids import FIRST_RELAY, RelayName
from flowgroup.model.pod import PodExtras
from flowgroup.model.runs import Deployment, DueRun, Placement
from flowgroup.model.spec import ClusterSpec, is_process_wide, sealed, spec_of, through
from flowgroup.model.states import SeenRun
from flowgroup.model.variables import JobVariables, allows_unsigned, merged, parse, pool_defaults

_SIGNED = ("image", "start script", "environment", "environment by reference, volumes or service account")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Policy:
    """What this daemon adds to what deployments say. `python`: the version of the backend's drivers, if it is known."""

    pool: str
    public_keys: tuple[str, ...] = ()
    python: str | None = None
    idle_timeout_s: float = 300.0
    key: str = field(default="", repr=False)
    """What hashes of secret values are made with; the same in the next daemon."""
    relays: tuple[RelayName, ...] = (FIRST_RELAY,)
    """The relays that flow groups are shared out among."""


def said(due: DueRun | SeenRun, deployment: Deployment, template: dict[str, Any]) -> dict[str, Any]:
    """The run's job variables as pool, deployment and run say them together."""
    return merged(*_layers(due, deployment, template))


def place(
    due: DueRun,
    deployment: Deployment | None,
    template: dict[str, Any],
    policy: Policy,
    told: Mapping[str, Any] = _NOTHING,
) -> Placement:
    """
    Resolve the run's job variables and check its code's papers. Raises Refused.

    `told` is what `{{ prefect.… }}` in them stands for. `{{ $NAME }}` stays as it is written: a deployment must not read the
    agent's environment.
    """
    if deployment is None:
        raise Refused(
            "the run has no deployment, so it is not known where its code is: was the deployment deleted? "
            "Deploy the flow and start a run of that deployment."
        )
    layers = _layers(due, deployment, template)
    values = merged(*layers)
    variables = parse(references.filled(values, told))
    env_of_run = frozenset(layers[-1].get("env") or {})
    spec = spec_of(
        variables,
        flow_id=deployment.flow_id,
        flow_name=deployment.flow_name,
        pool=policy.pool,
        run_id=due.id,
        env_of_run=env_of_run,
    )
    with_blocks = references.with_blocks(values)
    spec = through(sealed(spec, with_blocks, policy.key), policy.relays)
    if variables.bundle is not None:
        as_said = variables.model_copy(update={"env": values["env"]})  # what it stands for nobody could sign
        try:
            _check_papers(as_said, deployment, policy, _is_signed(spec, env_of_run))
        except Refused as exc:
            raise Refused(marked("bundle-refused", str(exc))) from exc
    else:
        _may_be_unsigned(deployment, template, policy)
    idle_s = policy.idle_timeout_s if variables.idle_timeout_s is None else variables.idle_timeout_s
    return Placement(
        spec=spec,
        env={name: value for name, value in variables.env.items() if value is not None},
        deployment=deployment,
        idle_timeout_s=0.0 if spec.mode == "per-run" else idle_s,
        bundle=variables.bundle,
        memory_limit_bytes=variables.memory_limit_bytes,
        skip_if_late_s=variables.skip_if_late_s,
        secret_env=with_blocks | {name for name, one in variables.env_value_from.items() if one.secret_key_ref},
    )


def _layers(due: DueRun | SeenRun, deployment: Deployment, template: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    layers = (pool_defaults(template), deployment.job_variables, due.job_variables)
    return tuple(_nested(layer) for layer in layers)


def _is_signed(spec: ClusterSpec, env_of_run: frozenset[str]) -> Callable[[str], bool]:
    """Whether a variable in `env` is one that the author's signature covers, by its name (`to_be_signed`)."""
    has_all = spec.has_workers and bool(spec.start_script)
    return lambda name: is_process_wide(name) or (has_all and name not in env_of_run)


def _check_papers(
    variables: JobVariables, deployment: Deployment, policy: Policy, is_signed: Callable[[str], bool]
) -> None:
    name = f"{deployment.flow_name}/{deployment.name}"
    assert variables.bundle is not None
    statement = signing.check(variables.bundle, policy.public_keys, deployment=name, version=deployment.version)
    if policy.public_keys:
        _same_as_signed(statement, variables, name, is_signed)
    if policy.python is not None and statement.python != policy.python:
        raise Refused(
            f"the bundle of {name!r} was packed with Python {statement.python}, and runs here have Python "
            f"{policy.python}: deploy it again with Python {policy.python}"
        )


def _same_as_signed(statement: Statement, variables: JobVariables, name: str, is_signed: Callable[[str], bool]) -> None:
    pod = (variables.pod_extras() or PodExtras()).told()
    theirs_env, our_env = (_part(env, is_signed) for env in (statement.environment, variables.env))
    signed = (statement.image, statement.start_script, theirs_env, statement.pod)
    wanted = (variables.image, variables.start_script, our_env, pod)
    for what, ours, theirs in zip(_SIGNED, wanted, signed, strict=True):
        if ours != theirs:
            raise Refused(
                f"the {what} of {name!r} is not the one that its author signed: somebody changed the deployment's or "
                "the pool's job variables, or the run's. Deploy the flow again with the values that it should have."
            )
    for group in variables.worker_groups:
        if group.image not in (None, statement.image):
            raise Refused(
                f"the worker group {group.name!r} of {name!r} has an image of its own ({group.image}), which its author "
                "did not sign, and this pool runs only signed code: leave the group's image out"
            )


def _part(env: Mapping[str, str | None], is_signed: Callable[[str], bool]) -> dict[str, str]:
    return {name: value for name, value in env.items() if value is not None and is_signed(name)}


def _may_be_unsigned(deployment: Deployment, template: dict[str, Any], policy: Policy) -> None:
    if policy.public_keys and not allows_unsigned(template):
        raise Refused(
            f"the deployment {deployment.flow_name}/{deployment.name} has no signed bundle, and this pool runs only "
            'signed code: deploy it with flowgroup.deploy, or set "allow_unsigned": true in the job_configuration of '
            "the pool's base job template"
        )
    if not deployment.entrypoint:
        raise Refused(
            f"the deployment {deployment.flow_name}/{deployment.name} has neither a bundle nor an entrypoint, so it is "
            "not known where its code is: deploy the flow again"
        )


def _nested(layer: dict[str, Any]) -> dict[str, Any]:
    """Prefect lets one write `env.NAME` for a value inside `env`; a value that is already nested wins."""
    env = {name.removeprefix("env."): value for name, value in layer.items() if name.startswith("env.")}
    if not env:
        return layer
    rest = {name: value for name, value in layer.items() if not name.startswith("env.")}
    inner = rest.get("env")
    return {**rest, "env": {**env, **inner} if isinstance(inner, dict) else env}
