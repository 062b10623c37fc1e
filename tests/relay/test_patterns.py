"""The operator's patterns: bad ones are refused by their name, slow ones too."""

import time
from pathlib import Path

import pytest

from flowgroup.errors import Refused
from flowgroup.relay import patterns


@pytest.mark.parametrize(
    "pattern",
    [
        r"sk-[A-Za-z0-9]{20,}",
        r"password=\S+",
        r"(?i)bearer\s+[a-z0-9._-]+",
        r"eyJ[\w-]+\.[\w-]+\.[\w-]+",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]{1,64}",
        r"(\d{1,3}\.){3}\d{1,3}",
        r"(?:key|token)[=:]\s?\w{8,80}",
    ],
)
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert patterns.compiled([pattern])[0].pattern == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        *("(x", "[z-a]", "*", "x{2,1}"),
        *("", "a*", "(a|)", "(?=x)"),
        *("(a+)+$", "(a|aa)+$", "(?:ab?)+c", r"(\d+)\1", "(a{1,50}){1,50}b", "(a{1,50}){1,9}b", "(?:(a+)b)*c"),
        *(".*secret.*", "a.*b.*c.*d", "a.*a.*a.*d", "a.*b.*c.*d.*e.*f", r"\s*\w*\s*="),
    ],
)
def test_bad_patterns_are_refused_by_name_and_soon(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_REDACT") as refused:
        patterns.compiled([r"fine-\d+", pattern])
    assert repr(pattern) in str(refused.value)
    assert time.monotonic() - began < 30


def test_a_file_has_one_a_line_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "patterns"
    file.write_text("# keys\nsk-\\d+\n\npassword=\\S+\n")
    assert [one.pattern for one in patterns.told(["x\\d"], file)] == ["x\\d", "sk-\\d+", "password=\\S+"]
    with pytest.raises(Refused, match="FLOWGROUP_RELAY_REDACT_FILE"):
        patterns.told([], tmp_path / "none")
