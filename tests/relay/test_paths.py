import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgroup.relay.paths import BadPath, encoded, segments


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"/", ()),
        (b"/health", ("health",)),
        (b"/logs/", ("logs",)),
        (b"/flows/name/my%20flow", ("flows", "name", "my flow")),
        (b"/flows/name/fl%C3%B6w%20%231%3F", ("flows", "name", "flöw #1?")),
        (b"/a/...", ("a", "...")),
    ],
)
def test_a_plain_path_is_taken_apart(raw: bytes, parts: tuple[str, ...]) -> None:
    assert segments(raw) == parts


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"logs",
        b"//logs",
        b"/logs//",
        b"/flow_runs/../admin/settings",
        b"/flow_runs/%2e%2e/admin",
        b"/flow_runs/%2E./admin",
        b"/flow_runs/.",
        b"/variables/name/a%2fb",
        b"/variables/name/a%5cb",
        b"/variables/name/a\\b",
        b"/variables/name/%252e%252e",
        b"/variables/name/%00",
        b"/variables/name/a%0d%0ab",
        b"/variables/name/%ff",
        b"/" + b"a" * 3000,
    ],
)
def test_a_path_that_could_mean_two_things_is_refused(raw: bytes) -> None:
    with pytest.raises(BadPath):
        segments(raw)


@given(st.binary(max_size=200))
def test_what_is_sent_means_what_was_judged(raw: bytes) -> None:
    try:
        parts = segments(b"/" + raw)
    except BadPath:
        return
    assert segments(encoded(parts, slash_at_end=True).encode()) == parts
    assert ".." not in encoded(parts, slash_at_end=False).split("/")
