"""Calls by route, from a server's access log."""

from flowgroup.dev.bench.access import locked, routes

_RUN = "0b7f8a3c-1d2e-4f50-8a9b-0c1d2e3f4a5b"


def _line(call: str) -> str:
    return f'00:35:36.728 | INFO    | uvicorn.access - 127.0.0.1:36712 - "{call} HTTP/1.1" 200\n'


def test_calls_are_counted_by_route_whatever_the_ids_and_the_pool() -> None:
    log = "".join(
        [
            _line(f"POST /api/flow_runs/{_RUN}/set_state"),
            _line(f"POST /api/flow_runs/{_RUN.replace('0', '1')}/set_state"),
            _line("POST /api/work_pools/flowgroup/get_scheduled_flow_runs"),
            _line("GET /api/work_pools/flowgroup"),
            _line(f"GET /api/flow_run_states/?flow_run_id={_RUN}"),
        ]
    )
    assert routes(log) == {
        "POST /flow_runs/{id}/set_state": 2,
        "POST /work_pools/{name}/get_scheduled_flow_runs": 1,
        "GET /work_pools/flowgroup": 1,
        "GET /flow_run_states/": 1,
    }


def test_the_benchmark_s_own_calls_and_websockets_and_other_lines_are_not_counted() -> None:
    log = "".join(
        [
            _line(f"GET /api/flow_runs/{_RUN}?bench="),
            _line(f"GET /api/flow_run_states/?bench=&flow_run_id={_RUN}"),
            '00:35 | INFO | uvicorn.error - "WebSocket /api/events/in" [accepted]\n',
            "00:35 | INFO | prefect.server - Scheduled 0 runs.\n",
            _line("GET /api/health?workbench=1"),
        ]
    )
    assert routes(log) == {"GET /health": 1}


def test_a_locked_database_is_seen() -> None:
    assert locked("x\nsqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked\n") == 1
    assert locked("all is well") == 0
