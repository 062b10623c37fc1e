"""What the demo shows of runs: every state, however short."""

import io
from typing import Any

import httpx

from flowgroup.dev.watch import Watch

_STATES = ("SCHEDULED", "PENDING", "RUNNING", "COMPLETED")


class _Api:
    """One run, which has been in the first `known` of these states. The list is not in order: nobody promises that."""

    known = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        states: list[dict[str, Any]] = [
            {
                "id": name,
                "type": name,
                "name": name.capitalize(),
                "message": None,
                "timestamp": f"2026-01-01T00:00:0{at}Z",
            }
            for at, name in enumerate(_STATES[: self.known])
        ]
        match request.url.path:
            case "/flow_runs/filter":
                last = states[-1]
                state = {"state": last, "state_id": last["id"], "state_type": last["type"], "state_name": last["name"]}
                return httpx.Response(200, json=[{"id": "one", "name": "otter", **state}])
            case "/flow_run_states/":
                return httpx.Response(200, json=states[::-1])
            case _:
                return httpx.Response(200, json=[])


def _shown(*looks: int) -> list[str]:
    api, out = _Api(), io.StringIO()
    watch = Watch(httpx.Client(base_url="http://api.test", transport=httpx.MockTransport(api)), "pool", out)
    for api.known in looks:
        watch.look()
    return [line.split()[-1] for line in out.getvalue().splitlines()]


def test_a_state_that_was_over_before_the_next_look_is_shown_in_its_place() -> None:
    assert _shown(2, 4) == ["Pending", "Running", "Completed"]
    assert _shown(4) == ["Pending", "Running", "Completed"]


def test_nothing_is_shown_twice() -> None:
    assert _shown(2, 2, 3, 3, 4, 4) == ["Pending", "Running", "Completed"]
