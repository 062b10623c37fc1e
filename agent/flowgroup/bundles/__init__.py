"""
Bundles: pack a flow with the modules beside it, and open such a bundle again.

`pack` is for whoever deploys, all else for the child that runs it. Nothing else may import this package: it is the only
one that unpickles.
"""

from flowgroup.bundles.opening import is_own, open_bundle, register_by_value
from flowgroup.bundles.packing import Packed, pack

__all__ = ["Packed", "is_own", "open_bundle", "pack", "register_by_value"]
