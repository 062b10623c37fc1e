"""How a child ended, from what waitpid says. Pure."""

import os

from flowgroup.model.orders import Exit


def exit_of(status: int, *, tail: str, notes: dict[str, object]) -> Exit:
    """`status` as waitpid gives it; `notes` is what the child said of itself before."""
    signalled = os.WIFSIGNALED(status)
    cause = notes.get("cause")
    return Exit(
        code=None if signalled else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if signalled else None,
        tail=tail,
        cause=cause if isinstance(cause, str) else None,
        reached_user_code=notes.get("phase") == "running",
        reported=notes.get("reported") is True,
    )
