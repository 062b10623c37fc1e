"""Pages of the documentation that are made from the code: printed, or with `--write FILE` written."""

import sys
from pathlib import Path


def plain(text: str) -> str:
    """As a cell of a table."""
    return text.replace("|", "\\|").rstrip(".")


def give(page: str) -> None:
    if sys.argv[1:2] == ["--write"]:
        Path(sys.argv[2]).write_text(page)
    else:
        sys.stdout.write(page)
