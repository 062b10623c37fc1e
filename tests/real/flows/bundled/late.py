"""Nothing imports this before a task does."""

from shapes import round as shapes_round


def area() -> int:
    return shapes_round.area(2)
