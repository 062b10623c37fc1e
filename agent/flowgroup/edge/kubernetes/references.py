"""
What holds up a pod that is being created: a Secret, a ConfigMap or a key that is not there, a volume, its sandbox.

Kubelet tries again without end, and somebody may just be making it: what is not there counts only after a while, and the rest
may come right by itself.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from flowgroup.edge.kubernetes import diagnose
from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.seen import Pod

_LASTS_S = 15.0
_ASK_AFTER_S = 5.0


@dataclass
class References:
    """`_since`: when each pod was first seen to lack something. `_asked`: what its events said, and when that was asked."""

    client: Client
    _since: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, tuple[float, tuple[str, bool] | None]] = field(default_factory=dict)

    async def missing(self, pod: Pod) -> str | None:
        """What the pod refers to that is not there, once that has lasted."""
        lacks = await self._held_up(pod)
        if lacks is None or not lacks[1]:
            self._since.pop(pod.uid, None)
            return None
        now = asyncio.get_running_loop().time()
        return lacks[0] if now - self._since.setdefault(pod.uid, now) >= _LASTS_S else None

    async def waited_for(self, pod: Pod) -> str | None:
        """What holds the pod up now."""
        held = await self._held_up(pod)
        return held[0] if held else None

    def forget_others(self, uids: Iterable[str]) -> None:
        """Only these pods are there."""
        there = set(uids)
        for uid in self._since.keys() - there:
            del self._since[uid]
        for uid in self._asked.keys() - there:
            del self._asked[uid]

    async def _held_up(self, pod: Pod) -> tuple[str, bool] | None:
        """And whether it refers to what is not there. For variables its status says it, for volumes its events do."""
        if lacks := diagnose.not_configured(pod):
            return lacks, True
        return await self._of_events(pod) if _is_being_created(pod) else None

    async def _of_events(self, pod: Pod) -> tuple[str, bool] | None:
        """They are asked for every few seconds, and not at all in the first: most pods soon run."""
        now = asyncio.get_running_loop().time()
        at, held = self._asked.setdefault(pod.uid, (now, None))
        if now - at >= _ASK_AFTER_S:
            held = diagnose.of_events(pod, await self.client.events(pod.uid))
            self._asked[pod.uid] = now, held
        return held


def _is_being_created(pod: Pod) -> bool:
    return pod.phase == "Pending" and any(entry.reason == "ContainerCreating" for entry in pod.containers)
