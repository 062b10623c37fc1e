"""
`flowgroup render`: a cluster as objects of Kubernetes, without a cluster. Kubernetes is not asked, and no secret is shown.

The daemon's own functions make the objects. What only the API server gives (the DaskCluster's uid) has a word in its place.
"""

import argparse
import asyncio
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowgroup.daemon import resolve
from flowgroup.daemon.placement import place as placed
from flowgroup.daemon.placement import said
from flowgroup.edge.kubernetes import manifests
from flowgroup.edge.prefect import Prefect, prefect
from flowgroup.edge.wire import NotFound
from flowgroup.errors import Permanent, Refused
from flowgroup.model.ids import DeploymentId, FlowId, RunId
from flowgroup.model.references import found
from flowgroup.model.runs import Deployment, DueRun
from flowgroup.model.spec import ClusterSpec
from flowgroup.model.variables import base_job_template
from flowgroup.operate.place import Place
from flowgroup.operate.placing import ground_of, policy_of
from flowgroup.settings import Settings

Json = dict[str, Any]
_UID = "00000000-0000-0000-0000-000000000000"
_HIDDEN = "(not shown)"


def command(args: argparse.Namespace) -> int:
    """Print a List, as JSON, which is YAML too. Returns the exit status; raises Refused as the daemon would."""
    settings = Settings.read({"pool": args.pool, "backend": "kubernetes"})
    pool = settings.daemon.pool or "pool"
    where = Place(settings, pool, settings.daemon.home.expanduser().absolute() / pool, "")
    variables = dict(_pair(text) for text in args.set)
    spec = asyncio.run(_asked(where, args.deployment, variables) if args.deployment else _said(where, variables))
    print(json.dumps(objects(spec, where), indent=2))
    return 0


def objects(spec: ClusterSpec, where: Place) -> Json:
    """The cluster's objects in the order in which they are made. Raises Refused for what the deployment has to change."""
    hidden = spec.model_copy(update={"secrets": dict.fromkeys(spec.secrets, _HIDDEN)})
    ground = ground_of(where.settings, where.pool)
    items = [manifests.dask_cluster(hidden, ground)]
    items += manifests.owned(hidden, ground, uid=_UID, secret=_HIDDEN, key=_HIDDEN)
    return {"apiVersion": "v1", "kind": "List", "items": items}


async def _said(where: Place, variables: Mapping[str, Any]) -> ClusterSpec:
    """Of job variables alone: nobody is asked."""
    made = Deployment(
        id=DeploymentId(_UID),
        name="render",
        flow_id=FlowId(_UID),
        flow_name="render",
        version=None,
        entrypoint="flow.py:flow",
        pull_steps=(),
        job_variables=dict(variables),
    )
    if found(said(_due(made, {}), made, base_job_template())):
        raise Refused("what {{ prefect.… }} stands for only Prefect's API knows: name a deployment")
    return placed(_due(made, {}), made, _unsigned(base_job_template()), policy_of(where)).spec


async def _asked(where: Place, name: str, variables: Mapping[str, Any]) -> ClusterSpec:
    """Of a deployment, `flow/name` or its id, as Prefect's API has it, with what a run would say for itself."""
    async with prefect(where.settings.prefect, where.pool) as api:
        deployment = await api.deployment(await _id_of(api, name))
        template = await api.template()
        due = _due(deployment, variables)
        told = await resolve.told(api, due, deployment, template)
        return placed(due, deployment, template, policy_of(where), told).spec


async def _id_of(api: Prefect, name: str) -> DeploymentId:
    if "/" not in name:
        return DeploymentId(name)
    try:
        return await api.deployment_named(name)
    except NotFound as exc:
        raise Permanent(f"there is no deployment {name!r}: it is written as FLOW/NAME") from exc


def _due(deployment: Deployment, variables: Mapping[str, Any]) -> DueRun:
    run = RunId(str(uuid.UUID(int=0)))
    return DueRun(run, "render", deployment.flow_id, deployment.id, datetime.now(UTC), dict(variables))


def _unsigned(template: Json) -> Json:
    """Without a deployment there is nothing that could be signed."""
    return {**template, "job_configuration": {**template["job_configuration"], "allow_unsigned": True}}


def _pair(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise Refused(f"--set {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
