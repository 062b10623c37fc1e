"""Code and context that tasks have in common travel once."""

import pytest

from flowgroup.driver.parts import Part, Parts, Shelf, whole


def unanswered(digest: str) -> bytes | None:
    raise AssertionError(f"{digest} was asked for")


def test_a_part_travels_whole_once_and_then_as_its_hash() -> None:
    parts, shelf = Parts(), Shelf()
    first, second = parts.pack(b"code"), parts.pack(b"code")
    assert (first.data, second.data) == (b"code", None)
    assert first.digest == second.digest
    assert shelf.take(first, unanswered) == b"code"
    assert shelf.take(second, unanswered) == b"code"


def test_a_worker_that_lacks_a_part_asks_once() -> None:
    parts, shelf, asked = Parts(), Shelf(), []
    parts.pack(b"code")
    by_hash = parts.pack(b"code")

    def ask(digest: str) -> bytes | None:
        asked.append(digest)
        return parts.get(digest)

    assert [shelf.take(by_hash, ask) for _ in range(3)] == [b"code"] * 3
    assert asked == [by_hash.digest]


def test_what_was_sent_once_is_not_kept() -> None:
    parts = Parts()
    assert parts.get(parts.pack(b"a closure of its own").digest) is None


def test_changed_code_is_another_part() -> None:
    parts = Parts()
    parts.pack(b"before")
    assert parts.pack(b"after").data == b"after"


def test_the_longest_unused_part_goes_first() -> None:
    shelf = Shelf(limit_bytes=10)
    old, used, new = whole(b"12345"), whole(b"abcde"), whole(b"fghij")
    for part in (used, old, used, new):
        shelf.take(part, unanswered)
    assert shelf.take(Part(used.digest, None), unanswered) == b"abcde"
    with pytest.raises(LookupError, match="has ended"):
        shelf.take(Part(old.digest, None), lambda _: None)
