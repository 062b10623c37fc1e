"""The author's start script: run once by bash before the cluster takes its first run."""

import asyncio
from pathlib import Path

from flowgroup.errors import Permanent

_TIMEOUT_S = 1800.0
_TAIL_LINES = 15


async def run(script: str | None, folder: Path, env: dict[str, str]) -> None:
    """Run it in the cluster's folder, its output in `start.log`. Raises Permanent with its last lines when it fails."""
    if not script:
        return
    path, output = folder / "start.sh", folder / "start.log"
    path.write_text(script)
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-e",
            str(path),
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            code = await asyncio.wait_for(process.wait(), _TIMEOUT_S)
        except TimeoutError as exc:
            process.kill()
            raise Permanent(f"the start script did not end within {_TIMEOUT_S:.0f} s: {_tail(output)}") from exc
    if code:
        raise Permanent(f"the start script ended with status {code}. Its last lines:\n{_tail(output)}")


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
