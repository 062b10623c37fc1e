"""The table at the end: medians and maxima side by side, and what was to be reached."""

from flowgroup.dev.bench.figures import OURS, Row, ratio

_WHAT, _CELL, _TIMES = 40, 26, 9
_SHOWN_PARTS = 12


def table(rows: list[Row]) -> str:
    """One line per figure. The ratio is of the medians, ours to Prefect's worker's: how many times better we are."""
    rows = sorted(rows, key=lambda row: bool(row["side"] != OURS))
    sides = list(dict.fromkeys(row["side"] for row in rows))
    found = {(row["what"], row["side"]): row for row in rows}
    head = f"{'median (max)':{_WHAT}}" + "".join(f"{side:>{_CELL}}" for side in sides)
    lines = [f"{head}{'ratio':>{_TIMES}}  target"]
    for what in dict.fromkeys(row["what"] for row in rows if row["median"] is not None):
        cells = "".join(f"{_cell(found.get((what, side))):>{_CELL}}" for side in sides)
        times = ratio(what, rows)
        shown = f"{times:.1f} x" if times else "-"
        lines.append(f"{what:{_WHAT}}{cells}{shown:>{_TIMES}}  {_verdict(found, what)}".rstrip())
    return "\n".join([*lines, *_parts(rows), *_troubles(rows), "", _sum(rows)])


def _cell(row: Row | None) -> str:
    if row is None or row["median"] is None:
        return "-"
    unit = f" {row['unit']}" if row["unit"] else ""
    return f"{row['median']:.2f}{unit}" + (f" ({row['max']:.2f})" if row["n"] > 1 else "")


def _verdict(found: dict[tuple[str, str], Row], what: str) -> str:
    """What was to be reached, and whether it was."""
    row = next((row for (name, _), row in found.items() if name == what and row["target"]), None)
    if row is None:
        return ""
    said = {True: "met", False: "MISSED", None: "open: the other side was not measured"}[row["met"]]
    missed = f" ({', '.join(row['missed'])})" if row["missed"] and row["target"] != ", ".join(row["missed"]) else ""
    return f"{row['target']}: {said}{missed}"


def _parts(rows: list[Row]) -> list[str]:
    """What some figures consist of, the largest first."""
    lines = []
    for row in rows:
        parts = sorted(row["parts"].items(), key=lambda part: -part[1])[:_SHOWN_PARTS]
        if parts:
            lines += ["", f"{row['side']}, {row['what']}:"]
            lines += [f"  {value:10.2f}  {name}" for name, value in parts]
    return lines


def _troubles(rows: list[Row]) -> list[str]:
    troubles = [f"  {row['side']}, {row['case']}: {row['trouble']}" for row in rows if row["trouble"]]
    stood = dict.fromkeys(f"  {row['side']}, {row['case']}" for row in rows if row.get("database_locked"))
    troubles += [f"{who}: the server's database was locked meanwhile, which may cost a minute" for who in stood]
    return ["", *troubles] if troubles else []


def _sum(rows: list[Row]) -> str:
    met, missed = (sum(row["met"] is value for row in rows) for value in (True, False))
    return f"{met} figures reach their target, {missed} miss it"
