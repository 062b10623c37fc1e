"""How a task and its arguments become bytes."""

import io
from typing import Any

import cloudpickle
from prefect.utilities.annotations import BaseAnnotation


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        """`quote`, `allow_failure` and the like are tuples that take their one item bare: pickled as tuples they nest."""
        if isinstance(obj, BaseAnnotation):
            return type(obj), (obj.unwrap(),)
        return super().reducer_override(obj)


def dumped(thing: Any) -> bytes:
    """By value what is registered so, as cloudpickle does."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(thing)
    return buffer.getvalue()


class _TooLarge(Exception):
    pass


class _Bounded(io.BytesIO):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._limit_bytes:
            raise _TooLarge
        return super().write(data)


def dumped_if_small(thing: Any, limit_bytes: int) -> bytes | None:
    """None for what is larger, which costs no more than the limit; and for what cannot be pickled."""
    buffer = _Bounded(limit_bytes)
    try:
        _Pickler(buffer).dump(thing)
    except Exception:  # noqa: BLE001  a task's own result: whatever its `__reduce__` raises
        return None
    return buffer.getvalue()
