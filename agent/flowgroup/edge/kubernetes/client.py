"""
Calls to Kubernetes' API: one call, its answer as JSON or one of our errors. No retries here: who owns the loop tries again.

httpx and no client library: the daemon has httpx anyway, and `kubernetes.aio` alone would take it from 66 to 87 MB.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Generic, TypeVar

import httpx
from pydantic_core import from_json

from flowgroup.edge.fence import Fence
from flowgroup.edge.kubernetes.access import Access
from flowgroup.edge.kubernetes.rules import refused
from flowgroup.errors import NoRoom, Permanent, Transient
from flowgroup.metrics import KUBERNETES_REQUESTS, KUBERNETES_SECONDS, code_class
from flowgroup.model.causes import code_of, said
from flowgroup.model.parts import Json, mapping, mappings

_TIMEOUT_S = 30.0
_CONNECTIONS = 16  # all are kept: to shake hands is dearer than a call, and so is to look after many that rest
_PAGE = 500
_AGAIN = frozenset({408, 425, 429})
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_MERGE = "application/merge-patch+json"
_RIGHT_MISSING = re.compile(r'cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"(?: in API group "(?P<group>[^"]*)")?')

T = TypeVar("T")


class NotThere(Permanent):
    """The object is not there, or not any more."""


class Exists(Permanent):
    """There is an object of that name already, or the one that was changed has changed meanwhile."""


class Forbidden(Permanent):
    """The daemon's Role lacks a right."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object by its place in the API: `base` is `api/v1` or `apis/<group>/<version>`."""

    base: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        """`name` may have a part of the object behind it: `pod/log`."""
        return f"/{self.base}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


PODS = Kind("api/v1", "pods")
SECRETS = Kind("api/v1", "secrets")
EVENTS = Kind("api/v1", "events")
SERVICES = Kind("api/v1", "services")
CONFIG_MAPS = Kind("api/v1", "configmaps")
DEPLOYMENTS = Kind("apis/apps/v1", "deployments")
NETWORK_POLICIES = Kind("apis/networking.k8s.io/v1", "networkpolicies")
LEASES = Kind("apis/coordination.k8s.io/v1", "leases")
DASK_CLUSTERS = Kind("apis/kubernetes.dask.org/v1", "daskclusters")
DASK_WORKER_GROUPS = Kind("apis/kubernetes.dask.org/v1", "daskworkergroups")

