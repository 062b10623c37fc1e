"""What we add to the SBOM that cyclonedx-py makes of a lock, and what we let it not pass over."""

from typing import Any

import pytest

import flowgroup
from flowgroup.dev import sbom
from tests.chart.conftest import ROOT

_LOCK = """\
httpx[http2]==0.28.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
numpy==2.3.0 ; python_full_version < '3.12' \\
    --hash=sha256:cc
"""
_MIT = [{"license": {"acknowledgement": "declared", "id": "MIT"}}]


def _package(name: str, version: str, *hashes: str) -> dict[str, Any]:
    """As cyclonedx-py 7 writes it."""
    return {
        "bom-ref": "requirements-L1",
        "description": f"requirements line 1: {name}=={version} --hash=…",
        "externalReferences": [
            {
                "comment": "implicit dist url",
                "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
                "type": "distribution",
                "url": f"https://example.test/simple/{name}/",
            }
        ],
        "name": name,
        "purl": f"pkg:pypi/{name}@{version}",
        "type": "library",
        "version": version,
    }


def _bom(*packages: dict[str, Any], version: str = flowgroup.__version__) -> sbom.Bom:
    return {"metadata": {"component": {"name": "flowgroup", "version": version}}, "components": list(packages)}


HTTPX, NUMPY = _package("httpx", "0.28.1", "aa", "bb"), _package("numpy", "2.3.0", "cc")


def test_a_bom_that_says_what_the_lock_says_does_not_differ() -> None:
    assert sbom.differing(_bom(HTTPX, NUMPY), _LOCK) == []


@pytest.mark.parametrize(
    ("bom", "wrong"),
    [
        (_bom(HTTPX), ["pkg:pypi/numpy@2.3.0"]),
        (_bom(HTTPX, NUMPY, _package("six", "1.17.0", "dd")), ["pkg:pypi/six@1.17.0"]),
        (_bom(HTTPX, _package("numpy", "2.3.0")), ["pkg:pypi/numpy@2.3.0"]),
        (_bom(_package("httpx", "0.28.1", "aa"), NUMPY), ["pkg:pypi/httpx@0.28.1"]),
        (_bom(HTTPX, _package("numpy", "2.3.1", "cc")), ["pkg:pypi/numpy@2.3.0", "pkg:pypi/numpy@2.3.1"]),
        (_bom(HTTPX, NUMPY, version="0.0.1"), ["flowgroup itself"]),
    ],
    ids=["one too few", "one too many", "no hash", "a hash too few", "another version", "another version of ours"],
)
def test_what_differs_is_named(bom: sbom.Bom, wrong: list[str]) -> None:
    assert sbom.differing(bom, _LOCK) == wrong


def test_a_pin_without_a_hash_is_named() -> None:
    assert sbom.differing(_bom(_package("six", "1.17.0")), "six==1.17.0\n") == ["pkg:pypi/six@1.17.0"]


@pytest.mark.parametrize("lock", sbom.LOCKS.values(), ids=sbom.LOCKS)
def test_each_line_of_a_lock_is_read(lock: str) -> None:
    text = (ROOT / lock).read_text()
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    assert lines
    assert len(sbom.differing(_bom(), text)) == len(lines)


def test_licences_are_those_of_the_same_version() -> None:
    installed = {
        "components": [
            {"name": "HTTPX", "version": "0.28.1", "licenses": _MIT},
            {"name": "ruamel.yaml", "version": "0.19.1", "licenses": _MIT},
            {"name": "numpy", "version": "2.2.0", "licenses": _MIT},
            {"name": "six", "version": "1.17.0"},
        ]
    }
    packages = [HTTPX, _package("ruamel-yaml", "0.19.1", "dd"), NUMPY, _package("six", "1.17.0", "ee")]
    made = sbom.finished(_bom(*packages), sbom.licences_of(installed))
    assert [one.get("licenses") for one in made["components"]] == [_MIT, _MIT, None, None]


def test_the_lock_s_lines_are_not_said_again_and_nothing_else_is_lost() -> None:
    made = sbom.finished(_bom(HTTPX, NUMPY), {})
    assert [one | {"description": "…"} for one in made["components"]] == [
        one | {"description": "…"} for one in (HTTPX, NUMPY)
    ]
    assert not any("description" in one for one in made["components"])
    assert sbom.differing(made, _LOCK) == []
