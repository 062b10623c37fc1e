"""How long clusters took lately."""

from flowgroup.daemon.boots import Boots
from flowgroup.model.ids import FlowId
from flowgroup.model.spec import ClusterSpec


def spec(workers: int) -> ClusterSpec:
    return ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool", workers=workers)


def test_small_clusters_say_nothing_of_large_ones_and_large_ones_much_of_small_ones() -> None:
    boots = Boots()
    assert boots.slowest_s(spec(0)) is None
    boots.note(spec(0), 4.0)
    assert (boots.slowest_s(spec(0)), boots.slowest_s(spec(2))) == (4.0, None)
    boots.note(spec(3), 20.0)
    assert [boots.slowest_s(spec(workers)) for workers in (0, 2, 3, 4)] == [20.0, 20.0, 20.0, None]


def test_only_the_last_few_count() -> None:
    boots = Boots()
    boots.note(spec(1), 100.0)
    for _ in range(5):
        boots.note(spec(1), 3.0)
    assert boots.slowest_s(spec(1)) == 3.0
