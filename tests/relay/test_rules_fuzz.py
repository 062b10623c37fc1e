"""Whatever comes: nothing off the list passes, and nothing raises."""

import json
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowgroup.relay import paths, rules
from flowgroup.relay.rule import Allow, Refuse
from flowgroup.relay.rules import RULES
from tests.relay.test_rules import OTHER, OWN

_FIELDS = [
    "flow_run_id",
    "task_run_id",
    "parent_task_run_id",
    "logs",
    "any_",
    "resource",
    "related",
    "holder",
    "prefect.resource.id",
    "payload",
    "task_run",
    "id",
    "type",
    "event",
    "operator",
]
_PIECES = st.sampled_from(
    [
        *{part for rule in RULES for part in rule.template.strip("/").split("/")},
        *("delete", "bulk_delete", "settings", "workers", "heartbeat", OWN, OTHER, str(uuid.UUID(int=0)), "..", "%2e"),
    ]
)
_METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get", ""])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([OWN, OTHER]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_LISTED = {(rule.method, tuple(rule.template.strip("/").split("/"))) for rule in RULES}


def _is_listed(method: str, parts: tuple[str, ...]) -> bool:
    return any(
        method == listed
        and len(template) == len(parts)
        and all(expected in (part, "{id}", "{name}") for expected, part in zip(template, parts, strict=True))
        for listed, template in _LISTED
    )


@given(_METHODS, st.lists(_PIECES | st.text(max_size=8), max_size=6), _JSON)
def test_nothing_off_the_list_ever_passes_and_nothing_raises(method: str, pieces: list[str], body: Any) -> None:
    try:
        parts = paths.segments(("/" + "/".join(pieces)).encode("utf-8", "surrogatepass"))
    except paths.BadPath:
        return
    got = rules.decide(rules.find(method, parts), parts, body, lambda one: one.id == OWN)
    if not _is_listed(method, parts):
        assert isinstance(got, Refuse)
    if isinstance(got, Allow):
        assert paths.segments(got.path.encode()) == parts


@given(_JSON)
def test_no_body_that_names_another_run_is_simply_allowed(body: Any) -> None:
    text = json.dumps(body)
    got = rules.decide(rules.find("POST", ("logs",)), ("logs",), body, lambda one: one.id == OWN)
    if isinstance(got, Allow) and isinstance(body, list):
        assert all(record.get(name) in (None, OWN) for record in body for name in ("flow_run_id", "task_run_id")), text
