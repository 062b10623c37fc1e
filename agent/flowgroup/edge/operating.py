"""What an operator's command asks of a daemon on this machine, and writes for it."""

import json
import os
from pathlib import Path
from typing import Any

import httpx

from flowgroup.edge import forward, tls
from flowgroup.edge.files import read_text, write_atomically
from flowgroup.edge.local import ASKED_FILE
from flowgroup.errors import Permanent, Transient
from flowgroup.model.clusters import Ask
from flowgroup.model.endpoint import Endpoint

Json = dict[str, Any]
_TIMEOUT_S = 10.0
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104


async def asked_here(folder: Path, host: str, path: str) -> str:
    """
    What the daemon that serves from `folder` answers at this path of its health port.

    Raises Permanent when none serves, and Transient when it does not answer.
    """
    said = read_text(folder / "daemon.json")
    if said is None:
        raise Permanent(f"no daemon serves from {folder}: start it (flowgroup start), or give its --home and --pool")
    at = "127.0.0.1" if host in _EVERYWHERE else host
    url = f"http://{f'[{at}]' if ':' in at else at}:{json.loads(said)['health_port']}{path}"
    try:
        transport = httpx.AsyncHTTPTransport(verify=False)  # it is plain HTTP: no authorities are read for it
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(url)
    except httpx.RequestError as exc:
        raise Transient(f"the daemon does not answer at {url}: {str(exc) or type(exc).__name__}") from exc
    if not answer.is_success:
        raise Permanent(f"the daemon at {url} answers {answer.status_code}: {answer.text.strip()[:200]}")
    return answer.text


async def relay_answers(at: Endpoint) -> None:
    """Raises Transient when the relay there does not, or not as one."""
    try:
        async with httpx.AsyncClient(transport=forward.transport(at), timeout=_TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(f"{at.url}/flowgroup/health")
    except httpx.RequestError as exc:
        raise Transient(tls.explained(exc, at) or f"{at}: {str(exc) or type(exc).__name__}") from exc
    if not answer.is_success:
        raise Transient(f"{at} answers {answer.status_code}")


def folders(home: Path) -> list[Path]:
    """The folders of the pools whose daemons say that they serve from this home."""
    return sorted(file.parent for file in home.glob("*/daemon.json"))


def serves(folder: Path) -> bool:
    """Whether a process that said so is there still."""
    try:
        os.kill(json.loads(read_text(folder / "daemon.json") or "{}")["pid"], 0)
    except (KeyError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def asked_before(place: Path) -> Ask:
    """What is asked of the cluster whose folder this is."""
    return Ask.read(read_text(place / ASKED_FILE))


def ask(place: Path, what: Ask) -> None:
    """Write into a cluster's folder what is asked of it. Raises Permanent when there is no such cluster."""
    if not place.is_dir():
        raise Permanent(f"there is no cluster {place.name}; `flowgroup cluster list` names those that there are")
    write_atomically(place / ASKED_FILE, what.model_dump_json())


def tail(file: Path, lines: int) -> list[str]:
    """The last lines of a log; of a file that is not there none."""
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - 400 * lines))
            return opened.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
