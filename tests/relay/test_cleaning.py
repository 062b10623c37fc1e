"""What leaves: storable, no longer than it may be, without secrets, and counted."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowgroup.relay.cleaning import (
    MOST_EVENT_BYTES,
    Masks,
    Sent,
    cleaned_event,
    cleaned_log,
    cleaned_state,
)
from flowgroup.relay.patterns import compiled

SECRET = "hunter22"


def masks(*secrets: str, patterns: tuple[str, ...] = ()) -> Masks:
    made = Masks(compiled(patterns))
    made.add(secrets)
    return made


def log_of(message: str, known: Masks | None = None) -> tuple[str, Sent]:
    sent = Sent()
    return cleaned_log({"message": message, "level": 20}, known or masks(SECRET), sent)["message"], sent


def test_a_clean_record_stays_as_it_is() -> None:
    record = {"message": "\x1b[31mred\x1b[0m ünï", "level": 20, "name": "prefect", "flow_run_id": "x"}
    assert cleaned_log(record, masks(SECRET), Sent()) == record


def test_what_no_server_can_store_is_replaced() -> None:
    message, _ = log_of("a\x00b\ud800c")
    assert message == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert cleaned_log({"message": "", "level": 10**30}, masks(), Sent())["level"] == 2**31 - 1


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (SECRET, f"password={SECRET}!"),
        ('a"b\\c', json.dumps({"x": 'a"b\\c'})),
        ("two\nlines of it", "a line: lines of it"),
        ("two\nlines of it", repr("two\nlines of it")),
        ("p@ss/word", "postgres://u:p%40ss%2Fword@db"),
    ],
)
def test_a_secret_is_masked_in_each_of_its_forms(secret: str, said: str) -> None:
    message, sent = log_of(said, masks(secret))
    assert "********" in message
    assert sent.masked == 1
    assert not [part for part in (secret, "lines of it", "p%40ss") if part in message]


def test_a_secret_within_another_and_very_short_ones() -> None:
    assert log_of("abcdefgh abcd xyz", masks("abcd", "abcdefgh", "xyz"))[0] == "******** ******** xyz"


@pytest.mark.parametrize("before", [24_980, 24_990, 24_999, 25_000, 40_000])
def test_a_secret_across_the_cut_does_not_leave_half(before: int) -> None:
    message, sent = log_of("x" * before + "hunter22-and-a-longer-one" + "y" * 10, masks("hunter22-and-a-longer-one"))
    assert len(message) <= 25_000
    assert "hunt" not in message
    assert sent.cut == (1 if len(message) == 25_000 else 0)


def test_a_line_of_50_mb_is_cut_with_a_mark() -> None:
    message, sent = log_of("x" * 50_000_000)
    assert len(message) == 25_000
    assert message.endswith("… [cut here: 50000000 characters]")
    assert sent.cut == 1


def test_patterns_are_masked_wherever_they_are_in_a_long_line() -> None:
    known = masks(patterns=(r"sk-[a-z0-9]{10,}",))
    for before in (0, 1990, 1999, 2000, 3199, 20_000):
        message, sent = log_of("." * before + "sk-" + "a1" * 20 + "." * 3000, known)
        assert "sk-" not in message
        assert "a1a1" not in message
        assert sent.masked == 1


def test_an_event_is_masked_in_its_texts_and_its_ids_stay() -> None:
    known, sent = masks("11111111", "COMPLETED"), Sent()
    event = {
        "id": "11111111",
        "event": "e",
        "resource": {"prefect.resource.id": "prefect.flow-run.11111111", "prefect.state-message": "is 11111111"},
        "related": [],
        "payload": {
            "task_run": {"id": "11111111", "flow_run_id": "11111111"},
            "state": {"type": "COMPLETED", "message": "COMPLETED"},
        },
    }
    made = cleaned_event(event, known, sent)
    assert made["id"] == made["payload"]["task_run"]["id"] == made["payload"]["task_run"]["flow_run_id"] == "11111111"
    assert made["resource"] == {
        "prefect.resource.id": "prefect.flow-run.11111111",
        "prefect.state-message": "is ********",
    }
    assert made["payload"]["state"] == {"type": "COMPLETED", "message": "********"}
    assert sent.masked == 2


@pytest.mark.parametrize(
    "payload", [{"x": "y" * 20_000_000}, {"x": ["y" * 100] * 100_000}, {"nan": float("nan")}, {"\x00": "\ud800"}]
)
def test_an_event_never_costs_its_batch(payload: Any) -> None:
    made = cleaned_event({"event": "e", "payload": payload}, masks(), Sent())
    text = json.dumps(made, allow_nan=False)
    assert len(text) <= MOST_EVENT_BYTES
    assert "\\u0000" not in text
    assert "\\ud800" not in text


def test_a_state_is_masked_in_its_message_and_its_result_stays() -> None:
    body = {"state": {"type": "FAILED", "message": f"it was {SECRET}", "data": {"value": SECRET}}, "force": False}
    made = cleaned_state(body, masks(SECRET), Sent())
    assert made["state"] == {"type": "FAILED", "message": "it was ********", "data": {"value": SECRET}}


_ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.just(f"-{SECRET}-"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(st.dictionaries(st.sampled_from(["message", "name", "payload", "level", "x"]), _ANY, max_size=5))
def test_whatever_a_record_is_it_can_be_sent_and_says_no_secret(record: dict[str, Any]) -> None:
    for clean in (cleaned_log, cleaned_event, cleaned_state):
        made = clean(record, masks(SECRET), Sent())
        raw = json.dumps(made, allow_nan=False)
        assert "\\u0000" not in raw
        raw.encode("utf-8")
    assert SECRET not in json.dumps(cleaned_event(record, masks(SECRET), Sent()))


def test_nesting_without_end_is_cut_off() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    sent = Sent()
    assert "too deeply" in json.dumps(cleaned_event({"payload": deep}, masks(), sent))
    assert sent.cut == 1
