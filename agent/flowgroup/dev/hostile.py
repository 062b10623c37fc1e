"""
A real relay under attack by one run's code, and how another run fares meanwhile: `python -m flowgroup.dev.hostile [--small]`.

Prints a line for each attack: what was answered, and the other run's calls (how many, their median before and during). Also
the parts of it, each a process of its own: `attack NAME COUNT` (its target on standard input) and `api PORT`.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from flowgroup.dev.attacks import ATTACKS, Target
from flowgroup.dev.proc import usage
from flowgroup.dev.server import free_port
from flowgroup.model.proofs import new_token

_CONTROL_KEY = "control-key-of-a-bench"
_FULL = {
    "forged_tokens": 10_000,
    "others_runs": 2000,
    "smuggling": 800,
    "huge_headers": 300,
    "odd_paths": 1200,
    "slow_bodies": 500,
    "connections": 10_000,
    "kept_connections": 10_000,
    "many_calls": 10_000,
    "large_bodies": 40,
    "websockets": 200,
}
_START_S = 30.0
_PAUSE_S = 0.02
_QUIET_CALLS = 100
_AGAIN = 503


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one attack. Times are seconds; `failed` are calls of the other run that it was not merely told to repeat."""

    attack: str
    answers: dict[str, int]
    calls: int
    failed: int
    quiet_s: float
    median_s: float
    worst_s: float

    @property
    def ratio(self) -> float:
        return self.median_s / self.quiet_s


