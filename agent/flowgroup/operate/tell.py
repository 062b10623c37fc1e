"""How commands print: text for people, or JSON."""

import json
from collections.abc import Sequence
from typing import Any


def as_json(told: object) -> None:
    """One line, so that `--watch --json` is a line for each look."""
    print(json.dumps(told, default=str), flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines with columns as wide as they have to be."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
