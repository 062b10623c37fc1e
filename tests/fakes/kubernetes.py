"""
A small Kubernetes API with an operator and a garbage collector in it, behind an httpx transport.

It keeps objects, hands out uids, knows labels, owners, finalizers and preconditions. `fail` makes the next calls of a verb on a
kind go wrong; `seen` has every call. Pods stay in the phase that a test gives them.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

Json = dict[str, Any]
Key = tuple[str, str]
KOPF = "kopf.zalando.org/KopfFinalizerMarker"
_PATH = re.compile(
    r"^/(?:api|apis/[^/]+)/v1/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?$"
)
_IN = re.compile(r"^(\S+) in \(([^)]*)\)$")


@dataclass
class FakeKubernetes:
    """`operator`: whether the Dask operator is up. `now` is the server's clock, as text for its Date header."""

    operator: bool = True
    objects: dict[Key, Json] = field(default_factory=dict)
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    fail: dict[tuple[str, str], list[httpx.Response | Exception]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    now: str = "Wed, 25 Nov 2026 04:00:00 GMT"
    made: str = "2026-11-25T04:00:00Z"
    before: Callable[[str, str, str], None] = lambda *_: None
    _uids: int = 0

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def names(self, plural: str) -> list[str]:
        return sorted(name for kind, name in self.objects if kind == plural)

    def calls(self, verb: str, plural: str) -> int:
        return sum((verb, plural) == call[:2] for call in self.seen)

    def set_status(self, pod: str, **status: Any) -> None:
        self.objects["pods", pod]["status"] = status

    def forbid(self, verb: str, plural: str) -> None:
        """The next such call meets a Role without that right, in the API server's own words."""
        said = (
            f'{plural} is forbidden: User "system:serviceaccount:a:b" cannot {verb} resource "{plural}" in API group "" in '
            'the namespace "jobs"'
        )
        self.fail.setdefault((verb, plural), []).append(status(403, said))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        url = urlsplit(str(request.url))
        place = _PATH.match(url.path)
        assert place, url.path
        plural, name = place["plural"], place["name"] or ""
        verbs = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
        verb = verbs.get(request.method) or ("get" if name else "list")
        self.before(verb, plural, name)
        self.seen.append((verb, plural, name))
        if waiting := self.fail.get((verb, plural)):
            trouble = waiting.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        if place["log"]:
            return httpx.Response(200, text=self.logs[name]) if name in self.logs else status(400, "no log")
        body = json.loads(request.content) if request.content else {}
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        answer: httpx.Response = getattr(self, f"_{verb}")(plural, name, body, query)
        answer.headers["date"] = self.now
        return answer

    def _create(self, plural: str, _: str, body: Json, __: Json) -> httpx.Response:
        name = body["metadata"]["name"]
        if (plural, name) in self.objects:
            return status(409, f'{plural} "{name}" already exists', reason="AlreadyExists")
        self.put(plural, body)
        if plural == "daskclusters" and self.operator:
            self.act_on(name)
        return httpx.Response(201, json=self.objects[plural, name])

    def put(self, plural: str, body: Json) -> None:
        self._uids += 1
        made = {"uid": f"uid-{self._uids}", "creationTimestamp": self.made, "resourceVersion": str(self._uids)}
        whole = json.loads(json.dumps(body))
        whole["metadata"] = {**whole["metadata"], **made}
        if plural == "pods":
            whole.setdefault("status", {"phase": "Running"})
        self.objects[plural, whole["metadata"]["name"]] = whole

    def act_on(self, cluster: str) -> None:
        """What the operator does with a new DaskCluster."""
        owner = self.objects["daskclusters", cluster]
        owner["metadata"].setdefault("finalizers", []).append(KOPF)
        labels = owner["metadata"]["labels"]
        of = [{"kind": "DaskCluster", "name": cluster, "uid": owner["metadata"]["uid"], "blockOwnerDeletion": True}]
        metadata = {"name": f"{cluster}-scheduler", "labels": labels, "ownerReferences": of}
        for plural in ("deployments", "services"):
            self.put(plural, {"metadata": metadata})
        self.put("pods", {"metadata": {**metadata, "labels": {**labels, "flowgroup.dev/role": "scheduler"}}})

    def _get(self, plural: str, name: str, *_: Any) -> httpx.Response:
        found = self.objects.get((plural, name))
        return httpx.Response(200, json=found) if found else status(404, f'{plural} "{name}" not found', name=name)

    def _list(self, plural: str, _: str, __: Json, query: Json) -> httpx.Response:
        fits = [
            value
            for (kind, _), value in sorted(self.objects.items())
            if kind == plural
            and _fits(value["metadata"].get("labels") or {}, query.get("labelSelector", ""))
            and query.get("fieldSelector", "")
            in ("", f"involvedObject.uid={value.get('involvedObject', {}).get('uid')}")
        ]
        start = int(query.get("continue", "0"))
        end = start + int(query.get("limit", "500"))
        more = {"continue": str(end)} if end < len(fits) else {}
        return httpx.Response(200, json={"metadata": more, "items": fits[start:end]})

    def _delete(self, plural: str, name: str, body: Json, _: Json) -> httpx.Response:
        found = self.objects.get((plural, name))
        if not found:
            return status(404, f'{plural} "{name}" not found', name=name)
        wanted = body.get("preconditions") or {}
        if any(found["metadata"][name] != value for name, value in wanted.items()):
            return status(409, "the precondition does not match", reason="Conflict")
        if found["metadata"].get("finalizers") and self.operator:
            found["metadata"]["finalizers"].remove(KOPF)
        if found["metadata"].get("finalizers"):
            found["metadata"]["deletionTimestamp"] = self.made
            if body.get("propagationPolicy") == "Foreground":
                self._collect(found["metadata"]["uid"], only_blocking=True)
        else:
            self._gone(plural, name)
        return httpx.Response(200, json={})

    def _patch(self, plural: str, name: str, body: Json, _: Json) -> httpx.Response:
        found = self.objects.get((plural, name))
        if not found:
            return status(404, f'{plural} "{name}" not found', name=name)
        metadata, changed = found["metadata"], body.get("metadata") or {}
        if changed.get("resourceVersion") not in (None, metadata["resourceVersion"]):
            return status(409, "the object has been modified", reason="Conflict")
        _merge(found, body)
        self._uids += 1
        metadata["resourceVersion"] = str(self._uids)
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self._gone(plural, name)
        return httpx.Response(200, json=found)

    def _update(self, plural: str, name: str, body: Json, _: Json) -> httpx.Response:
        found = self.objects.get((plural, name))
        if not found:
            return status(404, f'{plural} "{name}" not found', name=name)
        if body["metadata"].get("resourceVersion") not in (None, found["metadata"]["resourceVersion"]):
            return status(409, "the object has been modified", reason="Conflict")
        self._uids += 1
        kept = {**found["metadata"], "resourceVersion": str(self._uids)}
        self.objects[plural, name] = {**body, "metadata": kept}
        return httpx.Response(200, json=self.objects[plural, name])

    def _gone(self, plural: str, name: str) -> None:
        gone = self.objects.pop((plural, name))
        self._collect(gone["metadata"]["uid"], only_blocking=False)

    def _collect(self, uid: str, *, only_blocking: bool) -> None:
        for (plural, name), value in list(self.objects.items()):
            for owner in value["metadata"].get("ownerReferences") or ():
                if owner["uid"] == uid and (owner.get("blockOwnerDeletion") or not only_blocking):
                    self._gone(plural, name)


@dataclass
class Way(httpx.AsyncBaseTransport):
    """One daemon's way to the API: `cut`, nothing gets through; `deaf`, what it writes is done and the answers are lost."""

    kubernetes: FakeKubernetes
    is_cut: bool = False
    is_deaf: bool = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_cut:
            raise httpx.ConnectError("no route to host")
        answer = await self.kubernetes.transport.handle_async_request(request)
        if self.is_deaf and request.method != "GET":
            raise httpx.ReadError("the connection broke before the answer came")
        return answer


def status(
    code: int, message: str, *, reason: str = "", name: str = "", fields: tuple[str, ...] = ()
) -> httpx.Response:
    """A failure as the API says it."""
    details: Json = {"name": name} if name else {}
    if fields:
        details["causes"] = [{"field": entry} for entry in fields]
    body = {
        "kind": "Status",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": details,
        "code": code,
    }
    return httpx.Response(code, json=body)


def _merge(into: Json, patch: Json) -> None:
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _fits(labels: Json, selector: str) -> bool:
    terms = re.split(r",(?![^(]*\))", selector) if selector else []
    for term in terms:
        if among := _IN.match(term):
            if labels.get(among[1]) not in among[2].split(","):
                return False
        else:
            key, is_said, value = term.partition("=")
            if labels.get(key) != value if is_said else key not in labels:
                return False
    return True
