"""
The commands' reference, made from their parsers: `make cli` writes docs/cli.md.

Not argparse's own help, which another Python writes otherwise.
"""

import argparse
from collections.abc import Iterator

_STATUSES = {
    0: "done; of `doctor` no check failed",
    1: "it failed; of `doctor` a check did, of `plan` a run that comes cannot be placed, of `check` the run did not complete",
    2: "the input is wrong: the text says what, and the remedy",
    130: "interrupted",
}


def page(parser: argparse.ArgumentParser) -> str:
    """The whole page, as Markdown."""
    lines = [
        "# Commands",
        "",
        "Made from the parsers by `make cli`. `flowgroup COMMAND --help` says the same. Settings are read from the environment",
        "and the file that `FLOWGROUP_CONFIG` names ([all of them](settings.md)); flags are stronger.",
        "",
        "| exit status | |",
        "|---:|---|",
        *(f"| {status} | {what} |" for status, what in _STATUSES.items()),
        "",
    ]
    for name, one, about in _commands(parser, ""):
        lines += _section(name, one, about)
    return "\n".join(lines).rstrip() + "\n"


def _commands(parser: argparse.ArgumentParser, above: str) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            abouts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, one in action.choices.items():
                whole = f"{above}{name}"
                if not any(isinstance(inner, argparse._SubParsersAction) for inner in one._actions):
                    yield whole, one, abouts.get(name, "")
                yield from _commands(one, f"{whole} ")


def _section(name: str, parser: argparse.ArgumentParser, about: str) -> list[str]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    words = [_metavar(action) for action in actions if not action.option_strings]
    lines = [f"## flowgroup {name}{''.join(f' {word}' for word in words)}", "", _sentence(about)]
    if parser.description:
        lines += ["", parser.description]
    if actions:
        lines += ["", "| | |", "|---|---|", *map(_row, actions)]
    return [*lines, ""]


def _row(action: argparse.Action) -> str:
    named = action.option_strings and action.nargs != 0
    value = f" {_metavar(action)}" if named else ""
    what = f"{', '.join(action.option_strings)}{value}" if action.option_strings else _metavar(action)
    needed = " (needed)" if action.required and action.option_strings else ""
    return f"| `{what}` | {action.help or ''}{needed} |"


def _metavar(action: argparse.Action) -> str:
    if action.choices is not None:
        return "/".join(map(str, action.choices))
    said = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    return str(said)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
