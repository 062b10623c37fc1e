"""
`{{ prefect.blocks.TYPE.NAME }}` and `{{ prefect.variables.NAME }}` in job variables: which there are, and what they become.

Pure. A block may be a secret, so it is let into `env` only: what else is said becomes part of objects that many can read.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flowgroup.errors import Refused

BLOCKS, VARIABLES = "prefect.blocks.", "prefect.variables."
_PLACE = re.compile(r"\{\{\s*(prefect\.(?:blocks|variables)\.[^{}\s]+)\s*\}\}")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_HIDDEN = "*"
_ENV = "env."


def found(values: Mapping[str, Any]) -> set[str]:
    """Every reference in the values. Raises Refused for a block where none may be."""
    names = set()
    for where, text in _texts(values, ""):
        for name in _PLACE.findall(text):
            if name.startswith(BLOCKS):
                _may_be_a_block(where, name)
            names.add(name)
    return names


def with_blocks(values: Mapping[str, Any]) -> frozenset[str]:
    """The names in `env` whose values have a block in them: nobody but the cluster's processes may see what they become."""
    env = values.get("env")
    if not isinstance(env, dict):
        return frozenset()
    names = {name: _PLACE.findall(text) for name, text in env.items() if isinstance(text, str)}
    return frozenset(name for name, said in names.items() if any(one.startswith(BLOCKS) for one in said))


def filled(values: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The values with what the references stand for. Alone in its place a variable keeps its type, outside of `env`."""

    def fill(where: str, text: str) -> Any:
        whole = _PLACE.fullmatch(text.strip())
        if whole and not where.startswith(_ENV):
            return told[whole[1]]
        return _PLACE.sub(lambda place: _as_text(told[place[1]], where, place[1]), text)

    return {name: value if name == "bundle" else _mapped(value, name, fill) for name, value in values.items()}


def inside(data: Any, path: str, reference: str) -> Any:
    """
    What a block's data has at `path` (`a.b[0]`), by Prefect's rules: of a block with nothing but a `value` that is meant.

    Raises Refused, naming the reference, never the data.
    """
    if isinstance(data, dict) and set(data) == {"value"} and not re.match(r"value($|[.\[])", path):
        data = data["value"]
    for name, index in _STEP.findall(path):
        try:
            data = data[int(index)] if index else data[name]
        except (KeyError, IndexError, TypeError) as exc:
            raise Refused(
                f"{{{{ {reference} }}}}: the block has no {path!r} in it. Correct the job variable or the block."
            ) from exc
    if isinstance(data, str) and data and not data.strip(_HIDDEN):
        raise Refused(
            f"{{{{ {reference} }}}}: the API shows the agent only stars, so its key may not read blocks' secrets. Give it "
            "that right."
        )
    return data


def _may_be_a_block(where: str, name: str) -> None:
    if not where.startswith(_ENV):
        raise Refused(
            f"the job variable {where} refers to a block ({{{{ {name} }}}}), and only values of env may, for blocks hold "
            "secrets: write the value itself, or keep it in a Prefect variable"
        )


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if where or name != "bundle":
                yield from _texts(inner, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{number}")


def _mapped(value: Any, where: str, fill: Callable[[str, str], Any]) -> Any:
    if isinstance(value, str):
        return fill(where, value)
    if isinstance(value, dict):
        return {name: _mapped(inner, f"{where}.{name}", fill) for name, inner in value.items()}
    return [_mapped(inner, where, fill) for inner in value] if isinstance(value, list | tuple) else value


def _as_text(value: Any, where: str, reference: str) -> str:
    if isinstance(value, dict | list) and reference.startswith(BLOCKS):
        raise Refused(
            f"{{{{ {reference} }}}} in the job variable {where} is a whole block: name the part that is meant, such as "
            f"{{{{ {reference}.value }}}}"
        )
    return value if isinstance(value, str) else json.dumps(value)
