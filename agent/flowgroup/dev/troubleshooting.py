"""
The page of all causes, made of their rows: `python -m flowgroup.dev.troubleshooting > docs/troubleshooting.md`.

What stands in braces in a row is in angle brackets on the page.
"""

import sys

from flowgroup.model.causes import ROWS
from flowgroup.model.causes.row import Cause

_HEAD = """\
# When a run does not end well

The message of a flow run's state names the cause and the remedy, and has a code in brackets, such as `[oom-container]`.
This table has all codes; `flowgroup_runs_undone_total{cause="…"}` counts them. Where a message has two codes the first one is
the cause, and the second what came of it.

A run that only waits says why as well: in the message of its Pending state, and once it runs in its log.

This page is made of the rows in `agent/flowgroup/model/causes/` by `python -m flowgroup.dev.troubleshooting`.

| code | what you see | what it is known by | what to do |
|---|---|---|---|
"""


def page() -> str:
    """All of it, as Markdown."""
    return _HEAD + "".join(_row(row) for row in ROWS)


def _row(row: Cause) -> str:
    cells = (f"`{row.code}`", _shown(row.words), _plain(row.told_by), _shown(row.remedy))
    return f"| {' | '.join(cells)} |\n"


def _shown(template: str) -> str:
    shown = template.replace(":.0f}", "}").replace("{", "<").replace("}", ">")
    return _plain(shown.replace("<", "&lt;").replace(">", "&gt;"))


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    sys.stdout.write(page())
