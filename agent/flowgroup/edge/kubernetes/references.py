"""
Whether what a pod refers to is there: a Secret, a ConfigMap, a key in one.

Kubelet tries again without end, and somebody may just be making it: so it counts only after a while.
"""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from flowgroup.edge.kubernetes.client import Client
from flowgroup.edge.kubernetes.seen import Pod

_LASTS_S = 15.0
_ASK_AFTER_S = 5.0
_NOT_CONFIGURED = "CreateContainerConfigError"
_NOT_THERE = re.compile(r"(secret|configmap) \S+ not found|non-existent (secret|config) key", re.IGNORECASE)
_MOUNTED = ("Pulling", "Pulled", "Created", "Started")
_REMEDY = "Make it in the namespace of clusters, or correct the deployment's job variables."


@dataclass
class References:
    """`_since`: when each pod was first seen to lack something. `_asked`: what its events said, and when that was asked."""

    client: Client
    _since: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, tuple[float, str | None]] = field(default_factory=dict)

    async def missing(self, pod: Pod) -> str | None:
        """What the pod lacks, once that has lasted."""
        lacks = await self.waited_for(pod)
        if lacks is None:
            self._since.pop(pod.uid, None)
            return None
        now = asyncio.get_running_loop().time()
        return lacks if now - self._since.setdefault(pod.uid, now) >= _LASTS_S else None

    async def waited_for(self, pod: Pod) -> str | None:
        """What the pod lacks now. For variables its status says it, for volumes its events do."""
        for entry in pod.containers:
            if entry.state == "waiting" and entry.reason == _NOT_CONFIGURED:
                return _told(pod, entry.message)
        return await self._not_mounted(pod) if _is_being_created(pod) else None

    def forget_others(self, uids: Iterable[str]) -> None:
        """Only these pods are there."""
        there = set(uids)
        for known in (self._since, self._asked):
            for uid in [uid for uid in known if uid not in there]:
                del known[uid]

    async def _not_mounted(self, pod: Pod) -> str | None:
        """Its events are asked for every few seconds, and not at all in the first: most pods soon run."""
        now = asyncio.get_running_loop().time()
        at, said = self._asked.setdefault(pod.uid, (now, None))
        if now - at >= _ASK_AFTER_S:
            said = _of_events(await self.client.events(pod.uid))
            self._asked[pod.uid] = now, said
        return _told(pod, said) if said else None


def _is_being_created(pod: Pod) -> bool:
    return pod.phase == "Pending" and any(entry.reason == "ContainerCreating" for entry in pod.containers)


def _of_events(events: list[tuple[str, str]]) -> str | None:
    """Once an image is looked for all volumes are mounted, and what was said of them before is over."""
    if any(reason in _MOUNTED for reason, _ in events):
        return None
    return next((message for _, message in reversed(events) if _NOT_THERE.search(message)), None)


def _told(pod: Pod, message: str) -> str:
    return f"the {pod.role}'s pod refers to what is not there: {message}. {_REMEDY}"
