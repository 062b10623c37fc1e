"""The child's end of its leash."""

import socket
import threading
import time
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


def test_a_desk_that_went_with_words_unread_ends_the_listening_quietly() -> None:
    ours, theirs = socket.socketpair()
    leash = Leash(ours.detach())
    leash.say(phase="running")
    theirs.close()  # what it has not read makes the other end's next look an error
    leash.listen(cancel=lambda: True, suspend=lambda: None)
    deadline = time.monotonic() + 10
    while any(thread.name == "flowgroup-leash" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    leash._socket.close()
