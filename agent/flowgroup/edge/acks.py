"""
Websockets whose pongs mean something: a ping is answered when all frames before it have been dealt with.

Prefect's client takes a pong as word that its events have arrived, and forgets them. uvicorn answers pings when it reads
them, however much is still in its queue.
"""

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class Acknowledging(WebSocketsSansIOProtocol):
    """The application has dealt with a frame when it asks for the next one."""

    _held = b""
    _is_asking = False

    def handle_ping(self) -> None:
        self._held += b"".join(self.conn.data_to_send())
        self._answer()

    async def receive(self) -> ASGIReceiveEvent:
        self._is_asking = True
        self._answer()
        try:
            return await super().receive()
        finally:
            self._is_asking = False

    def _answer(self) -> None:
        if self._held and self._is_asking and self.queue.empty():
            held, self._held = self._held, b""
            self.transport.write(held)
