"""A web server inside of a process that has other work."""

import contextlib
from collections.abc import Iterator

import uvicorn


class Embedded(uvicorn.Server):
    """A uvicorn server that leaves signals to the process that it is in."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def port(self) -> int:
        """Where it listens, once it has started."""
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port
