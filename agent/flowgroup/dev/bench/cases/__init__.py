"""
The cases: one function each, from a side that is up to figures. Add a function and name it in `CASES`.

A pause of random length stands before each single run: a worker polls in a rhythm of its own.
"""

from collections.abc import Callable, Iterator

from flowgroup.dev.bench.cases.bursts import burst
from flowgroup.dev.bench.cases.costs import idle, memory
from flowgroup.dev.bench.cases.dask import storm, tasks
from flowgroup.dev.bench.cases.heard import chatter, heard
from flowgroup.dev.bench.cases.in_pods import ahead, first_task, from_nothing, many, warm
from flowgroup.dev.bench.cases.relayed import relayed
from flowgroup.dev.bench.cases.starts import ad_hoc, ad_hoc_polled, cold, first_run, pandas, scheduled
from flowgroup.dev.bench.figures import Figure
from flowgroup.dev.bench.sides import Bench, Side

Case = Callable[[Bench, Side], Iterator[Figure]]

CASES: tuple[Case, ...] = (
    first_run,
    ad_hoc,
    ad_hoc_polled,
    scheduled,
    cold,
    pandas,
    burst,
    heard,
    chatter,
    memory,
    idle,
    tasks,
    storm,
    relayed,
)
IN_PODS: tuple[Case, ...] = (warm, many, first_task, from_nothing, ahead)
"""Those on Kubernetes."""
OURS_ONLY: frozenset[Case] = frozenset(
    {ad_hoc_polled, cold, pandas, chatter, idle, tasks, storm, relayed, first_task, ahead}
)
