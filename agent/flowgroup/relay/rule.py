"""A list of calls that may pass, and what is decided of a call by one. Pure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flowgroup.relay import named
from flowgroup.relay.named import Call, Malformed, Names
from flowgroup.relay.paths import encoded
from flowgroup.relay.tokens import Kind, Named


@dataclass(frozen=True, slots=True)
class Allow:
    """
    It may pass, to `path`. `route` is its template, for metrics and logs; `makes`: what its answer's `id` is;
    `reads`: it changes nothing, so that it may be given up and sent again; `blocks`: its answer has blocks in it;
    `state`: its body is a state.
    """

    route: str
    path: str
    makes: Kind | None = None
    reads: bool = False
    blocks: bool = False

    @property
    def state(self) -> bool:
        return self.route.endswith("/set_state")


@dataclass(frozen=True, slots=True)
class Refuse:
    """It may not. The reason is for the flow's author."""

    reason: str


@dataclass(frozen=True, slots=True)
class NeedsOwner:
    """It may pass if all of these belong to the caller, which is not known here."""

    named: tuple[Named, ...]
    allow: Allow


Ruling = Allow | Refuse | NeedsOwner


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of call that may pass."""

    method: str
    template: str
    names: Names = named.nothing
    makes: Kind | None = None
    reads_body: bool = False
    reads: bool = False
    blocks: bool = False


class Found(NamedTuple):
    """The rule for a call, and what stands in its path for `{id}` and `{name}`."""

    rule: Rule
    ids: tuple[str, ...]
    texts: tuple[str, ...]


class Rules:
    """A list, by method, first part and length of the path."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._index: dict[tuple[str, tuple[str, ...], int], list[tuple[Rule, tuple[str, ...]]]] = {}
        for rule in self.rules:
            template = tuple(rule.template.strip("/").split("/"))
            self._index.setdefault((rule.method, template[:1], len(template)), []).append((rule, template))

    def find(self, method: str, parts: tuple[str, ...]) -> Found | None:
        """The rule for this call, if there is one."""
        for rule, template in self._index.get((method, parts[:1], len(parts)), ()):
            matched = _matched(template, parts)
            if matched is not None:
                return Found(rule, *matched)
        return None


def reading(*templates: str, names: Names = named.nothing, blocks: bool = False) -> Iterator[Rule]:
    """`GET /x` or `POST /x/filter`: what changes nothing."""
    for template in templates:
        method, path = template.split()
        yield Rule(method, path, names, reads=True, blocks=blocks)


def with_body(
    method: str, template: str, names: Names = named.nothing, *, makes: Kind | None = None, reads: bool = False
) -> Rule:
    """A call whose body is judged."""
    return Rule(method, template, names, makes, reads_body=True, reads=reads)


def decided(found: Found, parts: tuple[str, ...], body: object, covers: Callable[[Named], bool]) -> Ruling:
    """The ruling on a call. `body` is its JSON where the rule reads it."""
    rule = found.rule
    path = encoded(parts, slash_at_end=rule.template.endswith("/"))
    allow = Allow(rule.template, path, rule.makes, rule.reads, rule.blocks)
    try:
        unknown = {one: None for one in rule.names(Call(found.ids, body, found.texts)) if not covers(one)}
    except Malformed as exc:
        return Refuse(str(exc))
    return NeedsOwner(tuple(unknown), allow) if unknown else allow


def _matched(template: tuple[str, ...], parts: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    ids: list[str] = []
    texts: list[str] = []
    for expected, part in zip(template, parts, strict=True):
        if expected == "{id}":
            try:
                ids.append(named.uuid_of(part))
            except Malformed:
                return None
        elif expected == "{name}":
            texts.append(part)
        elif expected != part:
            return None
    return tuple(ids), tuple(texts)
