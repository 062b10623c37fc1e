"""Which clusters coming runs use again, and how much there is at most."""

from datetime import UTC, datetime, timedelta

from flowgroup.model.ids import FlowId, RunId
from flowgroup.model.spec import ClusterSpec
from flowgroup.operate.forecast import Coming, forecast, peak

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def spec(flow: str = "etl", **fields: object) -> ClusterSpec:
    return ClusterSpec.model_validate({"flow_id": FlowId(flow), "flow_name": flow, "isolation": "pool", **fields})


def run(name: str, in_s: float, of: ClusterSpec, *, lasts_s: float = 60, idle_s: float = 300) -> Coming:
    return Coming(RunId(name), name, "flow/d", NOW + timedelta(seconds=in_s), of, lasts_s, idle_s)


def test_a_run_within_the_idle_time_uses_the_cluster_again_and_a_later_one_gets_a_new_one() -> None:
    runs = [run("c", 2000, spec()), run("a", 100, spec()), run("b", 400, spec())]
    seen = forecast(runs, {}, NOW, lead_s=60)
    assert seen.how == {"a": "prewarmed", "b": "reused", "c": "prewarmed"}
    assert [(stay.begin - NOW).total_seconds() for stay in seen.stays] == [40, 1940]
    assert [(stay.end - NOW).total_seconds() for stay in seen.stays] == [760, 2360]


def test_without_prewarming_and_for_a_run_that_is_due_a_cluster_is_made_when_the_run_comes() -> None:
    assert forecast([run("a", 100, spec())], {}, NOW, lead_s=0).how == {"a": "made"}
    assert forecast([run("a", -5, spec())], {}, NOW, lead_s=60).how == {"a": "made"}


def test_a_cluster_that_exists_is_used_again_until_it_would_go() -> None:
    there = {spec().name: (spec(), NOW + timedelta(seconds=120))}
    assert forecast([run("a", 100, spec())], there, NOW, lead_s=0).how == {"a": "reused"}
    assert forecast([run("a", 500, spec())], there, NOW, lead_s=60).how == {"a": "prewarmed"}
    assert len(forecast([], there, NOW, lead_s=0).stays) == 1


def test_the_peak_is_of_what_is_there_at_once() -> None:
    many, few = spec("a", workers=10), spec("b", workers=1)
    runs = [run("a", 100, many), run("b", 200, few), run("c", 5000, few)]
    seen = forecast(runs, {}, NOW, lead_s=0)
    amounts = [2 + stay.spec.workers for stay in seen.stays]
    assert peak(seen.stays, amounts).most == 12 + 3
    assert peak(seen.stays, amounts).at == NOW + timedelta(seconds=200)
    assert peak([], []).most == 0


def test_one_cluster_that_goes_as_another_comes_is_not_two_at_once() -> None:
    a, b = spec("a"), spec("b")
    seen = forecast([run("a", 0, a, lasts_s=50, idle_s=50), run("b", 100, b)], {}, NOW, lead_s=0)
    assert peak(seen.stays, [1, 1]).most == 1
