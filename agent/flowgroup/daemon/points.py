"""
Named points of the run's line at which a test ends the daemon, as `kill -9` would.

They lie before and after each call that changes something outside of the daemon. Nothing happens at them unless `at` is
replaced, which only tests do.
"""

from collections.abc import Callable
from typing import Literal, get_args

Point = Literal[
    "due",
    "held",
    "planned",
    "claiming",
    "claimed",
    "making",
    "made",
    "placed",
    "opening",
    "opened",
    "ordering",
    "sent",
    "watched",
    "closing",
    "shut",
    "closed",
    "saying",
    "said",
    "told",
    "forgotten",
    "resuming",
    "judging",
    "deleting",
    "deleted",
]
POINTS: tuple[Point, ...] = get_args(Point)


def _nothing(_: Point) -> None:
    """What happens in normal use."""


at: Callable[[Point], None] = _nothing


def reached(point: Point) -> None:
    at(point)
