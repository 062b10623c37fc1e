"""How many runs may be under way at once, and which ones are. Limiter and deduplicator in one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowgroup.metrics import RUNS_ACTIVE, SLOTS
from flowgroup.model.ids import RunId


class Slots:
    """A slot is held for a run's whole line, so runs that are Running count. `on_free` is called when one is given back."""

    def __init__(self, total: int, on_free: Callable[[], None] = lambda: None) -> None:
        self._total = total
        self._held: set[RunId] = set()
        self._on_free = on_free
        SLOTS.set(total)
        RUNS_ACTIVE.set(0)

    @property
    def free(self) -> int:
        """Never below 0, although runs that a former daemon left behind may be more than the slots."""
        return max(0, self._total - len(self._held))

    @property
    def held(self) -> frozenset[RunId]:
        return frozenset(self._held)

    @contextmanager
    def hold(self, run_id: RunId, *, even_if_full: bool = False) -> Iterator[bool]:
        """Hold a slot for the block. False if there is none, or if the run has one already."""
        if run_id in self._held or not (self.free or even_if_full):
            yield False
            return
        self._held.add(run_id)
        RUNS_ACTIVE.set(len(self._held))
        try:
            yield True
        finally:
            self._held.remove(run_id)
            RUNS_ACTIVE.set(len(self._held))
            self._on_free()
