"""Which relay a flow group's clusters speak through: shared out evenly, and the fewest move."""

import uuid
from collections import Counter
from typing import Any

import pytest

from flowgroup.model.ids import FIRST_RELAY, FlowId, RelayName
from flowgroup.model.spec import ClusterSpec, through

_GROUPS = 3000


def spec(number: int = 0, **fields: Any) -> ClusterSpec:
    flow = FlowId(str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))))
    return ClusterSpec(**{"flow_id": flow, "flow_name": "etl", "isolation": "pool", **fields})


def relays(count: int) -> tuple[RelayName, ...]:
    return (FIRST_RELAY, *(RelayName(f"https://fg-relay-{number}.fg.svc:4280") for number in range(1, count)))


def chosen(count: int) -> list[RelayName]:
    return [through(spec(number), relays(count)).relay for number in range(_GROUPS)]


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_groups_are_spread_evenly(count: int) -> None:
    shares = Counter(chosen(count))
    assert set(shares) == set(relays(count))
    fair = _GROUPS / count
    assert all(0.8 * fair < share < 1.2 * fair for share in shares.values()), shares


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_one_relay_more_takes_its_share_and_moves_nobody_else(count: int) -> None:
    before, after = chosen(count), chosen(count + 1)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {relays(count + 1)[-1]}
    assert len(moved) < 1.2 * _GROUPS / (count + 1)


def test_the_order_of_the_relays_does_not_matter() -> None:
    backwards = tuple(reversed(relays(4)))
    assert [through(spec(number), backwards).relay for number in range(_GROUPS)] == chosen(4)


def test_all_generations_of_a_group_are_on_one_relay_and_another_group_of_the_flow_may_not_be() -> None:
    for number in range(20):
        assert through(spec(number, workers=4, image="i"), relays(5)).relay == through(spec(number), relays(5)).relay
    assert len({through(spec(isolation=str(number)), relays(5)).relay for number in range(50)}) == 5


def test_a_relay_that_is_alone_changes_no_name_and_no_spec() -> None:
    alone = through(spec(), relays(1))
    assert alone == spec()
    assert alone.name == "etl-a6bd19319891"  # as before there were several
    assert "relay" not in alone.model_dump(mode="json")


def test_a_group_on_another_relay_has_another_cluster_and_its_spec_says_through_which() -> None:
    moved = next(one for number in range(50) if (one := through(spec(number), relays(2))).relay)
    assert moved.name != moved.model_copy(update={"relay": FIRST_RELAY}).name
    assert ClusterSpec.model_validate_json(moved.model_dump_json()) == moved