KINDS = {
    "Pod": PODS,
    "Secret": SECRETS,
    "ConfigMap": CONFIG_MAPS,
    "NetworkPolicy": NETWORK_POLICIES,
    "DaskCluster": DASK_CLUSTERS,
    "DaskWorkerGroup": DASK_WORKER_GROUPS,
}
"""By the name that stands in a manifest's `kind`."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """All objects that a list found. `at` is when the API server answered, by its own clock: seconds since 1970."""

    items: tuple[T, ...]
    at: float


class Client:
    """
    One namespace of one API. Every call may raise Transient or Permanent; `aclose` ends its connections.

    `fence` is asked before each call; `transport` takes the place of the network in tests.
    """

    def __init__(
        self,
        access: Access,
        namespace: str = "",
        *,
        fence: Fence | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.namespace = namespace or access.namespace
        self._access = access
        self._http = httpx.AsyncClient(
            base_url=access.url,
            verify=access.tls,
            timeout=_TIMEOUT_S,
            limits=httpx.Limits(max_connections=_CONNECTIONS, keepalive_expiry=60.0),
            event_hooks={"request": [(fence or Fence()).before]},
            transport=transport,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def create(self, kind: Kind, manifest: Json) -> Json:
        """The object as it was made. Raises Exists when there is one."""
        answer = await self._call("POST", kind, body=manifest)
        return _object(answer)

    async def get(self, kind: Kind, name: str) -> Json:
        """Raises NotThere."""
        return _object(await self._call("GET", kind, name))

    async def listed(self, kind: Kind, labels: str, *, metadata_only: bool = False) -> Listed[Json]:
        """Every object whose labels fit the selector, each with its name; with `metadata_only` nothing but their metadata."""
        return await self.each(kind, labels, _as_it_is, metadata_only=metadata_only)

    async def each(
        self, kind: Kind, labels: str, take: Callable[[Json], T], *, metadata_only: bool = False
    ) -> Listed[T]:
        """As `listed`, but what `take` makes of each: of many only a page is in memory at a time as Kubernetes gives them."""
        headers = {"Accept": _METADATA_ONLY} if metadata_only else None
        items: list[T] = []
        query = {"labelSelector": labels, "limit": str(_PAGE)}
        while True:
            answer = await self._call("GET", kind, query=query, headers=headers)
            page = _object(answer)
            items += map(take, filter(_is_named, mappings(page.get("items"))))
            more = mapping(page.get("metadata")).get("continue")
            if not (more and isinstance(more, str)):
                return Listed(tuple(items), _answered_at(answer))
            query = {**query, "continue": more}

    async def delete(
        self, kind: Kind, name: str, *, foreground: bool = False, uid: str = "", version: str = ""
    ) -> None:
        """
        Ask for its deletion; one that is not there is gone already.

        With `foreground` what it owns goes first. With `uid` only that very object, and no later one of its name; with
        `version` only if nobody has changed it since.
        """
        body: Json = {"propagationPolicy": "Foreground" if foreground else "Background"}
        known = {"uid": uid, "resourceVersion": version}
        if given := {name: value for name, value in known.items() if value}:
            body["preconditions"] = given
        try:
            await self._call("DELETE", kind, name, body=body)
        except NotThere:
            return
        except Exists:  # the precondition: that one is gone
            return

    async def merge(self, kind: Kind, name: str, patch: Json) -> None:
        """Change a part of an object (JSON merge patch). Raises NotThere."""
        await self._call("PATCH", kind, name, body=patch, headers={"Content-Type": _MERGE})

    async def replace(self, kind: Kind, name: str, manifest: Json) -> Json:
        """Put the whole object in the place of its version that the manifest names. Raises Exists when that has changed."""
        return _object(await self._call("PUT", kind, name, body=manifest))

    async def log(self, pod: str, *, container: str, lines: int, previous: bool = False) -> str:
        """The last lines of what a container said; of the one before its restart with `previous`."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": "16384"}
        if previous:
            query["previous"] = "true"
        return (await self._call("GET", PODS, f"{pod}/log", query=query)).text.strip()

    async def events(self, uid: str) -> list[tuple[str, str]]:
        """Reason and message of what Kubernetes says about the object with that uid, the latest last."""
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": str(_PAGE)}
        found = mappings(_object(await self._call("GET", EVENTS, query=query)).get("items"))
        found.sort(key=lambda item: str(item.get("lastTimestamp") or item.get("eventTime") or ""))
        return [(str(item.get("reason") or ""), str(item.get("message") or "")) for item in found]

    async def raw(self, method: str, path: str, *, body: Json | None = None) -> Json:
        """What any path of the API answers: discovery, reviews, another namespace, a pod's own port."""
        return _object(await self._at(method, path, (method.lower(), "path", path), body=body))

    async def clock(self) -> float:
        """The API server's own, in seconds since 1970; 0 if it does not say."""
        return _answered_at(await self._at("GET", "/version", ("get", "path", "/version")))

    async def _call(
        self,
        method: str,
        kind: Kind,
        name: str = "",
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        what = (_verb(method, name), kind.plural, name)
        return await self._at(method, kind.path(self.namespace, name), what, body=body, query=query, headers=headers)

    async def _at(
        self,
        method: str,
        path: str,
        what: tuple[str, str, str],
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """`what`, for errors and figures: the verb, the kind, and the name, which is not counted."""
        content = json.dumps(body) if body is not None else None
        whole = {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}
        try:
            request = self._http.build_request(method, path, content=content, params=query, headers=whole)
        except (ValueError, httpx.InvalidURL) as exc:  # a name that no object can have
            raise Permanent(f"{' '.join(what).strip()!a} cannot be asked for: {exc}") from exc
        counted = what[:2]
        answer = await self._shown(request, self._access.token(), counted)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # it may just have ended
            answer = await self._shown(request, await asyncio.to_thread(self._access.renewed), counted)
        if answer.is_success:
            return answer
        raise _trouble(" ".join(what).strip(), self.namespace, answer)

    async def _shown(self, request: httpx.Request, token: str, what: tuple[str, str]) -> httpx.Response:
        """The answer, counted. `what` is the verb and the kind."""
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        code = "none"
        try:
            with KUBERNETES_SECONDS.labels(*what).time():
                async with asyncio.timeout(2 * _TIMEOUT_S):
                    answer = await self._http.send(request)
            code = code_class(answer.status_code)
        except (httpx.RequestError, TimeoutError) as exc:
            told = str(exc) or type(exc).__name__
            raise Transient(f"Kubernetes' API at {self._access.url} does not answer: {told}") from exc
        finally:
            KUBERNETES_REQUESTS.labels(*what, code).inc()
        return answer


def _verb(method: str, name: str) -> str:
    verbs = {"POST": "create", "DELETE": "delete", "PATCH": "patch", "PUT": "update"}
    return verbs.get(method) or ("get" if name else "list")


def _as_it_is(item: Json) -> Json:
    return item


def _is_named(item: Json) -> bool:
    return isinstance(mapping(item.get("metadata")).get("name"), str)


def _parsed(answer: httpx.Response) -> object:
    try:
        return from_json(answer.content)  # of a list of a thousand clusters' pods two thirds of what `json` takes
    except ValueError:  # half a surrogate pair in one object must not cost the others
        return answer.json()


def _object(answer: httpx.Response) -> Json:
    try:
        read = _parsed(answer)
    except (ValueError, RecursionError) as exc:
        raise Permanent(f"the answer of {answer.request.url} is not JSON: is that address Kubernetes' API?") from exc
    if not isinstance(read, dict):
        raise Permanent(f"the answer of {answer.request.url} is no object: is that address Kubernetes' API?")
    return read


def _trouble(what: str, namespace: str, answer: httpx.Response) -> Exception:
    """The error that this answer is."""
    status = _status(answer)
    words = str(status.get("message") or answer.text[:300] or answer.reason_phrase)
    whole = refused(f"{what} in namespace {namespace}", words)
    code = answer.status_code
    if code in _AGAIN or code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Transient(whole, retry_after_s=_retry_after_s(answer))
    if code == httpx.codes.FORBIDDEN:
        return _forbidden(whole, words, namespace)
    if code == httpx.codes.UNPROCESSABLE_ENTITY:
        fields = ", ".join(_fields(status))
        return Permanent(f"{whole} (wrong: {fields})" if fields else whole)
    return _NEVER.get(code, Permanent)(_with_remedy(code, whole, what, status))


_NEVER: dict[int, type[Permanent]] = {404: NotThere, 409: Exists, 410: NotThere}


def _forbidden(whole: str, words: str, namespace: str) -> Exception:
    if missing := _RIGHT_MISSING.search(words):
        group = f" of API group {missing['group']}" if missing["group"] else ""
        facts = {"verb": missing["verb"], "resource": missing["resource"], "group": group, "namespace": namespace}
        return Forbidden(said("forbidden", **facts))
    is_quota = code_of(whole) == "quota"  # what somebody else's pods take may be free later
    return NoRoom(whole) if is_quota else Permanent(whole)


def _with_remedy(code: int, whole: str, what: str, status: Json) -> str:
    if code == httpx.codes.UNAUTHORIZED:
        return (
            f"{whole}. Kubernetes does not take the daemon's credentials: renew the kubeconfig or the service account."
        )
    if code == httpx.codes.NOT_FOUND and not mapping(status.get("details")).get("name") and "dask" in what:
        return f"{whole}. Is the Dask operator with its custom resource definitions installed?"
    return whole


def _status(answer: httpx.Response) -> Json:
    try:
        read = answer.json()
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _fields(status: Json) -> list[str]:
    causes = mappings(mapping(status.get("details")).get("causes"))
    return [str(cause["field"]) for cause in causes if cause.get("field")]


def _retry_after_s(answer: httpx.Response) -> float | None:
    asked = answer.headers.get("retry-after", "").strip()
    return float(asked) if asked.isdecimal() else None


def _answered_at(answer: httpx.Response) -> float:
    try:
        return parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
