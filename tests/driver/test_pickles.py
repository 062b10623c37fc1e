"""How tasks, arguments and states become bytes."""

import pickle
from threading import Lock
from typing import Any

import pytest
from prefect.utilities.annotations import allow_failure, opaque, quote, unmapped

from flowgroup.driver.pickles import dumped, dumped_if_small


@pytest.mark.parametrize("kind", [allow_failure, opaque, quote, unmapped])
@pytest.mark.parametrize("value", [1, (1,), [1, 2], None])
def test_annotations_come_back_as_they_were(kind: Any, value: Any) -> None:
    back = pickle.loads(dumped({"nested": [kind(value)]}))["nested"][0]
    assert (type(back), back.unwrap()) == (kind, value)


def test_functions_go_by_value() -> None:
    number = 41
    assert pickle.loads(dumped(lambda: number + 1))() == 42


@pytest.mark.parametrize("value", [None, "a", {"a": [1, 2]}, b"x" * 900])
def test_small_things_are_told(value: Any) -> None:
    assert pickle.loads(dumped_if_small(value, 1000) or b"") == value


@pytest.mark.parametrize("value", [b"x" * 1001, "x" * 100_000_000, [b"x" * 300] * 3 + list(range(10_000)), Lock()])
def test_large_things_and_what_cannot_be_pickled_are_not(value: Any) -> None:
    assert dumped_if_small(value, 1000) is None
