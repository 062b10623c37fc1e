"""
What a run's job variables refer to, asked of Prefect's API before the run is placed.

In: the values as pool, deployment and run say them. Out: what each reference stands for. Nothing is remembered, so that a
changed block or variable is the next run's; and nothing of it is ever logged.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from flowgroup.daemon.placement import said
from flowgroup.errors import Permanent, Refused
from flowgroup.model.references import BLOCKS, VARIABLES, found, inside
from flowgroup.model.runs import Deployment, DueRun
from flowgroup.model.states import SeenRun

_TYPE_AND_NAME = 2


class Api(Protocol):
    async def block(self, type_slug: str, name: str) -> dict[str, Any] | None: ...
    async def variable(self, name: str) -> tuple[Any] | None: ...


async def told(
    api: Api, due: DueRun | SeenRun, deployment: Deployment | None, template: dict[str, Any]
) -> Mapping[str, Any]:
    """Raises Refused, naming what is not there, and Transient while the API does not answer."""
    if deployment is None:
        return {}
    names = sorted(found(said(due, deployment, template)))
    return dict(zip(names, await asyncio.gather(*(_may_be_told(api, name) for name in names)), strict=True))


async def _may_be_told(api: Api, name: str) -> Any:
    try:
        return await _told(api, name)
    except Refused:
        raise
    except Permanent as exc:
        raise Refused(f"{{{{ {name} }}}}: the API does not say what it is: {exc}") from exc


async def _told(api: Api, name: str) -> Any:
    if name.startswith(VARIABLES):
        variable = await api.variable(name.removeprefix(VARIABLES))
        if variable is None:
            raise Refused(f"{{{{ {name} }}}}: there is no such Prefect variable. Make it, or correct the job variable.")
        return variable[0]
    parts = name.removeprefix(BLOCKS).split(".", _TYPE_AND_NAME)
    if len(parts) < _TYPE_AND_NAME or not all(parts):
        raise Refused(f"{{{{ {name} }}}} names no block: it wants prefect.blocks.TYPE.NAME. Correct the job variable.")
    block = await api.block(parts[0], parts[1])
    if block is None:
        raise Refused(
            f"{{{{ {name} }}}}: there is no block {parts[1]!r} of type {parts[0]!r}. Make it, or correct the job variable."
        )
    return inside(block, parts[2] if len(parts) > _TYPE_AND_NAME else "", name)