class Stage:
    """A relay process on loopback, before an API that takes everything, with two open attempts, a bad and a good one."""

    def __init__(self, relay: subprocess.Popen[bytes], port: int) -> None:
        self.relay = relay
        self.port = port
        self.good_run, bad_run = str(uuid.uuid4()), str(uuid.uuid4())
        self.good_token = new_token("bench", _CONTROL_KEY)
        self.bad = Target("127.0.0.1", port, new_token("bench", _CONTROL_KEY), bad_run, self.good_run)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self, daemon: httpx.AsyncClient) -> None:
        told = ((self.good_run, self.good_token), (self.bad.run, self.bad.token))
        attempts = [
            {
                "attempt": str(uuid.uuid4()),
                "run_id": run,
                "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
                "ttl_s": 3600,
            }
            for run, token in told
        ]
        body = {"daemon": "bench", "attempts": attempts}
        (await daemon.put(f"{self.url}/flowgroup/attempts", json=body)).raise_for_status()

    async def attacked(self, name: str, count: int) -> Figures:
        """Carry out one attack in a process of its own, and call as the other run all the while."""
        headers = {"Authorization": f"Bearer {self.good_token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as client:
            quiet = await self.calls(client, _QUIET_CALLS)
            attack = await asyncio.create_subprocess_exec(
                *_python("attack", name, str(count)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            ended = asyncio.create_task(attack.communicate(json.dumps(asdict(self.bad)).encode()))
            during = await self.calls(client, 10, until=ended)
            out, _ = await ended
        times = [took for took, _ in during]
        return Figures(
            name,
            json.loads(out),
            len(during),
            sum(status not in (httpx.codes.OK, _AGAIN) for _, status in during),
            statistics.median(took for took, _ in quiet),
            statistics.median(times),
            max(times),
        )

    async def calls(
        self, client: httpx.AsyncClient, least: int, until: "asyncio.Task[Any] | None" = None
    ) -> list[tuple[float, int]]:
        """The well-behaved run's calls, at least so many and until that is done: seconds and status of each."""
        made: list[tuple[float, int]] = []
        while len(made) < least or (until is not None and not until.done()):
            began = time.perf_counter()
            answer = await client.get(f"{self.url}/api/flow_runs/{self.good_run}")
            made.append((time.perf_counter() - began, answer.status_code))
            await asyncio.sleep(_PAUSE_S)
        return made


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Everything runs; it is stopped at the end."""
    api_port, port = free_port(), free_port()
    with _process(*_python("api", str(api_port))), _relay(api_port, port) as relay:
        made = Stage(relay, port)
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {_CONTROL_KEY}"}, trust_env=False) as daemon:
            for url in (f"http://127.0.0.1:{api_port}/api/health", f"{made.url}/livez"):
                await _answered(daemon, url)
            await made.open(daemon)
            yield made


async def counted(on: Stage) -> dict[str, float]:
    """The relay's own counts of calls, by outcome."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {_CONTROL_KEY}"}, trust_env=False) as daemon:
        text = (await daemon.get(f"{on.url}/flowgroup/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("flowgroup_relay_requests_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


async def _answered(client: httpx.AsyncClient, url: str) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                (await client.get(url)).raise_for_status()
                return
            await asyncio.sleep(0.05)


def _relay(api_port: int, port: int) -> "contextlib.AbstractContextManager[subprocess.Popen[bytes]]":
    told = {"api_url": f"http://127.0.0.1:{api_port}/api", "api_key": "the-real-token", "control_key": _CONTROL_KEY}
    command = [sys.executable, "-m", "flowgroup.rooms", "relay", "--tcp", f"127.0.0.1:{port}"]
    return _process(*command, said=json.dumps(told).encode() + b"\n")


@contextlib.contextmanager
def _process(*command: str, said: bytes = b"") -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603
    assert started.stdin is not None
    with started:
        try:
            started.stdin.write(said)
            started.stdin.close()
            yield started
        finally:
            started.kill()


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flowgroup.dev.hostile", *arguments]


# An API that takes everything


async def _take(request: Request) -> Response:
    await request.body()
    return JSONResponse({"id": str(uuid.uuid4())})


async def _swallow(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol="prefect")
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.receive_text()
        await websocket.send_json({"type": "auth_success"})
        while True:
            await websocket.receive_text()


def _serve_api(port: int) -> None:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(routes=[WebSocketRoute("/{path:path}", _swallow), Route("/{path:path}", _take, methods=methods)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def _attack(name: str, count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    target = Target(**json.loads(sys.stdin.read()))
    print(json.dumps(asyncio.run(ATTACKS[name](target, count))))


async def _all(share: float, names: list[str]) -> None:
    async with stage() as on:
        before = usage(on.relay.pid).rss_bytes
        print("| attack | tried | answers | other run: calls | failed | quiet ms | during ms | ratio | worst ms |")
        print("|---|---|---|---|---|---|---|---|---|")
        for name in names or _FULL:
            tried = max(1, round(_FULL[name] * share))
            one = await on.attacked(name, tried)
            answers = ", ".join(f"{status}: {times}" for status, times in sorted(one.answers.items()))
            times = [f"{1000 * took:.1f}" for took in (one.quiet_s, one.median_s)]
            print(
                f"| {name} | {tried} | {answers} | {one.calls} | {one.failed} | {' | '.join(times)} | {one.ratio:.1f} "
                f"| {1000 * one.worst_s:.0f} |",
                flush=True,
            )
        files = _open_files(on.relay.pid)
        after = usage(on.relay.pid).rss_bytes
        print(
            f"\nrelay: {before / 2**20:.0f} MiB before, {after / 2**20:.0f} MiB after, {files} open files; {await counted(on)}"
        )


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a twentieth of it")
    parser.add_argument("--only", action="append", default=[], choices=sorted(ATTACKS))
    parts = parser.add_subparsers(dest="part")
    attack = parts.add_parser("attack")
    attack.add_argument("name", choices=sorted(ATTACKS))
    attack.add_argument("count", type=int)
    parts.add_parser("api").add_argument("port", type=int)
    args = parser.parse_args()
    if args.part == "attack":
        _attack(args.name, args.count)
    elif args.part == "api":
        _serve_api(args.port)
    else:
        asyncio.run(_all(0.05 if args.small else 1.0, args.only))


if __name__ == "__main__":
    main()
