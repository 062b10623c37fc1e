"""Whether a figure grows: values only."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

_MIB = 1024 * 1024
_SAME = 0.01
"""Memory that grew by less than this part of itself has not grown: a page more or less is in every pair of looks."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process: seconds since the soak began, resident bytes, open files, threads, asyncio tasks if it tells."""

    at_s: float
    rss_bytes: int
    files: int
    threads: int
    tasks: int | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """
    A figure over the whole span: the median of its first and of its last quarter, and its slope an hour.

    The slope is the median of all slopes between two looks (Theil and Sen), so that a peak or a step back moves it little.
    """

    first: float
    last: float
    slope_per_h: float
    span_s: float

    @property
    def grown(self) -> float:
        """What the slope comes to over the span."""
        return self.slope_per_h * self.span_s / 3600


def growth(points: Sequence[tuple[float, float]]) -> Growth:
    """`points` are at least four pairs of a moment in seconds and a value, in order."""
    slopes = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in combinations(points, 2)]
    quarter = len(points) // 4
    first, last = (statistics.median(value for _, value in part) for part in (points[:quarter], points[-quarter:]))
    return Growth(first, last, 3600 * statistics.median(slopes), points[-1][0] - points[0][0])


@dataclass(frozen=True, slots=True)
class Kind:
    """A figure of a process: `grows` says whether what it did over the span is more than looking at it does."""

    name: str
    of: Callable[[Sample], float | None]
    grows: Callable[[Growth], bool]


def _by_one(seen: Growth) -> bool:
    return seen.grown >= 1 and seen.last > seen.first


KINDS = (
    Kind("MiB", lambda sample: sample.rss_bytes / _MIB, lambda seen: seen.grown > _SAME * seen.first),
    Kind("files", lambda sample: sample.files, _by_one),
    Kind("threads", lambda sample: sample.threads, _by_one),
    Kind("tasks", lambda sample: sample.tasks, _by_one),
)


def grown(samples: Sequence[Sample]) -> dict[str, Growth]:
    """By the names of the figures that the process tells; nothing of one that was seen fewer than four times."""
    found = {}
    for kind in KINDS:
        points = [(sample.at_s, value) for sample in samples if (value := kind.of(sample)) is not None]
        if len(points) >= 4:  # noqa: PLR2004
            found[kind.name] = growth(points)
    return found


def growing(seen: dict[str, Growth]) -> list[str]:
    """The names of the figures that grow."""
    return [kind.name for kind in KINDS if kind.name in seen and kind.grows(seen[kind.name])]
