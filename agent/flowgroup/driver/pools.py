"""
The thread pools of numerical libraries: one thread each while a template imports, their usual size in its children.

A library that starts its threads when it is loaded could not be forked; one thread is the caller's own.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from flowgroup.settings import threads_wanted

_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
    "numexpr": ("NUMEXPR_NUM_THREADS", "OMP_NUM_THREADS"),
    "accelerate": ("VECLIB_MAXIMUM_THREADS",),
}
ONE_THREAD = {name: "1" for names in _VARIABLES.values() for name in names}
# pyarrow's allocator would start a thread when it is loaded. Without it freed memory goes back a little later.
NO_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}


def found() -> Callable[[], None]:
    """In a template: gives what sets the pools that are loaded now to their usual size, in a child."""
    from threadpoolctl import ThreadpoolController  # only templates need it

    sized = [(library, size(library.internal_api)) for library in ThreadpoolController().lib_controllers]

    def restore() -> None:
        for library, threads in sized:
            library.set_num_threads(threads)
        _restore_others()

    return restore


def size(library: str) -> int:
    """What the environment says for this kind of library, else as many threads as there are CPUs to use."""
    return threads_wanted(*_VARIABLES.get(library, ("OMP_NUM_THREADS",))) or len(os.sched_getaffinity(0))


def _restore_others() -> None:
    """Pools that only their own packages know."""
    numexpr: Any = sys.modules.get("numexpr")
    if numexpr:
        numexpr.utils._init_num_threads()
    arrow: Any = sys.modules.get("pyarrow")
    if arrow:
        arrow.set_cpu_count(size("openmp"))
