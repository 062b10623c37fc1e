"""The child's end of its leash."""

import socket
from threading import Event

from flowgroup.driver.leash import CANCEL, SUSPEND, Leash


def test_a_cancel_is_heard_while_a_suspension_asks_an_api_that_is_away() -> None:
    ours, theirs = socket.socketpair()
    asked, answered = Event(), Event()

    def suspend() -> None:
        asked.set()
        answered.wait(30)

    leash = Leash(ours.detach())
    with theirs:
        leash.listen(cancel=lambda: True, suspend=suspend)
        theirs.sendall(SUSPEND)
        assert asked.wait(10)
        theirs.sendall(CANCEL)
        theirs.settimeout(10)
        assert theirs.recv(100) == b'{"cancelling": true}\n'
        answered.set()
    leash._socket.close()
