"""The fence before calls, with httpx' real transport to a real socket, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from flowgroup.edge.fence import Fence, NotLeading

pytestmark = pytest.mark.looptime


@dataclass
class Server:
    """Answers after two seconds, and notes what it was asked."""

    asked: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            self.asked.append(head.split(b" ")[1].decode())
            await asyncio.sleep(2.0)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")


@asynccontextmanager
async def client(tmp_path: Path, fence: Fence, server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """One connection: a second call waits for it."""
    socket = str(tmp_path / "s.sock")
    way = httpx.AsyncHTTPTransport(uds=socket, verify=False, limits=httpx.Limits(max_connections=1))
    listening = await asyncio.start_unix_server(server.answer, socket)
    async with listening, httpx.AsyncClient(transport=way, event_hooks={"request": [fence.before]}) as made:
        yield made


async def test_a_call_that_waited_for_a_connection_while_the_fence_closed_is_not_made(tmp_path: Path) -> None:
    fence, server = Fence(), Server()
    async with client(tmp_path, fence, server) as http:
        fence.open(asyncio.get_running_loop().time() + 1.0)
        first, second = (asyncio.create_task(http.post(f"http://x/{name}")) for name in ("first", "second"))
        assert (await first).status_code == 204
        with pytest.raises(NotLeading):
            await second
        assert server.asked == ["/first"]
        with pytest.raises(NotLeading):
            await http.get("http://x/third")
        fence.open()
        assert (await http.get("http://x/fourth")).status_code == 204
        assert server.asked == ["/first", "/fourth"]
