"""
What hostile user code does to a relay, one function an attack: for `dev/hostile.py` and the tests.

Each gives what came of it: how often which status was answered (`"401"`), or `closed` where the relay hung up without a word.
"""

import asyncio
import contextlib
import json
import secrets
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.typing import Subprotocol

_AT_ONCE = 100
_PATIENCE_S = 30.0
_ODD_PATHS = (
    "/api/flow_runs/../admin/settings",
    "/api/%2e%2e/admin/settings",
    "/api/flow_runs/%2e%2e/admin/settings",
    "/api/flow_runs/..%2fadmin",
    "/api/flow_runs%2f..%2fadmin",
    "/api//admin/settings",
    "/api/./admin/settings",
    "/api/variables/name/%252e%252e",
    "/api/variables/name/a%00b",
    "/api/admin/settings;/health",
    "/api/admin\\settings",
    "http://elsewhere/api/admin/settings",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A relay on loopback, the token and the run that the hostile code has been given, and another's run."""

    host: str
    port: int
    token: str
    run: str
    other_run: str


async def forged_tokens(target: Target, count: int) -> Counter[str]:
    """Tokens that nobody made, of every form."""
    forms = (
        lambda: secrets.token_urlsafe(32),
        lambda: f"{secrets.token_hex(4)}.{secrets.token_urlsafe(32)}",
        lambda: f"{secrets.token_hex(4)}.{secrets.token_urlsafe(32)}.{secrets.token_hex(16)}",
        lambda: target.token[:-1] + ("x" if target.token[-1] != "x" else "y"),
    )
    return await _all(_said(target, _call(token=forms[number % 4]())) for number in range(count))


async def others_runs(target: Target, count: int) -> Counter[str]:
    """A good token, for another run's state and logs."""
    state = json.dumps({"state": {"type": "CANCELLED"}}).encode()
    logs = json.dumps([{"flow_run_id": target.other_run, "message": "x", "level": 20}]).encode()
    calls = (
        _call("POST", f"/api/flow_runs/{target.other_run}/set_state", token=target.token, body=state),
        _call("POST", "/api/logs/", token=target.token, body=logs),
        _call("DELETE", f"/api/flow_runs/{target.other_run}", token=target.token),
    )
    return await _all(_said(target, calls[number % 3]) for number in range(count))


async def smuggling(target: Target, count: int) -> Counter[str]:
    """Bodies with two lengths, and calls hidden within them."""
    hidden = _call("DELETE", "/api/admin/database", token=target.token)
    head = f"POST /api/variables/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.token}\r\nConnection: close\r\n".encode()
    long = str(len(hidden) + 5).encode()
    bodies = (
        b"Content-Length: " + long + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: " + long + b"\r\n\r\nabc" + hidden,
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden,
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
        b"Content-Length: +3\r\n\r\nabc" + hidden,
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + hidden,
    )
    return await _all(_said(target, head + bodies[number % len(bodies)]) for number in range(count))


async def huge_headers(target: Target, count: int) -> Counter[str]:
    """One header of a megabyte, ten thousand headers, and a path without end."""
    many = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
    heads = (
        b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Huge: " + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n",
        b"GET /api/" + b"a/" * 500_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    return await _all(_said(target, heads[number % 3]) for number in range(count))


async def odd_paths(target: Target, count: int) -> Counter[str]:
    """Paths that might mean one thing to the relay and another to the API."""
    calls = [_call(path=path, token=target.token) for path in _ODD_PATHS]
    return await _all(_said(target, calls[number % len(calls)]) for number in range(count))


async def slow_bodies(target: Target, count: int) -> Counter[str]:
    """Heads of calls whose bodies come a byte a second, with a good token; and heads that never end."""
    head = (
        f"POST /api/logs/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {target.token}\r\nContent-Length: 100000\r\n\r\n"
    )
    heads = (head.encode(), b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    return await _all((_dribbled(target, heads[number % 2]) for number in range(count)), at_once=count)


async def connections(target: Target, count: int) -> Counter[str]:
    """Connections that say nothing, all at once."""
    return await _all((_silent(target) for _ in range(count)), at_once=count)


async def kept_connections(target: Target, count: int) -> Counter[str]:
    """Connections that make one good call each, and stay."""
    call = _call(path="/livez", token=target.token, close=False)
    return await _all((_silent(target, call) for _ in range(count)), at_once=count)


async def many_calls(target: Target, count: int) -> Counter[str]:
    """More good calls at once than any flow makes."""
    call = _call(path=f"/api/flow_runs/{target.run}", token=target.token)
    return await _all((_said(target, call) for _ in range(count)), at_once=min(count, 1000))


async def large_bodies(target: Target, count: int) -> Counter[str]:
    """Bodies of five megabytes of JSON that is slow to read, and some larger."""
    record = {"flow_run_id": target.run, "message": "x" * 50, "level": 20}
    large = json.dumps([record] * 38_000).encode()
    calls = [
        _call("POST", "/api/logs/", token=target.token, body=body) for body in (large, large * 2, b"[" * 5_000_000)
    ]
    return await _all((_said(target, calls[number % 3]) for number in range(count)), at_once=10)


async def websockets(target: Target, count: int) -> Counter[str]:
    """Websockets that send what they can, as fast as they can; four in five with a good token."""
    return await _all(
        (_flood(target, target.token if number % 5 else "forged") for number in range(count)), at_once=count
    )


ATTACKS: dict[str, Callable[[Target, int], Coroutine[Any, Any, Counter[str]]]] = {
    one.__name__: one
    for one in (
        forged_tokens,
        others_runs,
        smuggling,
        huge_headers,
        odd_paths,
        slow_bodies,
        connections,
        kept_connections,
        many_calls,
        large_bodies,
        websockets,
    )
}


def _call(
    method: str = "GET", path: str = "/api/health", *, token: str, body: bytes = b"", close: bool = True
) -> bytes:
    """A call as its bytes, which no client library has tidied up."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode() + body


async def _all(work: Iterable[Awaitable[str]], *, at_once: int = _AT_ONCE) -> Counter[str]:
    turns, counted = asyncio.Semaphore(at_once), Counter[str]()

    async def one(said: Awaitable[str]) -> None:
        async with turns:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    counted[await said] += 1
            except TimeoutError:
                counted["held"] += 1
            except OSError as exc:
                counted["closed" if isinstance(exc, ConnectionError) else type(exc).__name__] += 1

    await asyncio.gather(*(one(said) for said in work))
    return counted


async def _said(target: Target, raw: bytes) -> str:
    """The statuses of all that is answered to these bytes, one after the other, until the relay hangs up."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(raw)
            await writer.drain()
        answer = await reader.read(256 * 1024)
        more = await reader.read(256 * 1024) if answer else b""
    finally:
        writer.close()
    statuses = [
        line.split(b" ")[1].decode() for line in (answer + more).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")
    ]
    return "+".join(statuses) or "closed"


async def _dribbled(target: Target, head: bytes) -> str:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(head)
        for _ in range(int(_PATIENCE_S) - 15):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    answer = await reader.read(64 * 1024)
                return answer.split(b" ")[1].decode() if answer else "closed"
            writer.write(b"x")
        return "held"
    finally:
        writer.close()


async def _silent(target: Target, first: bytes = b"") -> str:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        writer.write(first)
        if first:
            await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(_PATIENCE_S - 5):
            while await reader.read(1024):
                pass
    except TimeoutError:
        return "held"
    except asyncio.IncompleteReadError:
        return "closed"
    else:
        return "closed"
    finally:
        writer.close()


async def _flood(target: Target, token: str) -> str:
    url = f"ws://{target.host}:{target.port}/api/events/in"
    try:
        async with connect(url, subprotocols=[Subprotocol("prefect")], open_timeout=_PATIENCE_S, proxy=None) as socket:
            await socket.send(json.dumps({"type": "auth", "token": token}))
            if json.loads(await socket.recv()).get("type") != "auth_success":
                return "refused"
            ends = asyncio.get_running_loop().time() + 5.0
            while asyncio.get_running_loop().time() < ends:
                await socket.send(json.dumps(_event(target.other_run)))
            return "flooded"
    except InvalidHandshake as exc:
        return type(exc).__name__
    except WebSocketException as exc:
        received = getattr(exc, "rcvd", None)
        return str(received.code) if received else "closed"


def _event(run: str) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "event": "x",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "payload": {},
    }
