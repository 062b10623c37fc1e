"""The images' locks are parts of the whole one: the same versions, the same hashes."""

import re

import pytest

from tests.chart.conftest import ROOT

_PIN = re.compile(r"^(?P<name>[a-z0-9._-]+)(?:\[[^]]*\])?==(?P<rest>.+?)(?=^[a-z]|\Z)", re.MULTILINE | re.DOTALL)


def _pins(path: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and hashes by name; markers left out, for a part may need a package on fewer systems."""
    text = (ROOT / path).read_text()
    found = _PIN.finditer(text)
    return {
        pin["name"]: (re.split(r"[\s;]", pin["rest"], maxsplit=1)[0], frozenset(re.findall(r"sha256:\w+", pin["rest"])))
        for pin in found
    }


@pytest.mark.parametrize("part", ["agent", "runtime", "build", "operator"])
def test_a_part_has_nothing_that_the_whole_has_not(part: str) -> None:
    whole, pins = _pins("requirements.lock"), _pins(f"requirements/{part}.lock")
    assert pins
    assert {name: pin for name, pin in pins.items() if whole.get(name) != pin} == {}, "stale: run `make lock`"
    assert [name for name, (_, hashes) in pins.items() if not hashes] == []


def test_the_agent_has_neither_prefect_nor_dask_nor_what_unpickles() -> None:
    assert not {"prefect", "dask", "distributed", "cloudpickle", "prefect-dask", "numpy"} & set(
        _pins("requirements/agent.lock")
    )


def test_the_runtime_has_them() -> None:
    assert {"prefect", "dask", "distributed", "cloudpickle", "prefect-dask"} <= set(_pins("requirements/runtime.lock"))


@pytest.mark.parametrize("part", ["agent", "runtime", "build", "operator", "peer", "audit", "docs"])
def test_no_lock_names_a_registry(part: str) -> None:
    text = (ROOT / f"requirements/{part}.lock").read_text()
    assert "://" not in text
    assert "index" not in re.sub(r"^[a-z0-9._-]+==", "", text, flags=re.MULTILINE)
