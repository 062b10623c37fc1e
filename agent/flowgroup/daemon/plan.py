"""
Where a due run goes: its deployment and its pool, what their job variables refer to, and then `place`, which decides.

In: a due run. Out: a Placement, or Refused with what somebody has to change. Nothing is claimed and nothing is made here.
"""

from typing import Any, Protocol

from flowgroup.daemon import resolve
from flowgroup.daemon.placement import Policy, place, said
from flowgroup.model import references
from flowgroup.model.ids import DeploymentId
from flowgroup.model.runs import Deployment, DueRun, Placement
from flowgroup.model.states import SeenRun
from flowgroup.model.variables import JobVariables, parse


class Api(resolve.Api, Protocol):
    async def template(self) -> dict[str, Any]: ...
    async def deployment(self, deployment_id: DeploymentId, version: str | None = None) -> Deployment: ...


async def planned(api: Api, due: DueRun, policy: Policy) -> Placement:
    """Raises Refused, and Transient or Permanent where the API does not say what has to be known."""
    deployment = await api.deployment(due.deployment_id, due.deployment_version) if due.deployment_id else None
    template = await api.template()
    told = await resolve.told(api, due, deployment, template)
    return place(due, deployment, template, policy, told)


async def variables_of(api: Api, run: SeenRun) -> JobVariables:
    """What is said for a run that was planned before, by another daemon maybe. Raises as `planned` does."""
    if run.deployment_id is None:
        return JobVariables()
    deployment, template = await api.deployment(run.deployment_id), await api.template()
    told = await resolve.told(api, run, deployment, template)
    return parse(references.filled(said(run, deployment, template), told))
