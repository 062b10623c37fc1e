"""A module beside the flow's file."""

VERSION = 1


def version() -> int:
    return VERSION


class Point:
    def __init__(self, x: int) -> None:
        self.x = x
