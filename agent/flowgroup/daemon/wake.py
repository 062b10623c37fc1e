"""A bell: whoever waits for it wakes up, and rings that come while nobody waits are kept as one."""

import asyncio


class Wake:
    """`is_hungry`: the waiter wants to hear of every little thing (`nudge`) now, not only of rings."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.is_hungry = True

    def ring(self) -> None:
        self._event.set()

    def nudge(self) -> None:
        if self.is_hungry:
            self.ring()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for a ring, for at most `timeout_s`. Whether one came."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
