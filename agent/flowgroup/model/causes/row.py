"""What a cause is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """`told_by`: what it is known by. `words` and `remedy` go into messages, with facts in braces."""

    code: str
    told_by: str
    words: str
    remedy: str
