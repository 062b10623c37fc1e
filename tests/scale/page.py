"""The page `docs/scale.md`: what was measured, and what it says of how many daemons are needed."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_MIB = 1024 * 1024
_SUBMITTED_S, _CORES, _RSS_MIB = 120.0, 1.0, 400.0


@dataclass
class Stage:
    """`cores`: processor time by time; `rss_bytes`: the most that was seen."""

    name: str
    runs: int = 0
    took_s: float = 0.0
    cores: float = 0.0
    rss_bytes: int = 0

    def missed(self) -> list[str]:
        found = []
        if self.runs and self.took_s > _SUBMITTED_S:
            found.append(f"submitted after {self.took_s:.0f} s instead of {_SUBMITTED_S:.0f}")
        if self.cores >= _CORES:
            found.append(f"{self.cores:.2f} cores instead of less than {_CORES:.0f}")
        if self.rss_bytes > _RSS_MIB * _MIB:
            found.append(f"{self.rss_bytes / _MIB:.0f} MiB instead of {_RSS_MIB:.0f}")
        return found

    def __str__(self) -> str:
        return f"{self.name}: {self.took_s:.0f} s, {self.cores:.2f} cores, {self.rss_bytes / _MIB:.0f} MiB"


def page(stages: Sequence[Stage], troubles: Sequence[str], *, clusters: int, groups: int, workers: int) -> str:
    """The whole file."""
    rows = [
        f"| {stage.name} | {stage.runs or ''} | {stage.took_s:.0f} | {stage.cores:.2f} | {stage.rss_bytes / _MIB:.0f} |"
        for stage in stages
    ]
    parts = [
        "# Scale, measured",
        f"Written by `make scale` on {datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} cores for everything, Python "
        f"{platform.python_version()}. {groups:,} flow groups with a run each tomorrow, {clusters:,} clusters with "
        f"{clusters * (2 + workers):,} pods. Real are the daemon, the relay, and Kubernetes' API server, etcd, scheduler and "
        "controllers; nodes are pretended (kwok), and so are the Dask operator, the drivers and Prefect's API, in one process "
        "beside them. Images are named by digest. *Submitted* is a run when its driver has it.",
        "| what | runs | seconds | the daemon's cores | MiB |\n|---|---:|---:|---:|---:|\n" + "\n".join(rows),
        f"To reach: a burst submitted within {_SUBMITTED_S:.0f} s, less than {_CORES:.0f} core, at most {_RSS_MIB:.0f} MiB.",
        "## What is missed\n\n" + ("\n".join(f"- {one}." for one in troubles) or "Nothing, this time."),
    ]
    return "\n\n".join(parts) + "\n"
