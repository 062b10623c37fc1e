"""Collapsed stacks as a flame graph: one SVG file that needs nothing else. A frame's title says what it took."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

_WIDTH, _ROW, _MARGIN, _HEAD = 1200, 16, 10, 44
_CHARACTER = 6.6  # the width of one
_LEAST = 0.002  # of the whole: narrower frames are left out, for nobody could see them
_HUES = ("#e4572e", "#f18f01", "#f6ae2d", "#d9ae61", "#c98b4f", "#ea8c55")


@dataclass
class Frame:
    """What was spent in a frame with all that it called, in microseconds."""

    name: str
    took: float = 0
    below: dict[str, "Frame"] = field(default_factory=dict)


def read(lines: Iterable[str], *, under: str = "", above: str = "") -> Frame:
    """
    One frame of all from `a;b;c 12` lines; only those that begin with `under`, which is left out itself.

    So are the frames down to `above`, where there is one.
    """
    whole = Frame("all")
    for line in lines:
        stack, _, weight = line.rstrip().rpartition(" ")
        if not stack.startswith(under) or not weight.isdigit():
            continue
        at = whole
        at.took += int(weight)
        called = stack.removeprefix(under)
        if above:
            called = called.rpartition(f";{above};")[2]
        for name in called.strip(";").split(";"):
            at = at.below.setdefault(name, Frame(name))
            at.took += int(weight)
    return whole


def svg(whole: Frame, title: str, *, per: int = 1) -> str:
    """Draw it; times are divided by `per`, the number of runs or tasks that the stacks were taken from."""
    shapes = list(_shapes(whole, _MARGIN, 0, (_WIDTH - 2 * _MARGIN) / (whole.took or 1), (whole, per)))
    height = _HEAD + _ROW * (_depth(whole, whole.took) + 1) + _MARGIN
    style = "text{font:11px monospace;pointer-events:none}rect{stroke:#fff;stroke-width:.5}rect:hover{stroke:#000}"
    head = f'<text x="{_MARGIN}" y="24" style="font-size:15px">{escape(title)}</text>'
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    return f"<svg {box}><style>{style}</style>\n{head}\n" + "\n".join(shapes) + "\n</svg>\n"


def _shapes(frame: Frame, left: float, row: int, scale: float, whole: tuple[Frame, int]) -> Iterable[str]:
    """The frame and, in the row below it, all that it called, the widest first."""
    width = frame.took * scale
    top = _HEAD + row * _ROW
    everything, per = whole
    told = f"{frame.name}: {frame.took / per / 1000:.2f} ms, {100 * frame.took / (everything.took or 1):.1f} %"
    fill = _HUES[zlib.crc32(frame.name.partition(":")[0].encode()) % len(_HUES)]
    place = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_ROW}"'
    yield f'<rect {place} fill="{fill}"><title>{escape(told)}</title></rect>{_label(frame.name, left, top, width)}'
    for child in sorted(frame.below.values(), key=lambda child: -child.took):
        if child.took >= _LEAST * everything.took:
            yield from _shapes(child, left, row + 1, scale, whole)
        left += child.took * scale


def _label(name: str, left: float, top: int, width: float) -> str:
    """As much of a name's end as there is room for: the function says more than its module."""
    room = int((width - 4) / _CHARACTER)
    if room < 3:  # noqa: PLR2004  nothing could be read
        return ""
    text = name if len(name) <= room else f"…{name[1 - room :]}"
    return f'<text x="{left + 2:.1f}" y="{top + 12}">{escape(text)}</text>'


def _depth(frame: Frame, whole: float) -> int:
    return 1 + max((_depth(child, whole) for child in frame.below.values() if child.took >= _LEAST * whole), default=0)
