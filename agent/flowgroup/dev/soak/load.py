"""What a pool does each day, in short: runs, lines, tasks on workers, cancellations, new versions."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flowgroup.dev.bench import runs
from flowgroup.dev.bench.sides import Asked, Bench, deployed

_WAIT_S, _LOOK_S = 120.0, 1.0
_ENDS = ("COMPLETED", "CANCELLED", "FAILED", "CRASHED")
_NEVER = "/nonexistent"


@dataclass
class Load:
    """`step` does what is due by now. Runs are counted when they are asked for; `judge` says in the end what came of them."""

    bench: Bench
    pool: str
    deployments: dict[str, str] = field(default_factory=dict)
    asked: dict[str, list[str]] = field(default_factory=dict)
    _sleeping: list[str] = field(default_factory=list)
    _since: list[str] = field(default_factory=list)  # the last rest, but what sleeps
    _versions: int = 0
    _due: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flows = [Asked("speaks", "flows.py:speaks"), Asked("sleeps", "flows.py:sleeps")]
        self.deployments = deployed(self.bench, self.pool, [*flows, Asked("maps", "flows.py:maps", {"workers": 1})])
        self._deploy()

    def step(self) -> None:
        chores: tuple[tuple[str, float, Callable[[], None]], ...] = (
            ("empty", 1.0, lambda: self._start("empty")),
            ("speaks", 5.0, lambda: self._start("speaks")),
            ("maps", 10.0, lambda: self._start("maps", count=50)),
            ("cancel", 30.0, self._cancel),
            ("deploy", 180.0, self._deploy),
        )
        for name, every_s, do in chores:
            now = time.monotonic()
            if now >= self._due.setdefault(name, now + (every_s if name == "deploy" else 0.0)):
                self._due[name] = max(now, self._due[name] + every_s)
                do()

    def burst(self, count: int) -> None:
        """So many runs of `empty` at once: what is bounded by how much is under way gets as large as it will be."""
        for _ in range(count):
            self._start("empty")

    def rest(self) -> None:
        """Ask for nothing until all has ended but what sleeps, or its time is up."""
        deadline = time.monotonic() + _WAIT_S
        while self._count(self._since, *_ENDS) < len(self._since) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        self._since.clear()

    def end(self) -> None:
        """Nothing more is asked for; what sleeps is cancelled, and all has its time to end."""
        self._cancel(again=False)
        deadline = time.monotonic() + _WAIT_S
        while self._unended() and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    def judge(self) -> list[str]:
        """Every run whose end is not the one that it was to have, by numbers."""
        found = []
        for flow, asked in self.asked.items():
            wanted = "CANCELLED" if flow == "sleeps" else "COMPLETED"
            if missed := len(asked) - self._count(asked, wanted):
                found.append(f"{missed} of {len(asked)} runs of {flow} are not {wanted}")
        return found

    def _start(self, name: str, **parameters: Any) -> None:
        flow = name.partition("-")[0]
        run = runs.start(self.bench.api, self.deployments[name], **parameters)
        self.asked.setdefault(flow, []).append(run)
        if flow != "sleeps":
            self._since.append(run)

    def _cancel(self, again: bool = True) -> None:
        """The run that sleeps since the last time."""
        for run in self._sleeping:
            runs.cancel(self.bench.api, run)
        self._sleeping.clear()
        if again:
            self._start("sleeps", until=_NEVER)
            self._sleeping.append(self.asked["sleeps"][-1])

    def _deploy(self) -> None:
        """A new version of `empty`, with another environment: a new generation, whose cluster takes the old one's place."""
        self._versions += 1
        asked = [Asked("empty", "empty.py:empty", None, f"true {self._versions}")]
        self.deployments |= deployed(self.bench, self.pool, asked)

    def _unended(self) -> bool:
        return any(len(asked) > self._count(asked, *_ENDS) for asked in self.asked.values())

    def _count(self, asked: list[str], *types: str) -> int:
        slices = [asked[start : start + 200] for start in range(0, len(asked), 200)]
        return sum(runs.count(self.bench.api, some, types) for some in slices)
