"""How a process that lives for weeks gets its memory from the C library. Linux with glibc; elsewhere nothing is changed."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 128 * 1024


def gives_back() -> None:
    """
    From now on what is large has pages of its own, which go back when it is freed, and all threads share one heap.

    By itself glibc takes the size of the largest piece that was ever freed for "small" (up to 32 MiB), and gives each thread
    a heap of its own: bodies of calls then lie among small things that stay, and the process grows.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _LARGE_BYTES)
