"""A module of which two versions run at once."""

VERSION = 1


def version() -> int:
    return VERSION


class Thing:
    made_by = VERSION
