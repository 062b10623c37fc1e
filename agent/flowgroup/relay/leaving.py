"""
What leaves the network is counted: for its run (`attempt_closed` in the log says it in the end) and, by kind, for all.

Metrics never have a run's id, for there would be no end of them.
"""

from flowgroup import metrics
from flowgroup.relay.cleaning import Sent
from flowgroup.relay.tokens import OpenAttempt


def count(attempt: OpenAttempt, kind: str, sent: Sent) -> None:
    """`sent` of this kind has left, and this was done to it."""
    attempt.sent.add(sent)
    metrics.RELAY_RECORDS.labels(kind).inc(sent.records)
    metrics.RELAY_LEFT_BYTES.labels(kind).inc(sent.bytes)
    metrics.RELAY_MASKED.labels(kind).inc(sent.masked)
    metrics.RELAY_CUT.labels(kind).inc(sent.cut)
