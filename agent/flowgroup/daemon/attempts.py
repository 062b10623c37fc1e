"""
Which attempts are open at the relays, and the tokens of their children.

In: an attempt that is about to be sent, or has ended. Out: a token, and each relay's level. All levels are on disk (only
hashes of the tokens), so that a new daemon keeps the children of the former one connected. Where the disk was lost, drivers
have it too, sealed: until they have shown it no relay is told anything, for it would take that for all there is.
"""

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from flowgroup import log
from flowgroup.daemon.points import reached
from flowgroup.daemon.seals import Seals
from flowgroup.edge.files import read_text, write_atomically
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.errors import FlowgroupError
from flowgroup.model.ids import FIRST_RELAY, AttemptId, ClusterName, RelayName
from flowgroup.model.proofs import new_token
from flowgroup.model.runs import ClaimedRun, Opened

_EXTEND_EVERY_S = 5.0
_ATTEMPTS = TypeAdapter(list[OpenAttempt])


class Relay(Protocol):
    async def level(self, attempts: Sequence[OpenAttempt]) -> None: ...
    async def close(self, attempt: AttemptId) -> None: ...


class Relays(Protocol):
    @property
    def listed(self) -> Sequence[RelayName]: ...
    def of(self, name: RelayName) -> Relay: ...


@dataclass(slots=True)
class _Told:
    """Of one relay: the last of our changes that it has been told. It is told one level at a time."""

    version: int = -1
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Attempts:
    """
    A relay is always told its whole level, never that one more is open: a relay that was just started again would
    take a single one for all there are, and refuse the others' children. One through which nothing speaks is told that.
    """

    def __init__(
        self, relays: Relays, file: Path, seals: Seals | None = None, *, daemon: str = "", key: str = ""
    ) -> None:
        """
        Without `seals` there is nothing to get back, and nothing is waited for. `daemon` is what relays know us by, and
        `key` the control key: our tokens show both, so that a relay which has not heard of us yet does not refuse them.
        """
        self._relays = relays
        self._file = file
        self._seals = seals
        self._known_by = (daemon, key)
        read = _read(file)
        self._is_whole = asyncio.Event()
        if read is not None or seals is None:
            self._is_whole.set()
        self._open = {one.attempt: one for one in read or ()}
        self._told: defaultdict[RelayName, _Told] = defaultdict(_Told)
        self._version = 0
        self._saved = 0

    async def open(
        self, run: ClaimedRun, cluster: ClusterName, results: str | None, relay: RelayName = FIRST_RELAY
    ) -> Opened:
        """
        Open the run's attempt, with a new token, at the relay that its cluster speaks through. Raises Transient when that
        one does not take it.
        """
        token = new_token(*self._known_by)
        hashed = hashlib.sha256(token.encode()).hexdigest()
        opened = OpenAttempt(run.attempt, run.id, hashed, results, cluster, relay)
        self._change({**self._open, run.attempt: opened})
        await self._tell(relay)
        reached("opened")
        return Opened(run.attempt, token, self._seals.seal(opened) if self._seals else "")

    async def close(self, attempt: AttemptId) -> None:
        """Close the attempt: from now on its child cannot say anything. If its relay is away, its next level says so."""
        known = self._open.get(attempt)
        relays = (known.relay,) if known else self._relays.listed
        self._change({name: one for name, one in self._open.items() if name != attempt})
        await asyncio.sleep(0)  # runs that end together share a write
        if self.is_whole:  # else the first level says it
            await asyncio.gather(*(self._close_at(relay, attempt) for relay in relays))

    async def _close_at(self, relay: RelayName, attempt: AttemptId) -> None:
        try:
            self._save()
            reached("shut")
            await self._relays.of(relay).close(attempt)
        except FlowgroupError as exc:
            log.get().warning("relay_close_put_off", attempt=attempt, reason=str(exc))

    def listed(self) -> list[OpenAttempt]:
        return list(self._open.values())

    # Lost and found

    @property
    def is_whole(self) -> bool:
        """Whether all that is open is known: from the disk, or because `found` was told."""
        return self._is_whole.is_set()

    def unsealed(self, shown: Iterable[tuple[ClusterName, str]]) -> list[OpenAttempt]:
        """What drivers show of ours."""
        assert self._seals is not None
        opened = [(cluster, self._seals.opened(seal, cluster)) for cluster, seal in shown]
        for cluster in {cluster for cluster, one in opened if one is None}:
            log.get().warning("seal_not_ours", cluster=cluster)
        return [one for _, one in opened if one is not None]

    def found(self, attempts: Iterable[OpenAttempt]) -> None:
        """These are open too, and now all is known."""
        self._change({**{one.attempt: one for one in attempts}, **self._open})
        self._is_whole.set()

    async def extend(self, moved: Callable[[], None] = lambda: None) -> None:
        """
        Tell each relay its level every few seconds, for ever: it may have been started again, and attempts expire there.

        Of a relay that is not listed any more the attempts go on until they end.
        """
        while not self._is_whole.is_set():
            moved()
            with suppress(TimeoutError):
                async with asyncio.timeout(_EXTEND_EVERY_S):
                    await self._is_whole.wait()
        others = {one.relay for one in self._open.values()}.difference(self._relays.listed)
        for relay in others:
            log.get().warning(
                "relay_not_listed", relay=relay, attempts=len(self._at(relay)), then="no new runs go there"
            )
        async with asyncio.TaskGroup() as extending:
            for relay in (*self._relays.listed, *others):
                extending.create_task(self._extend(relay, moved), name=f"extend at relay {relay}")

    async def _extend(self, relay: RelayName, moved: Callable[[], None]) -> None:
        is_away = False
        while relay in self._relays.listed or self._at(relay):
            moved()
            try:
                self._told[relay].version = -1
                await self._tell(relay)
                is_away = False
            except FlowgroupError as exc:
                if not is_away:
                    log.get().warning("relay_away", reason=str(exc))
                is_away = True
            await asyncio.sleep(_EXTEND_EVERY_S)

    async def _tell(self, relay: RelayName) -> None:
        await self._is_whole.wait()
        wanted, told = self._version, self._told[relay]
        async with told.lock:  # one at a time, so that an older level never arrives last; who waited finds it told
            if told.version >= wanted:
                return
            telling = self._version
            self._save()
            reached("opening")
            await self._relays.of(relay).level(self._at(relay))
            told.version = telling

    def _at(self, relay: RelayName) -> tuple[OpenAttempt, ...]:
        return tuple(one for one in self._open.values() if one.relay == relay)

    def _change(self, attempts: dict[AttemptId, OpenAttempt]) -> None:
        self._open = attempts
        self._version += 1

    def _save(self) -> None:
        if self._saved != self._version:
            saving = self._version
            write_atomically(self._file, json.dumps([asdict(one) for one in self._open.values()]))
            self._saved = saving


def _read(file: Path) -> list[OpenAttempt] | None:
    """What a former daemon left, None if nothing is there. A file that cannot be read is said, and is as none."""
    text = read_text(file)
    try:
        return None if text is None else _ATTEMPTS.validate_json(text)
    except ValueError as exc:
        log.get().error("attempts_file_unreadable", file=str(file), reason=str(exc))
        return None
