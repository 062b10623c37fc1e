"""Kubernetes: the API, each right, the Dask operator, images, certificates, relays, policies, quota and nodes."""

import asyncio
import json
import socket
import time
from datetime import UTC, datetime

from cryptography import x509

from flowgroup.edge import operating
from flowgroup.edge.files import control_key
from flowgroup.edge.kubernetes import network
from flowgroup.edge.kubernetes import seen as seen_room
from flowgroup.edge.kubernetes.client import DASK_CLUSTERS, DEPLOYMENTS, NETWORK_POLICIES, Forbidden, NotThere
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import of_pool, scheduler
from flowgroup.edge.kubernetes.operating import may
from flowgroup.edge.kubernetes.pods import SCHEDULER_PORT
from flowgroup.edge.kubernetes.sizes import Sizes
from flowgroup.edge.registry.digest import digest_of
from flowgroup.errors import Permanent, Transient
from flowgroup.model.endpoint import Endpoint
from flowgroup.model.image import parse
from flowgroup.operate.checks.base import Check, Json, Seen, Unknown, Wrong, client_of
from flowgroup.operate.placing import ground_of

_DASK, _APPS, _NET = "kubernetes.dask.org", "apps", "networking.k8s.io"
RIGHTS: dict[tuple[str, str], tuple[str, ...]] = {
    (_DASK, "daskclusters"): ("get", "list", "create", "patch", "delete"),
    (_DASK, "daskworkergroups"): ("get", "list", "create", "patch", "delete"),
    ("", "pods"): ("get", "list", "create", "delete"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list",),
    ("", "services"): ("list", "delete"),
    (_APPS, "deployments"): ("get", "list", "delete"),
    (_NET, "networkpolicies"): ("get", "create", "delete"),
    ("", "configmaps"): ("get", "list", "create", "delete"),
    ("", "secrets"): ("create", "delete"),
}
"""The daemon's Role, as the chart has it."""
_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SKEW_S = 30.0
_SOON_S = 14 * 86400.0
_CONNECT_S = 3.0
_REGISTRY_S = 10.0
_GPU = "nvidia.com/gpu"


async def _api(seen: Seen) -> str:
    told = await client_of(seen).raw("GET", "/version")
    return f"{told.get('gitVersion')}, clusters in namespace {client_of(seen).namespace}"


async def _clock(seen: Seen) -> str:
    at = await client_of(seen).clock()
    if not at:
        raise Unknown("Kubernetes' API does not say what time it is")
    if abs(time.time() - at) > _SKEW_S:
        raise Wrong(f"this machine's clock is {time.time() - at:+.0f} s off Kubernetes'")
    return f"within {_SKEW_S:.0f} s"


def _right(group: str, resource: str, verb: str) -> Check:
    async def look(seen: Seen) -> str:
        client = client_of(seen)
        if not await may(client, verb, group, resource):
            raise Wrong(f"these credentials may not {verb} {resource} in namespace {client.namespace}")
        return f"in namespace {client.namespace}"

    fix = (
        f"give the daemon's Role there the verb {verb!r} on {resource!r} of apiGroup {group!r} (the chart: rbac.create)"
    )
    return Check(f"may-{verb}-{resource.replace('/', '-')}", look, fix, "kubernetes-api")


def _definition(plural: str) -> Check:
    async def look(seen: Seen) -> str:
        told = await client_of(seen).raw("GET", f"/apis/{_DASK}/v1")
        if plural not in {one.get("name") for one in told.get("resources") or ()}:
            raise Wrong(f"there is no custom resource {plural} of {_DASK}/v1")
        return await _age(seen, plural)

    return Check(f"crd-{plural}", look, "install the Dask operator with its CRDs", "kubernetes-api")


async def _age(seen: Seen, plural: str) -> str:
    try:
        told = await client_of(seen).raw("GET", f"{_CRD}/{plural}.{_DASK}")
    except (Forbidden, NotThere):
        return "there (its age is not for these credentials to see)"
    return f"there since {(told.get('metadata') or {}).get('creationTimestamp', 'who knows when')}"


async def _schema(seen: Seen) -> str:
    """An old definition takes fields that it does not know away, silently."""
    told = await client_of(seen).raw("GET", f"/openapi/v3/apis/{_DASK}/v1")
    if '"idleTimeout"' not in json.dumps(told):
        raise Wrong(
            "the custom resource daskclusters knows no idleTimeout: it is older than the operator that is wanted"
        )
    return "of an operator that knows idleTimeout"


async def _operator(seen: Seen) -> str:
    """By what it has left on the clusters that there are: nothing is made to find out."""
    client, where = client_of(seen), seen.where
    listed = await client.listed(DASK_CLUSTERS, selector(of_pool(where.pool)), metadata_only=True)
    patience_s = where.settings.kubernetes.operator_timeout_s
    old = [owner for owner in map(seen_room.owner, listed.items) if listed.at - owner.made_at > patience_s]
    if not old:
        raise Unknown(
            "no DaskCluster of this pool is old enough to tell; flowgroup check --pool NAME --workers 1 makes one"
        )
    deaf = []
    for owner in old:
        try:
            await client.get(DEPLOYMENTS, scheduler(owner.name))
        except NotThere:
            deaf.append(owner.name)
    if deaf:
        raise Wrong(f"it has made no scheduler for {', '.join(deaf)} within {patience_s:.0f} s")
    return f"it has served {len(old)} clusters"


async def _image(seen: Seen) -> str:
    image = seen.where.settings.kubernetes.image
    if not image:
        raise Unknown("FLOWGROUP_KUBERNETES_IMAGE is not set: each deployment names its own")
    name = parse(image)
    if name is None:
        raise Wrong(f"{image!r} is no name of an image")
    if name.host is None:
        raise Unknown(f"{image} names no registry: nodes have it, or their own default")
    try:
        return await asyncio.to_thread(digest_of, name, lambda _: None, timeout_s=_REGISTRY_S)
    except Transient as exc:  # nodes may reach what we do not
        raise Unknown(f"{image}: {exc}") from exc
    except Permanent as exc:
        raise Wrong(f"{image}: {exc}") from exc


async def _sizes(seen: Seen) -> str:
    sizes = Sizes.read(seen.where.settings.kubernetes.sizes)
    seen.known["sizes"] = sizes
    return ", ".join(sorted(sizes.known)) or "none are named"


async def _service_account(seen: Seen) -> str:
    client, own = client_of(seen), seen.where.settings.kubernetes
    names = {own.service_account, *(name.partition(":")[0] for name in own.service_accounts)}
    missing = []
    for name in sorted(names):
        try:
            await client.raw("GET", f"/api/v1/namespaces/{client.namespace}/serviceaccounts/{name}")
        except Forbidden as exc:
            raise Unknown("these credentials may not see service accounts") from exc
        except NotThere:
            missing.append(name)
    if missing:
        raise Wrong(f"not there in {client.namespace}: {', '.join(missing)}")
    return ", ".join(sorted(names))


async def _certificate(seen: Seen) -> str:
    own = seen.where.settings.kubernetes
    if own.tls_cert is None or not own.tls_cert.exists():
        raise Unknown("FLOWGROUP_KUBERNETES_TLS_CERT is not here: ask in the daemon's pod")
    try:
        found = x509.load_pem_x509_certificate(own.tls_cert.read_bytes())
    except (OSError, ValueError) as exc:
        raise Wrong(f"{own.tls_cert}: {exc}") from exc
    left_s = (found.not_valid_after_utc - datetime.now(UTC)).total_seconds()
    if left_s < _SOON_S:
        raise Wrong(f"the daemon's certificate ends at {found.not_valid_after_utc:%Y-%m-%d %H:%M}")
    host = Endpoint.parse(own.daemon_address).host if own.daemon_address else ""
    names = _names(found)
    if host and host not in names:
        raise Wrong(f"the daemon's certificate names {', '.join(names)}, and drivers reach the daemon as {host}")
    return f"until {found.not_valid_after_utc:%Y-%m-%d}, for {', '.join(names)}"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*said.get_values_for_type(x509.DNSName), *map(str, said.get_values_for_type(x509.IPAddress))]


