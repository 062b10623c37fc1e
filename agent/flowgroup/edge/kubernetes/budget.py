"""How often single clusters are looked at: of a thousand that start at once each look would be a call."""

import asyncio
from dataclasses import dataclass

_PER_S = 20.0
_SAVED = 40.0


@dataclass
class Budget:
    """So many a second, and so many saved. Who has no turn now looks again later, as all who ask do."""

    per_s: float = _PER_S
    saved: float = _SAVED
    _left: float = _SAVED
    _at: float = 0.0

    def take(self) -> bool:
        """Whether there is a turn; it is taken then."""
        now = asyncio.get_running_loop().time()
        self._left = min(self.saved, self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
