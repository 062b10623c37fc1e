"""The page and the pictures of `docs/profile`."""

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from flowgroup.dev import flame
from flowgroup.dev.profile import stages
from flowgroup.dev.profile.stages import Moments

_TOP = 12
_ABOVE = "flowgroup.driver.sampler:sampled_run"  # the zygote's own frames, which a child has from its fork


@dataclass
class Picture:
    """A flame graph to draw: of which threads' stacks, and by how many runs or tasks its times are divided."""

    file: str
    title: str
    lines: list[str]
    per: int = 1
    under: str = ""
    trouble: str = ""


@dataclass
class Profile:
    """What was seen."""

    runs: list[Moments]
    tasks: int
    tasks_took_s: float
    pictures: list[Picture] = field(default_factory=list)


def write(profile: Profile, into: Path) -> None:
    """`README.md` and a file for each picture. A picture that there is none of leaves the old file alone."""
    into.mkdir(parents=True, exist_ok=True)
    for picture in profile.pictures:
        if picture.lines:
            whole = flame.read(picture.lines, under=picture.under, above=_ABOVE)
            (into / picture.file).write_text(flame.svg(whole, picture.title, per=picture.per))
    (into / "README.md").write_text(page(profile))


def page(profile: Profile) -> str:
    about = f"{os.cpu_count()} cores, Prefect {version('prefect')} with SQLite, Python {platform.python_version()}"
    made = datetime.now(UTC).date().isoformat()
    rate = profile.tasks / profile.tasks_took_s
    parts = [
        "# Where the time goes",
        f"Written by `make profile` on {made}: {about}, on a machine that other work may have kept busy.",
        f"## One warm run\n\nMedians of {len(profile.runs)} runs of an empty flow, one at a time, on a warm cluster "
        "without Dask. Each room notes the time by itself; a stage may be seen before the one above it.",
        stages.table(stages.steps(profile.runs)),
        f"## One task\n\n{profile.tasks} small tasks mapped over two workers of one thread took "
        f"{profile.tasks_took_s:.1f} s: {rate:.0f} a second, {1000 / rate:.1f} ms each.",
        "## Flame graphs\n\nTime from left to right is not order: equal stacks are put together. Titles (hold the mouse "
        "over a frame) have the milliseconds per run or per task. Threads other than the main "
        "one count while they work only. Sampling costs time itself: judge shares.",
        *[_shown(picture) for picture in profile.pictures],
    ]
    return "\n\n".join(parts) + "\n"


def _shown(picture: Picture) -> str:
    if not picture.lines:
        return f"### {picture.title}\n\nNot drawn this time: {picture.trouble or 'nothing was seen'}."
    whole = flame.read(picture.lines, under=picture.under, above=_ABOVE)
    rows = [
        f"| {took / picture.per / 1000:.2f} ms | {100 * share:.0f} % | `{name}` |" for name, took, share in _own(whole)
    ]
    head = "| itself | share | where (innermost frame) |\n|---:|---:|---|"
    return f"### {picture.title}\n\n![{picture.title}]({picture.file})\n\n{head}\n" + "\n".join(rows)


def _own(whole: flame.Frame) -> list[tuple[str, float, float]]:
    """The frames that most time is spent in themselves, not in what they call."""
    own: dict[str, float] = {}
    left = [whole]
    while left:
        frame = left.pop()
        below = list(frame.below.values())
        own[frame.name] = own.get(frame.name, 0) + frame.took - sum(child.took for child in below)
        left += below
    top = sorted(own.items(), key=lambda pair: -pair[1])[:_TOP]
    return [(name, took, took / (whole.took or 1)) for name, took in top]
