"""The open attempts: who may speak through the relay, and which ids are theirs."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from flowgroup import log
from flowgroup.model.ids import AttemptId, RunId
from flowgroup.model.proofs import daemon_of
from flowgroup.relay.cleaning import Masks, Sent

# Beyond these an attempt's ids are looked up at the API, or treated as unseen: memory stays bounded.
_MOST_KEPT = 100_000


class Kind(StrEnum):
    """The kinds of things that a call may name and that belong to somebody."""

    FLOW_RUN = "flow run"
    TASK_RUN = "task run"
    ARTIFACT = "artifact"
    # Judged in the profile `strict` alone.
    DEPLOYMENT = "deployment"
    WORK_POOL = "work pool"
    WORK_QUEUE = "work queue"
    VARIABLE = "variable"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Named:
    """
    Something that a call names and that must belong to the caller.

    `may_be_new`: the call may itself bring it into being, as the first event of a task run does.
    """

    kind: Kind
    id: str
    may_be_new: bool = False


class Belongings:
    """
    The ids that belong to one attempt: its run, what it started, what it made.

    A task run that an attempt's calls bring into being is only claimed: nobody has confirmed that it was not
    there before. Claimed is enough to go on speaking of it, and not enough for calls that act on what is
    there.
    """

    def __init__(self, run_id: RunId) -> None:
        self._own: set[tuple[Kind, str]] = {(Kind.FLOW_RUN, run_id)}
        self._claimed: set[str] = set()

    def cover(self, named: Named) -> bool:
        return self.has(named.kind, named.id) or (named.may_be_new and named.id in self._claimed)

    def has(self, kind: Kind, id: str) -> bool:
        return (kind, id) in self._own

    def has_task_run(self, id: str) -> bool:
        """Its own or claimed."""
        return id in self._claimed or self.has(Kind.TASK_RUN, id)

    def add(self, kind: Kind, id: str) -> None:
        if len(self._own) < _MOST_KEPT:
            self._own.add((kind, id))

    def claim(self, task_run: str) -> None:
        if len(self._claimed) < _MOST_KEPT:
            self._claimed.add(task_run)


@dataclass(frozen=True, slots=True)
class Opening:
    """
    One attempt as its daemon opens it. `results` is the folder below which its child may have addresses
    signed; `daemon` tells the daemons of several pools apart.
    """

    attempt: AttemptId
    run_id: RunId
    token_sha256: str
    results: str | None
    ttl_s: float
    daemon: str = ""


@dataclass(slots=True)
class OpenAttempt:
    """An attempt that may speak now. `until` moves when the daemon extends it."""

    id: AttemptId
    run_id: RunId
    token_sha256: str
    results: str | None
    until: float
    daemon: str
    belongings: Belongings = field(repr=False)
    masks: Masks = field(repr=False)
    sent: Sent = field(default_factory=Sent)
    websockets: int = 0


class Attempts:
    """
    All open attempts. Times are of one monotonic clock, which the caller reads.

    `known` is false from the start until a daemon has said what is open: a relay that was restarted must not
    refuse a run that it merely does not know yet. Of several daemons each speaks for its own attempts, and a
    token proves which daemon made it (`key`, the control key), so that one of them is not taken for all, and a forged
    one is refused however late a daemon is (`may_be_open`).

    An attempt's time runs out only by what the daemon says: at its last word, was this attempt already past
    its time? While the daemon is away nothing runs out, so that its restart ends no run.
    """

    def __init__(self, key: str = "", patterns: tuple[re.Pattern[str], ...] = ()) -> None:
        """`patterns` are masked in everything that leaves."""
        self.known = False
        self._patterns = patterns
        self._key = key
        self._heard_of: set[str] = set()
        self._by_token: dict[str, OpenAttempt] = {}
        self._by_id: dict[AttemptId, OpenAttempt] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def open(self, opening: Opening, now: float) -> None:
        """Open or extend one attempt. What is known to belong to it stays known."""
        self._put(opening, now)
        self._heard(opening.daemon, now)

    def level(self, openings: Iterable[Opening], now: float, daemon: str = "") -> None:
        """Exactly these of this daemon are open from now on."""
        wanted = {opening.attempt: opening for opening in openings}
        for gone in [id for id, one in self._by_id.items() if one.daemon == daemon and id not in wanted]:
            self._drop(gone)
        for opening in wanted.values():
            self._put(opening, now)
        self._heard(daemon, now)

    def close(self, attempt: AttemptId) -> bool:
        """Close one attempt; whether it was open. It says nothing of the others."""
        was_open = attempt in self._by_id
        self._drop(attempt)
        return was_open

    def may_be_open(self, token: str) -> bool:
        """Whether a token that is not found may be of a daemon that has said nothing yet."""
        daemon = daemon_of(token, self._key)
        return not self.known or (daemon is not None and daemon not in self._heard_of)

    def find(self, token: str) -> OpenAttempt | None:
        """The attempt whose token this is, if it is open. It is not said in what leaves."""
        shown = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = self._by_token.get(shown)
        if found is None or not hmac.compare_digest(found.token_sha256, shown):
            return None
        found.masks.add((token,))
        return found

    def is_open(self, attempt: OpenAttempt) -> bool:
        """Whether an attempt that was found earlier is still open."""
        return self._by_id.get(attempt.id) is attempt

    def is_anothers(self, attempt: OpenAttempt, task_run: str) -> bool:
        """Whether another open attempt has, or has claimed, this task run."""
        return any(other is not attempt and other.belongings.has_task_run(task_run) for other in self._by_id.values())

    def _put(self, opening: Opening, now: float) -> None:
        before = self._by_id.get(opening.attempt)
        until = now + opening.ttl_s
        if before and (before.run_id, before.token_sha256) == (opening.run_id, opening.token_sha256):
            before.until, before.results = until, opening.results
            return
        self._drop(opening.attempt)
        opened = OpenAttempt(
            id=opening.attempt,
            run_id=opening.run_id,
            token_sha256=opening.token_sha256,
            results=opening.results,
            until=until,
            daemon=opening.daemon,
            belongings=Belongings(opening.run_id),
            masks=Masks(self._patterns),
        )
        self._by_id[opened.id] = self._by_token[opened.token_sha256] = opened

    def _drop(self, attempt: AttemptId) -> None:
        gone = self._by_id.pop(attempt, None)
        if gone is None:
            return
        if self._by_token.get(gone.token_sha256) is gone:
            del self._by_token[gone.token_sha256]
        log.get().info("attempt_closed", run=gone.run_id, attempt=gone.id, **asdict(gone.sent))

    def _heard(self, daemon: str, now: float) -> None:
        self.known = True
        self._heard_of.add(daemon)
        for id in [open.id for open in self._by_id.values() if open.daemon == daemon and open.until < now]:
            self._drop(id)
