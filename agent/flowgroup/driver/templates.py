"""
Which runs are forked from which template; when one is made, made anew, and given up.

In: what each run imported, and the environment that it had. Out: who forks the next run of that environment. A template is
only ever a faster way: without one the zygote forks.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowgroup import log
from flowgroup.driver import installed
from flowgroup.driver.forks import Forks
from flowgroup.driver.learned import Key, LeftOut, Wish, key_of, names_in
from flowgroup.driver.template import Template, Unfit, warmed
from flowgroup.errors import Permanent

_log = log.get()
_MAX_TEMPLATES = 4
_MAX_KINDS = 64
_MAX_FAILURES = 3  # templates of one environment that died
_MAX_WASTED = 4  # templates that nobody used, before an environment must have been seen twice to get one


@dataclass(frozen=True)
class Pace:
    """`rebuild_s`: at the least between two templates of one environment. `ready_s`: how long one may take."""

    rebuild_s: float = 10.0
    ready_s: float = 120.0


@dataclass(eq=False)
class _Kind:
    """Runs of one environment. `has` is what its template was asked to import."""

    env: dict[str, str]
    wish: Wish = field(default_factory=Wish)
    template: Template | None = None
    has: frozenset[str] = frozenset()
    stamp: tuple[int, ...] = ()
    runs: int = 0
    failures: int = 0
    not_before: float = 0.0


@dataclass(eq=False)
class Templates:
    """`folder` is where templates have their working folders; `tasks` owns what goes on in the background."""

    zygote: Forks
    folder: Path
    tasks: asyncio.TaskGroup
    pace: Pace = Pace()
    _kinds: dict[Key, _Kind] = field(default_factory=dict)  # the one that was used last is the last
    _left_out: LeftOut = field(default_factory=LeftOut)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _wasted: int = 0

    def forks_for(self, env: Mapping[str, str]) -> Forks | Template:
        """Who forks a run that adds this to the driver's environment."""
        kind = self._kind(env)
        kind.runs += 1
        if kind.template and kind.stamp != installed.stamp():
            _log.info("template_outdated", template=kind.template.name, note="packages were installed or removed")
            self._drop(kind)
        self._news.set()
        return kind.template if kind.template and kind.template.alive else self.zygote

    def learn(self, env: Mapping[str, str], note: Any) -> None:
        """A run with this environment says what it has imported. It may say anything."""
        names = names_in(note)
        if names:
            self._kind(env).wish.learn(names)
            self._news.set()

    async def keep(self) -> None:
        """Make templates as they are worth it, one at a time. Endless."""
        while True:
            kind = await self._next()
            ready = asyncio.get_running_loop().create_future()
            self.tasks.create_task(self._live(kind, ready), name="template")
            await ready

    async def _next(self) -> _Kind:
        now = asyncio.get_running_loop().time
        while True:
            self._news.clear()
            due = min(filter(self._is_due, self._kinds.values()), key=lambda kind: kind.not_before, default=None)
            if due and due.not_before <= now():
                return due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due.not_before if due else None):
                    await self._news.wait()

    def _is_due(self, kind: _Kind) -> bool:
        often_enough = kind.runs >= (1 if self._wasted < _MAX_WASTED else 2)
        return often_enough and kind.failures < _MAX_FAILURES and kind.wish.is_worth_a_template(self._left_out)

    async def _live(self, kind: _Kind, ready: "asyncio.Future[None]") -> None:
        """A template's whole life. Its end is never an error: the zygote forks as well."""
        name = f"template-{next(self._numbers)}"
        asked, stamp = kind.wish.ask(self._left_out), installed.stamp()
        kind.wish.tried = frozenset(asked)
        wish = {"env": kind.env, "modules": asked}
        try:
            async with warmed(self.zygote, name, self.folder / name, wish, timeout_s=self.pace.ready_s) as template:
                _log.info("template_ready", template=name, pid=template.pid, modules=len(asked))
                kind.has, kind.stamp = frozenset(asked), stamp
                self._replace(kind, template)
                ready.set_result(None)
                await template.last()
        except Unfit as exc:
            self._leave_out(kind, exc)
        except (Permanent, OSError, TimeoutError) as exc:
            self._failed(kind, name, exc)
        finally:
            if not ready.done():
                ready.set_result(None)
            self._news.set()

    def _replace(self, kind: _Kind, template: Template) -> None:
        self._pause(kind, self.pace.rebuild_s)
        if kind.template:
            kind.template.retire()
        kind.template = template
        used = [other for other in self._kinds.values() if other.template]
        if kind not in used:  # forgotten meanwhile: too many environments have come since
            template.retire()
        if len(used) > _MAX_TEMPLATES:
            self._evict(next(other for other in used if other is not kind))

    def _evict(self, kind: _Kind) -> None:
        self._wasted += kind.template is not None and not kind.template.served
        kind.runs = 0
        self._drop(kind)

    def _drop(self, kind: _Kind) -> None:
        """It gets a new template when it has earned one."""
        if kind.template:
            kind.template.retire()
        kind.template, kind.has, kind.wish.tried = None, frozenset(), frozenset()

    def _leave_out(self, kind: _Kind, unfit: Unfit) -> None:
        left_out = self._left_out.add(unfit.module)
        _log.info("module_left_out", module=left_out, reason=unfit.why, note="each run imports it anew")
        kind.wish.tried = kind.has
        self._pause(kind, self.pace.rebuild_s / 10)

    def _failed(self, kind: _Kind, name: str, exc: Exception) -> None:
        late = isinstance(exc, TimeoutError)
        kind.failures = _MAX_FAILURES if late else kind.failures + 1
        reason = f"it was not ready within {self.pace.ready_s:.0f} s" if late else str(exc)
        _log.warning("template_failed", template=name, reason=reason, given_up=kind.failures >= _MAX_FAILURES)
        self._pause(kind, self.pace.rebuild_s)
        if kind.template and not kind.template.alive:
            self._drop(kind)
        elif not kind.template:
            kind.wish.tried = frozenset()

    def _pause(self, kind: _Kind, seconds: float) -> None:
        kind.not_before = asyncio.get_running_loop().time() + seconds

    def _kind(self, env: Mapping[str, str]) -> _Kind:
        key = key_of(env)
        kind = self._kinds.pop(key, None) or _Kind(dict(key))
        self._kinds[key] = kind
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(key for key, other in self._kinds.items() if not other.template)]
        return kind
