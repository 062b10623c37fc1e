"""
`python -m tests.real.dying POINT[:N] start --pool …`: the daemon, ended by SIGKILL when it is at a point for the Nth time.

For tests of what the next daemon makes of it.
"""

import os
import signal
import sys
from collections.abc import Callable

from flowgroup import cli
from flowgroup.daemon import points
from flowgroup.daemon.points import POINTS, Point


def dying(named: str) -> Callable[[Point], None]:
    """What happens at each point: `sent:3` ends the process when `sent` is reached for the third time."""
    name, _, times = named.partition(":")
    if name not in POINTS:
        sys.exit(f"{name!r} is no point of the daemon's line: {', '.join(POINTS)}")
    left = int(times or 1)

    def at(point: Point) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return at


if __name__ == "__main__":
    points.at = dying(sys.argv[1])
    cli.main(sys.argv[2:])
