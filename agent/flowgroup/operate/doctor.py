"""
`flowgroup doctor`: every check, one after the other, and of each trouble what puts it right.

`--json` is exactly `{"checks": [{"name", "ok", "detail", "fix"}]}`; `fix` is empty where `ok`. What cannot be seen from here
is no trouble: `detail` then begins with "not checked".
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace

from flowgroup.edge.wire import connected
from flowgroup.errors import FlowgroupError, Refused
from flowgroup.operate.checks import api, code, home, kubernetes
from flowgroup.operate.checks.base import Check, Seen, Unknown, Wrong
from flowgroup.operate.place import Place, place
from flowgroup.operate.tell import as_json

_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    ok: bool
    detail: str
    fix: str = ""


def command(args: argparse.Namespace) -> int:
    """Returns the exit status: 1 if a check failed."""
    where = place(args)
    results = asyncio.run(examined(where, chosen(where, args.only)))
    if args.json:
        as_json({"checks": [asdict(one) for one in results]})
    else:
        print("\n".join(_lines(results)))
    return 0 if all(one.ok for one in results) else 1


def checks(*, on_kubernetes: bool) -> list[Check]:
    """Those that fit the backend, in the order in which one stands on another."""
    return [*api.CHECKS, *home.CHECKS, *(kubernetes.CHECKS if on_kubernetes else home.LOCAL), *code.CHECKS]


def chosen(where: Place, names: Sequence[str]) -> list[Check]:
    """All checks, or those of these names with what they need. Raises Refused for a name that there is not."""
    every = checks(on_kubernetes=where.is_on_kubernetes)
    known = {one.name: one for one in every}
    if unknown := [name for name in names if name not in known]:
        raise Refused(f"there is no check {unknown[0]!r}; there are: {', '.join(known)}")
    wanted = set(names) or set(known)
    for one in reversed(every):
        if one.name in wanted and one.needs:
            wanted.add(one.needs)
    return [one for one in every if one.name in wanted]


async def examined(where: Place, wanted: Sequence[Check], seen: Seen | None = None) -> list[Result]:
    """Each check's result. A check whose need has failed is not made."""
    results: dict[str, Result] = {}
    async with AsyncExitStack() as stack:
        looks = seen or await _opened(where, stack)
        for check in wanted:
            needed = results.get(check.needs)
            if needed is not None and (not needed.ok or needed.detail.startswith("not checked")):
                results[check.name] = Result(check.name, True, f"not checked: it needs {check.needs}")
            else:
                results[check.name] = await _made(check, looks)
    return list(results.values())


async def _opened(where: Place, stack: AsyncExitStack) -> Seen:
    """What the checks look through. A door that does not open is a check's own trouble to tell."""
    seen = Seen(where)
    try:
        seen = replace(seen, wire=await stack.enter_async_context(connected(where.settings.prefect)))
    except Refused as exc:
        seen = replace(seen, no_wire=str(exc))
    if where.is_on_kubernetes:
        try:
            seen = replace(seen, client=await stack.enter_async_context(where.kubernetes()))
        except FlowgroupError as exc:
            seen = replace(seen, no_client=str(exc))
    return seen


async def _made(check: Check, seen: Seen) -> Result:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return Result(check.name, True, await check.look(seen))
    except Unknown as exc:
        return Result(check.name, True, f"not checked: {exc}")
    except Wrong as exc:
        return Result(check.name, False, str(exc), exc.fix or check.fix)
    except FlowgroupError as exc:
        return Result(check.name, False, str(exc), check.fix)
    except TimeoutError:
        return Result(check.name, False, f"no answer within {_TIMEOUT_S:.0f} s", check.fix)


def _lines(results: Sequence[Result]) -> list[str]:
    width = max(len(one.name) for one in results)
    lines = []
    for one in results:
        mark = "FAIL" if not one.ok else "-" if one.detail.startswith("not checked") else "ok"
        lines.append(f"{mark:4}  {one.name.ljust(width)}  {one.detail}")
        lines += [f"{'':4}  {'':{width}}  fix: {one.fix}"] if one.fix else []
    failed = sum(not one.ok for one in results)
    return [*lines, "", f"{len(results)} checks, {failed} failed"]