async def _control_key(seen: Seen) -> str:
    relay = seen.where.settings.relay
    if relay.control_key_file is None:
        raise Unknown("FLOWGROUP_RELAY_CONTROL_KEY_FILE is not set here: ask in the daemon's pod")
    control_key(relay)
    return str(relay.control_key_file)


async def _dns(seen: Seen) -> str:
    own = seen.where.settings.kubernetes
    hosts = [Endpoint.parse(one).host for one in (own.daemon_address, *own.relay_address) if one]
    if not hosts:
        raise Unknown("FLOWGROUP_KUBERNETES_DAEMON_ADDRESS and …_RELAY_ADDRESS are not set here")
    unknown = [host for host in hosts if not await _is_known(host)]
    if unknown:
        raise Wrong(f"not known here: {', '.join(unknown)}", _NAMES if _in_pod(seen) else _FROM_POD)
    return ", ".join(hosts)


async def _is_known(host: str) -> bool:
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return True


async def _relays(seen: Seen) -> str:
    own = seen.where.settings.kubernetes
    if not own.relay_address:
        raise Unknown("FLOWGROUP_KUBERNETES_RELAY_ADDRESS is not set here")
    for address in own.relay_address:
        await operating.relay_answers(Endpoint.parse(address, ca=own.ca_file))
    return f"{len(own.relay_address)} answer"


