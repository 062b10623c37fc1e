"""
The one door for records: judged as if each had come alone, made fit to leave, stored. Whoever is told "taken" by it need
not say it again.
"""

from collections.abc import Callable, Iterable
from typing import Any

from flowgroup import log, metrics
from flowgroup.relay import named
from flowgroup.relay.owners import Owners
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.spooling import Spool
from flowgroup.relay.tokens import OpenAttempt

Clean = Callable[[OpenAttempt, Kind, dict[str, Any]], dict[str, Any]]
"""From a record that may pass to what is stored of it, and so leaves the network: masked, cut."""

_NAMES = {Kind.LOGS: named.log_names, Kind.EVENTS: named.event_names}


def as_it_is(attempt: OpenAttempt, kind: Kind, record: dict[str, Any]) -> dict[str, Any]:
    """Nothing is masked or cut."""
    return record


class Intake:
    """`clean` sees every record that is stored, whichever way it came."""

    def __init__(self, owners: Owners, spool: Spool, clean: Clean = as_it_is) -> None:
        self.spool = spool
        self._owners = owners
        self._clean = clean

    async def passing(self, attempt: OpenAttempt, kind: Kind, records: Iterable[Any]) -> list[dict[str, Any]]:
        """What of these may pass, as it is to be stored. Raises Transient when the API has to be asked and is away."""
        passed: list[dict[str, Any]] = []
        for record in records:
            reason = await self._owners.why_not(attempt, _NAMES[kind](record))
            if reason is None:
                passed.append(self._clean(attempt, kind, record))
            else:
                log.get().warning("record_refused", run=attempt.run_id, kind=kind, reason=reason)
                metrics.RELAY_RECORDS.labels("refused").inc()
        metrics.RELAY_RECORDS.labels(kind).inc(len(passed))
        return passed
