"""
What an operator's command asks of a daemon on Kubernetes, and writes for it.

The daemon is asked through the API server (`pods/proxy`), and told by annotations on DaskClusters: both need rights that
Kubernetes gives and notes, and neither needs a key of ours, a port that is open to the world or a program beside this one.
"""

from typing import Any

from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.client import DASK_CLUSTERS, PODS, Client, NotThere
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import ASKED_RESET, ASKED_SCALE, CLUSTER, DASK_COMPONENT, ROLE, of_pool
from flowgroup.errors import FlowgroupError, Permanent
from flowgroup.model.clusters import Ask

Json = dict[str, Any]
_DAEMONS = "app.kubernetes.io/part-of=flowgroup,app.kubernetes.io/component=daemon"
_HEALTH_PORT = 8080
_STATUS = "/flowgroup/status"


async def standing(client: Client, namespace: str, pool: str | None) -> Json:
    """
    How the daemon of that pool stands, of those in the namespace; with None of the only one.

    Raises Permanent, with the other way to ask, when it cannot be had.
    """
    path = PODS.path(namespace)
    pods = (await client.raw("GET", f"{path}?labelSelector={_DAEMONS}")).get("items") or ()
    names = [str(pod["metadata"]["name"]) for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    found, troubles = [], []
    for name in names:
        try:
            found.append(await client.raw("GET", f"{path}/{name}:{_HEALTH_PORT}/proxy{_STATUS}"))
        except FlowgroupError as exc:
            troubles.append(f"{name}: {exc}")
    fitting = [one for one in found if pool in (None, one.get("pool"))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Permanent(
            f"several daemons are in {namespace}: say --pool, one of {sorted(one['pool'] for one in fitting)}"
        )
    why = "; ".join(troubles) or f"there is no running daemon of this pool among {names or 'no pods'}"
    raise Permanent(
        f"the daemon's status is not to be had through Kubernetes' API ({namespace}): {why}. Right there is always: "
        f"kubectl exec -n {namespace} deploy/NAME-OF-THE-DAEMON -- flowgroup status"
    )


async def ask(client: Client, name: str, what: Ask) -> None:
    """Note on the DaskCluster what is asked of it. Raises NotThere."""
    noted: Json = {}
    if what.reset:
        noted[ASKED_RESET] = "true"
    if what.scale:
        noted[ASKED_SCALE] = what.model_dump_json(exclude={"reset"})
    await client.merge(DASK_CLUSTERS, name, {"metadata": {"annotations": noted}})


async def asked_before(client: Client, name: str) -> Ask:
    """What is asked of it; of one that is not there nothing."""
    try:
        return seen.owner(await client.get(DASK_CLUSTERS, name)).ask
    except NotThere:
        return Ask()


async def logs(client: Client, pool: str, cluster: str, role: str | None, lines: int) -> list[tuple[str, list[str]]]:
    """The last lines of a cluster's pods, by pod: of those of one role (driver, scheduler, worker), or of all."""
    found = await client.listed(PODS, selector(of_pool(pool), **{CLUSTER: cluster}))
    if not found.items:
        raise Permanent(
            f"cluster {cluster} has no pods in {client.namespace}; `flowgroup cluster list` names the clusters"
        )
    told = []
    for pod in found.items:
        labels = pod["metadata"].get("labels") or {}
        if role not in (None, labels.get(ROLE) or labels.get(DASK_COMPONENT)):
            continue
        name = pod["metadata"]["name"]
        container = pod["spec"]["containers"][0]["name"]
        try:
            said = (await client.log(name, container=container, lines=lines)).splitlines()
        except NotThere:
            continue  # it has gone meanwhile
        except FlowgroupError as exc:
            said = [f"(not to be had: {exc})"]
        told.append((name, said))
    return told


async def may(client: Client, verb: str, group: str, resource: str) -> bool:
    """Whether these credentials may do so in the client's namespace."""
    kind, _, part = resource.partition("/")
    attributes = {"namespace": client.namespace, "verb": verb, "group": group, "resource": kind, "subresource": part}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }
    answer = await client.raw("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return bool((answer.get("status") or {}).get("allowed"))
