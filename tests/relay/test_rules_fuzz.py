"""Whatever comes: nothing off the list passes, and nothing raises."""

import json
import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowgroup.relay import paths, rules
from flowgroup.relay.rule import Allow, Refuse, Rule
from flowgroup.relay.rules import PROFILES, RULES
from tests.relay.test_rules import OTHER, OWN

_FIELDS = [
    "flow_run_id",
    "task_run_id",
    "parent_task_run_id",
    "flow_runs",
    "task_runs",
    "artifacts",
    "deployment_id",
    "job_variables",
    "name",
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
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([OWN, OTHER, "or_", "and_"]),
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
_LISTED = {
    name: {(rule.method, tuple(rule.template.strip("/").split("/"))) for rule in profile.rules}
    for name, profile in PROFILES.items()
}


def _is_listed(profile: str, method: str, parts: tuple[str, ...]) -> bool:
    return any(
        method == listed
        and len(template) == len(parts)
        and all(expected in (part, "{id}", "{name}") for expected, part in zip(template, parts, strict=True))
        for listed, template in _LISTED[profile]
    )


@given(st.sampled_from(sorted(PROFILES)), _METHODS, st.lists(_PIECES | st.text(max_size=8), max_size=6), _JSON)
def test_nothing_off_the_list_ever_passes_and_nothing_raises(
    profile: str, method: str, pieces: list[str], body: Any
) -> None:
    try:
        parts = paths.segments(("/" + "/".join(pieces)).encode("utf-8", "surrogatepass"))
    except paths.BadPath:
        return
    got = rules.decide(rules.find(method, parts, profile), parts, body, lambda one: one.id == OWN)
    if not _is_listed(profile, method, parts):
        assert isinstance(got, Refuse)
    if isinstance(got, Allow):
        assert paths.segments(got.path.encode()) == parts


@given(_JSON)
def test_no_body_that_names_another_run_is_simply_allowed(body: Any) -> None:
    text = json.dumps(body)
    got = rules.decide(rules.find("POST", ("logs",)), ("logs",), body, lambda one: one.id == OWN)
    if isinstance(got, Allow) and isinstance(body, list):
        assert all(record.get(name) in (None, OWN) for record in body for name in ("flow_run_id", "task_run_id")), text


# In the profile `strict` another's id passes nowhere but where it says nothing of a run: these are about flows, and slots in a
# lease whose id is itself the proof.
_OPEN = (
    "/flows/{id}",
    "/block_types/{id}",
    "/block_schemas/{id}",
    "/block_documents/{id}",
    "/v2/concurrency_limits/leases/{id}/renew",
)


@given(st.sampled_from(PROFILES["strict"].rules), _JSON)
def test_strict_never_simply_allows_anothers_id_in_a_path(rule: Rule, body: Any) -> None:
    if "{id}" not in rule.template or rule.template in _OPEN:
        return
    parts = tuple(
        OTHER if part == "{id}" else "x" if part == "{name}" else part for part in rule.template.strip("/").split("/")
    )
    got = rules.decide(rules.find(rule.method, parts, "strict"), parts, body, lambda one: one.id == OWN)
    assert not isinstance(got, Allow)


@given(
    st.sampled_from(
        [rule for rule in PROFILES["strict"].rules if rule.template.endswith(("/filter", "/count", "/paginate"))]
    ),
    _JSON,
)
def test_a_strict_filter_names_own_ids_or_is_refused(rule: Rule, body: Any) -> None:
    if rule.template.startswith(("/block_", "/flow_runs/{id}")):
        return
    parts = tuple(rule.template.strip("/").split("/"))
    if isinstance(
        rules.decide(rules.find(rule.method, parts, "strict"), parts, body, lambda one: one.id == OWN), Allow
    ):
        assert OWN in json.dumps(body)
        assert '"or_"' not in json.dumps(body.get(parts[0]))