async def _policies(seen: Seen) -> str:
    """Nobody but its own pods may reach a cluster's scheduler: where that is enforced, we do not."""
    client, own = client_of(seen), seen.where.settings.kubernetes
    if not own.network_policy:
        raise Wrong(
            "FLOWGROUP_KUBERNETES_NETWORK_POLICY is false: every pod reaches clusters' Dask ports, which ask no password"
        )
    network.check(ground_of(seen.where.settings, seen.where.pool))
    there = await client.listed(DASK_CLUSTERS, selector(of_pool(seen.where.pool)), metadata_only=True)
    name = next((item["metadata"]["name"] for item in there.items), None)
    if name is None:
        raise Unknown("there is no cluster to try it on")
    await client.get(NETWORK_POLICIES, name)
    host = f"{scheduler(name)}.{client.namespace}.svc"
    if not _in_pod(seen) or not await _is_known(host):
        raise Unknown(f"{host} is no name here: ask in the daemon's pod")
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(host, SCHEDULER_PORT)
    except (OSError, TimeoutError):
        return f"{host}:{SCHEDULER_PORT} is closed to us"
    writer.close()
    raise Wrong(
        f"{host}:{SCHEDULER_PORT} takes our connection, which the NetworkPolicy {name} forbids: nobody enforces it"
    )


def _in_pod(seen: Seen) -> bool:
    return seen.where.is_here


async def _quota(seen: Seen) -> str:
    client = client_of(seen)
    try:
        told = await client.raw("GET", f"/api/v1/namespaces/{client.namespace}/resourcequotas")
    except Forbidden as exc:
        raise Unknown("these credentials may not see ResourceQuotas") from exc
    full = [text for item in told.get("items") or () for text in _used_up(item)]
    if full:
        raise Wrong(f"used up in {client.namespace}: {', '.join(full)}")
    return f"{len(told.get('items') or ())} quotas, with room"


def _used_up(item: Json) -> list[str]:
    status = item.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    return [
        f"{name} ({used[name]} of {hard[name]})" for name in hard if name in used and used[name] == hard[name] != "0"
    ]


async def _gpus(seen: Seen) -> str:
    wanted = sorted(name for name, size in seen.known["sizes"].known.items() if _GPU in size.extended)
    if not wanted:
        raise Unknown("no size asks for a GPU")
    try:
        nodes = (await client_of(seen).raw("GET", "/api/v1/nodes")).get("items") or ()
    except Forbidden as exc:
        raise Unknown("these credentials may not see nodes") from exc
    amounts = [int(((node.get("status") or {}).get("allocatable") or {}).get(_GPU, 0)) for node in nodes]
    if not any(amounts):
        raise Wrong(f"no node offers {_GPU} now, and the sizes {', '.join(wanted)} ask for it")
    return f"{sum(amounts)} on {sum(map(bool, amounts))} nodes"


_FROM_POD = "ask in the daemon's pod: kubectl exec deploy/NAME-OF-THE-DAEMON -- flowgroup doctor"
_NAMES = "correct the addresses, or the cluster's DNS (kube-dns, and the NetworkPolicy's way to port 53)"

CHECKS = [
    Check("kubernetes-api", _api, "set KUBECONFIG to a usable file, or run in a pod with a service account"),
    Check("kubernetes-clock", _clock, "let this machine's clock, or the nodes', be set by NTP", "kubernetes-api"),
    *(_right(group, resource, verb) for (group, resource), verbs in RIGHTS.items() for verb in verbs),
    _definition("daskclusters"),
    _definition("daskworkergroups"),
    Check(
        "crd-schema",
        _schema,
        "kubectl apply --server-side the operator's CRDs (Helm never does)",
        "crd-daskclusters",
    ),
    Check(
        "dask-operator", _operator, "start it, and let it watch this namespace; its log says more", "crd-daskclusters"
    ),
    Check("image", _image, "push it, or correct FLOWGROUP_KUBERNETES_IMAGE"),
    Check("sizes", _sizes, "correct the file that FLOWGROUP_KUBERNETES_SIZES names"),
    Check(
        "service-accounts",
        _service_account,
        "make them, or correct FLOWGROUP_KUBERNETES_SERVICE_ACCOUNT",
        "kubernetes-api",
    ),
    Check("certificate", _certificate, "renew it (the chart: certificates.mode; flowgroup certs)"),
    Check("control-key", _control_key, "mount the Secret with the control key, the same for daemon and relay"),
    Check("addresses", _dns, _NAMES),
    Check(
        "relays", _relays, "see the relay's pod and log, and the NetworkPolicies between it and the daemon", "addresses"
    ),
    Check(
        "network-policies", _policies, "use a CNI that enforces NetworkPolicies (Calico, Cilium, …)", "kubernetes-api"
    ),
    Check("quota", _quota, "raise the ResourceQuota, or wait for pods to end", "kubernetes-api"),
    Check(
        "gpu-nodes",
        _gpus,
        "add GPU nodes with the device plugin, or let an autoscaler add them",
        "sizes",
    ),
]
