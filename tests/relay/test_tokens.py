from dataclasses import replace

import pytest

from flowgroup.model.ids import AttemptId, RunId
from flowgroup.model.proofs import new_token
from flowgroup.relay.tokens import Attempts, Kind, Named, OpenAttempt, Opening
from tests.relay.serving import sha256

_RUN = RunId("11111111-1111-1111-1111-111111111111")


def _opening(attempt: str, token: str, *, run: str = _RUN, ttl_s: float = 10.0) -> Opening:
    return Opening(AttemptId(attempt), RunId(run), sha256(token), None, ttl_s)


def _found(attempts: Attempts, token: str) -> OpenAttempt:
    found = attempts.find(token)
    assert found is not None
    return found


def test_before_the_daemon_spoke_nothing_is_known() -> None:
    attempts = Attempts()
    assert not attempts.known
    attempts.level([], 0.0)
    assert attempts.known


def test_a_token_is_good_while_its_attempt_is_open() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "secret"), 0.0)
    assert _found(attempts, "secret").id == "a"
    assert attempts.find("Secret") is None
    assert attempts.find("") is None
    assert attempts.find("\ud800") is None
    assert attempts.close(AttemptId("a"))
    assert attempts.find("secret") is None
    assert not attempts.close(AttemptId("a"))


def test_the_token_is_not_kept() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "secret"), 0.0)
    assert "secret" not in repr(_found(attempts, "secret"))


def test_a_level_closes_what_it_does_not_name_and_keeps_what_the_rest_own() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "one"), 0.0)
    attempts.open(_opening("b", "two"), 0.0)
    _found(attempts, "two").belongings.add(Kind.FLOW_RUN, "sub")
    attempts.level([_opening("b", "two"), _opening("c", "three")], 1.0)
    assert attempts.find("one") is None
    assert _found(attempts, "two").belongings.has(Kind.FLOW_RUN, "sub")
    assert len(attempts) == 2


def test_a_new_token_for_an_attempt_ends_the_old_one() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "old"), 0.0)
    before = _found(attempts, "old")
    attempts.open(_opening("a", "new"), 1.0)
    assert attempts.find("old") is None
    assert not attempts.is_open(before)
    assert attempts.is_open(_found(attempts, "new"))


def test_what_the_daemon_does_not_extend_runs_out_when_it_speaks_next() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "one", ttl_s=10.0), 0.0)
    attempts.open(_opening("b", "two", ttl_s=100.0), 0.0)
    attempts.open(_opening("b", "two", ttl_s=100.0), 9.0)
    assert attempts.find("one") is not None
    attempts.open(_opening("b", "two", ttl_s=100.0), 11.0)
    assert attempts.find("one") is None
    assert attempts.find("two") is not None


def test_while_the_daemon_is_away_nothing_runs_out() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "one", ttl_s=10.0), 0.0)
    attempts.level([_opening("a", "one", ttl_s=10.0)], 100_000.0)  # it is back, and says that the attempt is open
    assert attempts.find("one") is not None


def test_a_claimed_task_run_is_enough_to_speak_of_it_and_not_to_act_on_it() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "one"), 0.0)
    own = _found(attempts, "one").belongings
    own.claim("task")
    assert own.cover(Named(Kind.TASK_RUN, "task", may_be_new=True))
    assert not own.cover(Named(Kind.TASK_RUN, "task"))
    assert not own.cover(Named(Kind.FLOW_RUN, "task", may_be_new=False))


def test_what_another_attempt_claimed_is_anothers() -> None:
    attempts = Attempts()
    attempts.open(_opening("a", "one"), 0.0)
    attempts.open(_opening("b", "two"), 0.0)
    a, b = _found(attempts, "one"), _found(attempts, "two")
    a.belongings.claim("task")
    assert attempts.is_anothers(b, "task")
    assert not attempts.is_anothers(a, "task")


def test_each_daemons_level_is_about_its_own_attempts() -> None:
    attempts = Attempts()
    a, b = (replace(_opening(name, f"{name}.token"), daemon=name) for name in ("a", "b"))
    attempts.level([a], 0.0, "a")
    attempts.level([b], 0.0, "b")
    attempts.level([a], 5.0, "a")
    attempts.level([a], 1000.0, "a")
    assert {_found(attempts, f"{name}.token").id for name in ("a", "b")} == {"a", "b"}
    attempts.level([], 1001.0, "b")
    assert attempts.find("b.token") is None
    assert attempts.find("a.token") is not None


def test_a_token_of_a_daemon_that_has_said_nothing_yet_may_be_open() -> None:
    attempts = Attempts("key")
    a, b = new_token("a", "key"), new_token("b", "key")
    assert attempts.may_be_open("anything")
    attempts.level([], 0.0, "a")
    assert attempts.may_be_open(b)
    assert not attempts.may_be_open(a)
    attempts.level([], 0.0, "b")
    assert not attempts.may_be_open(b)


@pytest.mark.parametrize("forged", ["b.token", "token", "", "..", "b.token.", "b.\ud800.\ud800"])
def test_a_token_that_no_daemon_made_is_not_waited_for(forged: str) -> None:
    attempts = Attempts("key")
    attempts.level([], 0.0, "a")
    assert not attempts.may_be_open(forged)
    assert not attempts.may_be_open(new_token("b", "other key"))


def test_a_token_of_a_late_daemon_that_was_changed_is_not_waited_for() -> None:
    attempts, token = Attempts("key"), new_token("b", "key")
    attempts.level([], 0.0, "a")
    assert not attempts.may_be_open(token[:-1] + ("0" if token[-1] != "0" else "1"))
    assert not attempts.may_be_open("c" + token[1:])


def test_to_close_one_attempt_says_nothing_of_the_others() -> None:
    attempts = Attempts()
    attempts.close(AttemptId("a"))
    assert not attempts.known
