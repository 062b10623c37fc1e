"""An artifact for each run that has ended: how long its stages took, and where its cluster is to be seen."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from flowgroup import log
from flowgroup.errors import FlowgroupError, Transient
from flowgroup.model.ids import RunId

Json = dict[str, Any]
_EVERY_S = 1.0
_MOST = 1000
_WORDS = {
    "waited": "from its due time to its claim",
    "placed": "until its cluster was ready and its driver had the order",
    "started": "until Running",
    "ran": "until its end",
}


class Api(Protocol):
    async def write_artifact(self, run_id: RunId, markdown: str, description: str) -> None: ...


class Artifacts:
    """
    They are written one after the other, beside everything else: no run waits for its own. Without an API they wait, the
    latest thousand of them, as long as this daemon lives.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiting: deque[Json] = deque(maxlen=_MOST)

    def ended(self, told: Json) -> None:
        """`told`: a run as `Timings` tells it."""
        self._waiting.append(told)

    async def run(self, page: str, moved: Callable[[], None]) -> None:
        """`page` is the page's address, for the link."""
        while True:
            moved()
            await self._write(page)
            await asyncio.sleep(_EVERY_S)

    async def _write(self, page: str) -> None:
        while self._waiting:
            told = self._waiting[0]
            try:
                await self._api.write_artifact(told["id"], markdown(told, page), "How long its stages took")
            except Transient:
                return
            except FlowgroupError as exc:  # the run is deleted, it may be
                log.get().warning("artifact_not_written", run=told["id"], reason=str(exc))
            if self._waiting and self._waiting[0] is told:
                self._waiting.popleft()


def markdown(told: Json, page: str) -> str:
    rows = [f"| {stage} | {_WORDS[stage]} | {seconds:.2f} s |" for stage, seconds in told["stages"].items()]
    where = f"on cluster `{told['cluster']}`: [how everything stands now]({page})" if told["cluster"] else f"<{page}>"
    return "\n".join(["| stage | | took |", "|---|---|---|", *rows, "", f"{told['outcome']}, {where}"])
