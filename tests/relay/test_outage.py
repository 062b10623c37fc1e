import pytest

from flowgroup.relay.outage import Backoff, Patience, Verdict, judge


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b"{}", Verdict.PASS),
        (404, b"{}", Verdict.PASS),
        (409, b"{}", Verdict.PASS),
        (422, b"{}", Verdict.PASS),
        (423, b"{}", Verdict.PASS),
        (403, b'{"detail":"Invalid CSRF token or client identifier."}', Verdict.PASS),
        (403, b"{}", Verdict.DOUBTFUL),
        (403, None, Verdict.DOUBTFUL),
        (500, b"{}", Verdict.DOUBTFUL),
        (401, b"{}", Verdict.WAIT),
        (408, b"{}", Verdict.WAIT),
        (429, b"{}", Verdict.WAIT),
        (502, b"{}", Verdict.WAIT),
        (503, b"{}", Verdict.WAIT),
        (504, b"{}", Verdict.WAIT),
        (522, b"{}", Verdict.WAIT),
    ],
)
def test_what_a_status_means(status: int, body: bytes | None, verdict: Verdict) -> None:
    assert judge(status, body) is verdict


def test_patience_ends_after_enough_failures_in_a_row() -> None:
    patience = Patience(tries=3)
    assert [patience.is_over("a", "POST", "/x") for _ in range(3)] == [False, False, True]
    assert not patience.is_over("a", "POST", "/y")
    patience.worked("a", "POST", "/x")
    assert not patience.is_over("a", "POST", "/x")


def test_patience_forgets_the_oldest() -> None:
    patience = Patience(tries=2, most=1)
    patience.is_over("a")
    patience.is_over("b")
    assert not patience.is_over("a")


def test_the_longer_the_api_is_away_the_later_children_come_back_and_never_together() -> None:
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    assert all(1 <= backoff.again_s(None) <= 3 for _ in range(100))
    now[0] = 180.0
    later = [backoff.again_s(None) for _ in range(1000)]
    assert 1 <= min(later) < 4 and 12 < max(later) <= 15
    assert backoff.again_s(40.0) == 40.0
    backoff.is_over()
    assert all(1 <= backoff.again_s(None) <= 3 for _ in range(100))
