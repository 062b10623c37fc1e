"""The author's start script: run once by bash before the cluster takes its first run."""

import asyncio
from pathlib import Path

from flowgroup.errors import Permanent
from flowgroup.model.causes import marked

_TIMEOUT_S = 1800.0
_TAIL_LINES = 15
_KEPT_LINES = 500
_KEPT_BYTES = 64 * 1024
_LINE_CHARS = 2000


class StartScriptFailed(Permanent):
    """It ended with another status than 0, or not at all. `lines` is what it said."""

    def __init__(self, message: str, lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.lines = lines


async def run(script: str | None, folder: Path, env: dict[str, str]) -> tuple[str, ...]:
    """
    Run it in the cluster's folder, its output in `start.log`. Gives what it said, the last lines if it is long.

    Raises StartScriptFailed, and Permanent where there is no bash.
    """
    if not script:
        return ()
    path, output = folder / "start.sh", folder / "start.log"
    path.write_text(script)
    with output.open("wb") as log:
        try:
            process = await asyncio.create_subprocess_exec(
                "bash", "-e", str(path), cwd=folder, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        except OSError as exc:
            raise Permanent(f"the start script cannot be run: the image has no usable bash ({exc})") from exc
        code = await _ended(process)
    lines = said(output)
    if code:
        how = f"ended with status {code}" if code > 0 else f"did not end within {_TIMEOUT_S:.0f} s"
        cause = marked("start-script", f"the start script {how}.")
        last = "\n".join(lines[-_TAIL_LINES:])
        raise StartScriptFailed(f"{cause} Its last lines:\n{last}", (*lines, f"the start script {how}"))
    return lines


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Its status; below 0 when it was ended for its time."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return abs(await process.wait())
    except TimeoutError:
        process.kill()
        return -1


def said(output: Path) -> tuple[str, ...]:
    """The lines of a file, the last of them if there are many; then the first says so."""
    size = output.stat().st_size
    with output.open("rb") as file:
        file.seek(max(0, size - _KEPT_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    kept = [line[:_LINE_CHARS] for line in lines[-_KEPT_LINES:]]
    if size > _KEPT_BYTES or len(lines) > len(kept):
        return f"… only the last {len(kept)} lines; {output.name} in the driver has all", *kept
    return tuple(kept)
