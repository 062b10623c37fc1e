"""
Our errors. Catch the narrowest; let the rest end the room.

* FlowgroupError
  x Transient    the same call may succeed later; whoever owns the loop tries again
    x NoRoom     what others take has to become free first: to be waited for, and nobody's failure
  x Permanent    the same call will never succeed; somebody must change something
    x Refused    somebody's input is wrong: names the thing and the remedy
"""


class FlowgroupError(Exception):
    """Base of everything that we raise on purpose. Its text is for users: it names the thing and the remedy."""


class Transient(FlowgroupError):
    """The same call may succeed later. `retry_after_s` is what the other side asked for, if it did."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoRoom(Transient):
    """A quota is used up: what others take has to become free. It is no failure, however long it takes."""


class Permanent(FlowgroupError):
    """The same call will never succeed."""


class Refused(Permanent):
    """Bad input. The text names what is wrong and what to do; on a command line it means exit status 2."""
