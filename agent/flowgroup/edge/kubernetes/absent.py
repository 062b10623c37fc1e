"""Why a cluster lacks pods that the Dask operator was to make: nobody makes them, or the API does not let them be made."""

from dataclasses import dataclass

from flowgroup.edge.kubernetes import seen
from flowgroup.edge.kubernetes.client import DEPLOYMENTS, Client, NotThere
from flowgroup.edge.kubernetes.manifests import selector
from flowgroup.edge.kubernetes.names import CLUSTER, SCHEDULER, WORKER, scheduler
from flowgroup.edge.kubernetes.rules import refused
from flowgroup.edge.kubernetes.seen import Owner
from flowgroup.model.causes import said


@dataclass(frozen=True, slots=True)
class Absent:
    """`timeout_s`: how long the operator has. `now` is of the API server's clock, as the owner's times are."""

    client: Client
    pool_label: str
    timeout_s: float

    async def never(self, owner: Owner, *, now: float) -> str | None:
        """Only what is certain: a quota or an admission rule may let the scheduler's pod through later."""
        if now - owner.made_at < self.timeout_s:
            return None
        try:
            await self.client.get(DEPLOYMENTS, scheduler(owner.name))
        except NotThere:
            return self._says_deaf(owner)
        return None

    async def why(self, owner: Owner, roles: set[str], *, now: float) -> str | None:
        """What is known now. `roles`: of the pods that there are."""
        if now - owner.made_at < self.timeout_s:
            return None
        if SCHEDULER not in roles:
            return await self._no_scheduler(owner)
        return await self._no_workers(owner) if owner.workers and WORKER not in roles else None

    async def _no_scheduler(self, owner: Owner) -> str | None:
        try:
            failure = seen.replica_failure(await self.client.get(DEPLOYMENTS, scheduler(owner.name)))
        except NotThere:
            return self._says_deaf(owner)
        return refused("the scheduler's pod may not be made", failure) if failure else None

    async def _no_workers(self, owner: Owner) -> str:
        made = await self.client.listed(DEPLOYMENTS, selector(self.pool_label, **{CLUSTER: owner.name}))
        failure = next(filter(None, map(seen.replica_failure, made.items)), "")
        return refused("the workers' pods may not be made", failure) if failure else said("no-workers", name=owner.name)

    def _says_deaf(self, owner: Owner) -> str:
        return said("operator-deaf", name=owner.name, timeout_s=self.timeout_s, namespace=self.client.namespace)
