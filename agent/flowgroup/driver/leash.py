"""The child's end of its leash: the socket pair to the desk. Says how far it is; hears when it must end."""

import json
import socket
import threading
from collections.abc import Callable

CANCEL = b"c"
SUSPEND = b"s"


class Leash:
    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def say(self, **note: object) -> None:
        """One note: `phase`, `cause`, `asks` or `reported`. A desk that is gone does not matter: it takes us along."""
        try:
            self._socket.sendall(json.dumps(note).encode() + b"\n")
        except OSError:
            return

    def listen(self, *, cancel: Callable[[], object], suspend: Callable[[], object]) -> None:
        """
        In a thread of its own, call `cancel` when the desk asks us to end, and answer whether it took. `suspend`, when the
        run is to be suspended, asks the API, so it has a thread for itself: whatever becomes of it, a cancel is heard.
        """

        def hear() -> None:
            while order := self._order():
                if order == CANCEL:
                    self.say(cancelling=bool(cancel()))
                elif order == SUSPEND:
                    threading.Thread(target=suspend, name="flowgroup-suspend", daemon=True).start()

        threading.Thread(target=hear, name="flowgroup-leash", daemon=True).start()

    def _order(self) -> bytes:
        """What the desk asks next; nothing when it is gone, also when it went in the middle of something."""
        try:
            return self._socket.recv(1)
        except OSError:
            return b""
