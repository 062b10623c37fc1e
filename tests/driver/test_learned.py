"""What the desk makes of what runs say that they imported."""

from typing import Any

import pytest

from flowgroup.driver.learned import MAX_NAMES_BYTES, LeftOut, Wish, key_of, names_in


@pytest.mark.parametrize(
    ("note", "names"),
    [
        (["pandas", "pandas.core", "_private", "a1"], ("pandas", "pandas.core", "_private", "a1")),
        (["a b", "a.", ".a", "a..b", "1a", "", "a-b", "ä", "a\n", "x" * 201], ()),
        ([1, None, ["pandas"], {"pandas": 1}, "numpy"], ("numpy",)),
        ("pandas", ()),
        ({"pandas": 1}, ()),
        (None, ()),
    ],
)
def test_only_plain_dotted_names_are_names(note: Any, names: tuple[str, ...]) -> None:
    assert names_in(note) == names


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"A": "1", "B": "2"}, {"B": "2", "A": "1"}, True),
        ({"A": "1"}, {"A": "2"}, False),
        ({"A": "1"}, {}, False),
        ({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "4"}, {}, True),
    ],
)
def test_runs_share_a_template_if_their_modules_would_read_the_same(
    one: dict[str, str], other: dict[str, str], same: bool
) -> None:
    assert (key_of(one) == key_of(other)) is same


def test_what_is_left_out_is_left_out_with_all_below_it() -> None:
    left_out = LeftOut()
    assert left_out.add("google.cloud") == "google.cloud"
    names = ["google", "google.cloud", "google.cloud.storage", "google.cloudy", "google.protobuf"]
    assert [left_out.has(name) for name in names] == [False, True, True, False, False]


def test_the_third_unfit_module_leaves_its_package_out() -> None:
    left_out = LeftOut()
    assert [left_out.add(f"a.{name}") for name in "xyz"] == ["a.x", "a.y", "a"]
    assert left_out.has("a.good")
    assert not left_out.has("ab")


def test_a_template_is_worth_it_for_what_is_new_and_not_pythons_own() -> None:
    wish, left_out = Wish(), LeftOut()
    wish.learn(["json", "xml.dom"])
    assert not wish.is_worth_a_template(left_out)
    wish.learn(["pandas", "json", "pandas.core"])
    assert wish.is_worth_a_template(left_out)
    assert wish.ask(left_out) == ("json", "xml.dom", "pandas", "pandas.core")
    wish.tried = frozenset(wish.ask(left_out))
    wish.learn(["pandas", "csv"])
    assert not wish.is_worth_a_template(left_out)
    wish.learn(["numpy"])
    assert wish.is_worth_a_template(left_out)
    left_out.add("numpy")
    assert not wish.is_worth_a_template(left_out)


def test_a_run_that_names_a_lot_fills_no_memory() -> None:
    wish = Wish()
    wish.learn(f"module{number}" for number in range(1_000_000))
    assert sum(map(len, wish.names)) < MAX_NAMES_BYTES
