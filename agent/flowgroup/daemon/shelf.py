"""
Bundles in the object store: that they are there, and where a child gets them.

In: a BundleRef. A bundle that was found whole is believed to be for some minutes: a store far away costs a round trip.
"""

from typing import Literal, Protocol

from flowgroup.edge.cached import Cached
from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement
from flowgroup.model.causes import marked

_PRESIGNED_S = 3600.0
_BELIEVED_S = 300.0


class Store(Protocol):
    async def head(self, address: str) -> int | None: ...
    async def presign(self, address: str, method: Literal["GET", "PUT"], expires_s: float) -> str: ...


class Shelf:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._found = Cached(self._look, ttl_s=_BELIEVED_S)

    async def check(self, ref: BundleRef) -> None:
        """Raises Refused when the bundle is not there, or not whole."""
        await self._found.get((str(ref.address), Statement.model_validate_json(ref.statement).size))

    async def fetch(self, ref: BundleRef) -> str:
        """The address at which a child fetches it."""
        return await self._store.presign(ref.address, "GET", _PRESIGNED_S)

    async def _look(self, sought: tuple[str, int]) -> bool:
        address, expected = sought
        size = await self._store.head(address)
        if size is None:
            gone = f"the bundle {address} is not there: was it deleted? Deploy the flow again."
            raise Refused(marked("bundle-refused", gone))
        if size != expected:
            other = f"the bundle {address} has {size} bytes, and its statement says {expected}"
            whose = "the upload was cut off, or somebody changed it. Deploy the flow again."
            raise Refused(marked("bundle-refused", f"{other}: {whose}"))
        return True
