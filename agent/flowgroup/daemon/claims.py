"""
Claims: a few at once, and none that the API has just said it would refuse.

In: a due run. Out: the run claimed, or why not. When a deployment's concurrency limit is reached the API refuses all its runs:
after the first refusal the others are held back here, until the API's delay is over or one of that deployment's runs has
ended. Then one is proposed, and the next only once that one was taken. Other deployments' runs do not wait for it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from flowgroup.daemon.unless import to_its_end
from flowgroup.model.ids import AttemptId, DeploymentId
from flowgroup.model.runs import ClaimedRun, DueRun, NotClaimed
from flowgroup.retry import until

_CLAIM_TIMEOUT_S = 30.0
_GOODBYE_TIMEOUT_S = 3.0
_AT_ONCE = 16
_FORGOTTEN_AFTER_S = 300.0


class Api(Protocol):
    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed: ...


@dataclass(slots=True)
class _Limited:
    """A deployment that has reached its limit lately. `until` is of the event loop's clock."""

    until: float
    is_asked: bool = False


@dataclass(slots=True)
class Claims:
    """`on_open` is called when a run of a deployment that was held back may be proposed."""

    api: Api
    on_open: Callable[[], None] = lambda: None
    _limited: dict[DeploymentId, _Limited] = field(default_factory=dict)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    def is_held(self, due: DueRun) -> bool:
        """Whether its deployment's limit is reached, as far as is known: it is not to be proposed now."""
        limited = self._limited.get(due.deployment_id) if due.deployment_id else None
        return limited is not None and (limited.is_asked or limited.until > _now())

    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed:
        """Raises as the API's claim does. A claim under way is carried out, even if we are cancelled meanwhile."""
        async with self._turns:
            if self.is_held(due):
                return NotClaimed("the concurrency limit of its deployment is reached", 0.0)
            with self._asked(due):
                claiming = until(lambda: self.api.claim(due, attempt), timeout_s=_CLAIM_TIMEOUT_S)
                answer = await to_its_end(claiming, name=f"claim {due.id}", timeout_s=_GOODBYE_TIMEOUT_S)
        self._learn(due, answer)
        return answer

    def ended(self, due: DueRun) -> None:
        """A run of the deployment has ended: another may have its place."""
        limited = self._limited.get(due.deployment_id) if due.deployment_id else None
        if limited:
            limited.until = min(limited.until, _now())
            self.on_open()

    @contextmanager
    def _asked(self, due: DueRun) -> Iterator[None]:
        """While one run of a limited deployment is proposed, no other is."""
        limited = self._limited.get(due.deployment_id) if due.deployment_id else None
        if limited:
            limited.is_asked = True
        try:
            yield
        finally:
            if limited:
                limited.is_asked = False

    def _learn(self, due: DueRun, answer: ClaimedRun | NotClaimed) -> None:
        if due.deployment_id is None:
            return
        if isinstance(answer, NotClaimed) and answer.is_limit:
            self._limited[due.deployment_id] = _Limited(_now() + answer.delay_s)
        elif limited := self._limited.get(due.deployment_id):
            if _now() - limited.until > _FORGOTTEN_AFTER_S:
                del self._limited[due.deployment_id]
            self.on_open()


def _now() -> float:
    return asyncio.get_running_loop().time()
