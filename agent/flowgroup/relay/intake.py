"""
The one door for records: judged as if each had come alone, made fit to leave, stored. Whoever is told "taken" by it need
not say it again.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from flowgroup import log, metrics
from flowgroup.relay import leaving, named
from flowgroup.relay.cleaning import Masks, Sent, cleaned_event, cleaned_log
from flowgroup.relay.owners import Owners
from flowgroup.relay.spool.rows import Kind
from flowgroup.relay.spool.spooling import Spool
from flowgroup.relay.tokens import OpenAttempt
from flowgroup.relay.turns import in_between

_Clean = Callable[[dict[str, Any], Masks, Sent], dict[str, Any]]
_NAMES = {Kind.LOGS: named.log_names, Kind.EVENTS: named.event_names}
_CLEAN: dict[Kind, _Clean] = {Kind.LOGS: cleaned_log, Kind.EVENTS: cleaned_event}


class Intake:
    """Every record that is stored comes by here, whichever way it came to the relay."""

    def __init__(self, owners: Owners, spool: Spool) -> None:
        self.spool = spool
        self._owners = owners

    async def passing(self, attempt: OpenAttempt, kind: Kind, records: Iterable[Any]) -> list[dict[str, Any]]:
        """What of these may pass, as it is to be stored. Raises Transient when the API has to be asked and is away."""
        passed: list[dict[str, Any]] = []
        sent = Sent()
        async for record in in_between(records):
            reason = await self._owners.why_not(attempt, _NAMES[kind](record))
            if reason is None:
                passed.append(_leaving(attempt, kind, record, sent))
            else:
                log.get().warning("record_refused", run=attempt.run_id, kind=kind, reason=reason)
                metrics.RELAY_RECORDS.labels("refused").inc()
        leaving.count(attempt, kind, sent)
        return passed


def _leaving(attempt: OpenAttempt, kind: Kind, record: dict[str, Any], sent: Sent) -> dict[str, Any]:
    """What is stored of a record that may pass, and so leaves the network: without secrets, cut, and counted in `sent`."""
    left = _CLEAN[kind](record, attempt.masks, sent)
    sent.records += 1
    sent.bytes += len(json.dumps(left))
    return left
