"""
One run's journey: the whole daemon in one coroutine.

    due -> held -> planned -> claimed -> placed -> sent -> watched -> told

Before the claim a trouble puts the run down: it is still due, and the poll finds it again. After the claim there is no
next poll: what can be tried again is tried here until the deadline, and then the run is given back.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from flowgroup import log
from flowgroup.daemon.cancel import Cancels
from flowgroup.daemon.placement import Policy, place
from flowgroup.daemon.renew import renewed
from flowgroup.daemon.slots import Slots
from flowgroup.errors import FlowgroupError, Permanent, Refused, Transient
from flowgroup.metrics import CLAIMS, RUNS_FINISHED, SCHEDULE_TO_CLAIM, STAGE_SECONDS
from flowgroup.model.clusters import Found
from flowgroup.model.ids import AttemptId, ClusterName, DeploymentId, RunId, new_attempt
from flowgroup.model.orders import BundleCode, Order, PrefectCode
from flowgroup.model.runs import (
    Cancelled,
    ClaimedRun,
    Crashed,
    Deployment,
    DueRun,
    GivenBack,
    NotClaimed,
    Opened,
    Outcome,
    Placement,
    SentRun,
)
from flowgroup.model.spec import ClusterSpec
from flowgroup.retry import until

T = TypeVar("T")

_CLAIM_TIMEOUT_S = 30.0
_PUT_DOWN_S = 2.0
_PUT_DOWN_PERMANENT_S = 30.0
_GIVE_BACK_AFTER_S = 10.0
_GIVE_BACK_TIMEOUT_S = 5.0
_PRESIGNED_S = 3600.0


class Api(Protocol):
    async def template(self) -> dict[str, Any]: ...
    async def deployment(self, deployment_id: DeploymentId, version: str | None = None) -> Deployment: ...
    async def claim(self, due: DueRun, attempt: AttemptId) -> ClaimedRun | NotClaimed: ...
    async def renew_lease(self, lease: str) -> None: ...


class Clusters(Protocol):
    def turn(self, spec: ClusterSpec | None, run_id: RunId) -> AbstractContextManager[bool]: ...
    def lease(
        self, name: ClusterName, run_id: RunId, idle_timeout_s: float | None = None
    ) -> AbstractContextManager[None]: ...
    async def ready(self, spec: ClusterSpec) -> Found: ...


class Attempts(Protocol):
    async def open(self, attempt: AttemptId, run_id: RunId, results: str | None) -> Opened: ...
    async def close(self, attempt: AttemptId) -> None: ...


class Drivers(Protocol):
    def send(self, cluster: ClusterName, order: Order) -> None: ...
    def cancel(self, cluster: ClusterName, attempt: AttemptId, grace_s: float) -> None: ...
    def forget(self, cluster: ClusterName, attempt: AttemptId) -> None: ...


class Watch(Protocol):
    async def outcome(
        self, sent: SentRun, *, asked: asyncio.Event, on_running: Callable[[], None]
    ) -> Outcome: ...


class Teller(Protocol):
    async def tell(self, run_id: RunId, attempt: AttemptId, outcome: Outcome) -> None: ...


class Store(Protocol):
    async def presign(self, address: str, expires_s: float) -> str: ...
    def results(self, bundle: str, flow_name: str) -> str: ...
