"""
The chart's README from its values: `python helm/readme.py` prints it, `--write` writes it, and the same as a page of the docs.

A comment `# -- text` above a key is what the table says of it.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
README = HERE / "flowgroup" / "README.md"
PAGE = HERE.parent / "docs" / "chart.md"
_KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z][\w-]*):(?: |$)")
_WHOLE = re.compile(r"(^|\.)(resources|\w+Probe)$")  # shown as one value
_SAID = re.compile(r"^ *# -- (?P<text>.+)$")


def readme() -> str:
    """The whole file."""
    text = (HERE / "flowgroup" / "values.yaml").read_text()
    rows = [f"| `{path}` | {_default(value)} | {said} |" for path, value, said in _leaves(text)]
    return (HERE / "README.in.md").read_text() + "\n".join(
        ["| value | default | meaning |", "|---|---|---|", *rows, ""]
    )


def _leaves(text: str) -> Iterator[tuple[str, Any, str]]:
    """Path, default and description of every value that is worth a line."""
    values, said = yaml.safe_load(text), _descriptions(text)
    yield from _below(values, "", said)


def _below(value: Any, path: str, said: dict[str, str]) -> Iterator[tuple[str, Any, str]]:
    for name, inner in value.items():
        here = f"{path}.{name}" if path else name
        if here in said or not isinstance(inner, dict) or not inner or _WHOLE.search(here):
            yield here, inner, said.get(here, "")
        else:
            yield from _below(inner, here, said)


def _descriptions(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    pending = ""
    for line in text.splitlines():
        if comment := _SAID.match(line):
            pending = comment["text"]
        elif key := _KEY.match(line):
            indent = len(key["indent"])
            above = [*(entry for entry in above if entry[0] < indent), (indent, key["name"])]
            if pending:
                found[".".join(name for _, name in above)] = pending
            pending = ""
    return found


def _default(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace("|", "\\|")


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(readme())
        PAGE.write_text(readme())
    else:
        sys.stdout.write(readme())
