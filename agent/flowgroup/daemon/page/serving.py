"""Where the page is served, and what opens it."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn

from flowgroup import log
from flowgroup.daemon.page.app import app
from flowgroup.daemon.page.dashboards import Dashboards
from flowgroup.edge.embedded import Embedded
from flowgroup.edge.files import read_text, write_atomically
from flowgroup.edge.lines import tcp
from flowgroup.errors import Refused
from flowgroup.sections import DaemonSettings

TOKEN_FILE = "page-token"  # noqa: S105
_LEAST = 16


@asynccontextmanager
async def served(
    settings: DaemonSettings,
    folder: Path,
    told: Callable[[], dict[str, Any]],
    dashboards: Dashboards | None = None,
) -> AsyncIterator[str | None]:
    """
    Serve the page during the block, if it is asked for: the address at which people find it, for links. Raises Refused when
    its port is taken or its token is no good.
    """
    if settings.page_port is None:
        yield None
        return
    file = settings.page_token_file or folder / TOKEN_FILE
    token = _token(file, is_ours=settings.page_token_file is None)
    try:
        listener = tcp(settings.page_host, settings.page_port)
    except Refused as exc:
        raise Refused(f"{exc} (FLOWGROUP_PAGE_HOST, FLOWGROUP_PAGE_PORT)") from exc
    server = Embedded(_config(app(told, token, dashboards.routes if dashboards else ())))
    serving = asyncio.create_task(server.serve([listener]), name="page")
    log.get().info("page_served", at=_address(listener), token_file=str(file))
    try:
        async with dashboards.open() if dashboards else nullcontext():
            yield settings.page_url or _address(listener)
    finally:
        server.should_exit = True
        await serving
        listener.close()


def _config(page: Any) -> uvicorn.Config:
    return uvicorn.Config(
        page,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        limit_concurrency=64,
    )


def _token(file: Path, *, is_ours: bool) -> str:
    """One of our own is made once, and is for this user to read alone."""
    said = (read_text(file) or "").strip()
    if not said and is_ours:
        write_atomically(file, said := secrets.token_urlsafe(24))
    if len(said) < _LEAST:
        raise Refused(f"{file} (FLOWGROUP_PAGE_TOKEN_FILE) is to have the page's token: at least {_LEAST} characters")
    return said


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
