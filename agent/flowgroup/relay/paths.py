"""A request's path, taken apart once: what is judged is what is sent."""

from urllib.parse import quote, unquote_to_bytes

_MOST_BYTES = 2048
_SAFE = ":@!$&'()*+,;=~-._"


class BadPath(ValueError):
    """A path that could mean one thing to us and another to the API."""


def segments(raw: bytes) -> tuple[str, ...]:
    """
    The decoded parts of a path as it came over the wire, without a query: `b"/logs/"` is `("logs",)`.

    Raises BadPath for `.`, `..`, empty parts, encoded slashes, anything encoded twice, and control
    characters.
    """
    if not raw.startswith(b"/") or len(raw) > _MOST_BYTES:
        raise BadPath("the path is too long" if len(raw) > _MOST_BYTES else "the path does not start with /")
    parts = raw[1:].split(b"/")
    if parts[-1] == b"":
        parts.pop()
    return tuple(_decoded(part) for part in parts)


def _decoded(part: bytes) -> str:
    try:
        text = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadPath("the path is not UTF-8") from exc
    if text in ("", ".", ".."):
        raise BadPath("the path has an empty part, . or ..")
    if any(char in "/\\%" or char < " " or char == "\x7f" for char in text):
        raise BadPath("a part of the path has an encoded slash, a backslash, a % or a control character")
    return text


def encoded(parts: tuple[str, ...], *, slash_at_end: bool) -> str:
    """The one way in which we send these parts on."""
    return "/" + "/".join(quote(part, safe=_SAFE) for part in parts) + ("/" if slash_at_end and parts else "")
