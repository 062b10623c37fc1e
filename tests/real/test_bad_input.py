"""What the command line says to wrong input: exit status 2, one line that names the thing and the remedy, no traceback."""

import contextlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.stack import FLOWS, Stack

pytestmark = pytest.mark.real
LAB = f"{FLOWS}/lab.py:lab"
ANSWERS = {
    "/html/": (200, "<html><title>A login page</title></html>"),
    "/denied/": (401, '{"detail": "Unauthorized"}'),
    "/busy/": (500, "out of order"),
}


class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = next(answer for start, answer in ANSWERS.items() if self.path.startswith(start))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_PATCH = do_GET

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def odd_servers() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def urls(whole: Stack) -> Iterator[dict[str, str]]:
    """Addresses that PREFECT_API_URL may be wrong with; the server has a pool of another type."""
    whole.api.post("/work_pools/", json={"name": "other-kind", "type": "process"})
    with odd_servers() as base:
        names = {start.strip("/"): f"{base}{start}api" for start in ANSWERS}
        yield {**names, "nobody": "http://127.0.0.1:9/api", "no-address": "ftp://127.0.0.1/api", "right": whole.url}


def told(done: "subprocess.CompletedProcess[str]", status: int) -> str:
    """The one line that it says."""
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode == status, said
    lines = [line for line in done.stderr.splitlines() if line.startswith("flowgroup: ")]
    assert len(lines) == 1, said
    assert done.stderr.rstrip().splitlines()[-1] == lines[0], said
    return lines[0]


@pytest.mark.parametrize(
    ("url", "flow", "more", "said"),
    [
        ("nobody", LAB, [], ["http://127.0.0.1:9/api", "PREFECT_API_URL", "is the address right?"]),
        ("html", LAB, [], ["/html/api", "PREFECT_API_URL", "ends in /api"]),
        ("denied", LAB, [], ["does not let you in (401)", "PREFECT_API_KEY or PREFECT_API_AUTH_STRING"]),
        ("right", LAB, ["--pool", "other-kind"], ["'other-kind' is of type 'process', not 'dask'", "flowgroup start"]),
        ("right", LAB, ["--pool", "absent"], ["no work pool 'absent'", "flowgroup start --pool absent"]),
        ("right", LAB, ["--workers", "-1"], ["workers=-1", "greater than or equal to 0", "How many Dask workers"]),
        ("right", LAB, ["--param", "who=1"], ["no parameter 'who'", "it has: what, with_"]),
        ("right", LAB, ["--param", "with_=1"], ["with_: 1 is not", "Correct the values"]),
        ("right", f"{FLOWS}/none.py:lab", [], ["there is no file", "none.py"]),
        ("right", f"{FLOWS}/lab.py:where", [], ["has no flow 'where'", "its flows: ", "lab"]),
    ],
)
def test_deploy_says_what_is_wrong(
    whole: Stack, urls: dict[str, str], url: str, flow: str, more: list[str], said: list[str], tmp_path: Path
) -> None:
    pool = [] if "--pool" in more else ["--pool", whole.pool]
    given = ("--name", "wrong", *pool, "--store", f"file://{tmp_path}", *more)
    done = whole.shell("deploy", flow, *given, env={"PREFECT_API_URL": urls[url]})
    line = told(done, 2)
    assert not [word for word in said if word not in line], line
    assert not list(tmp_path.iterdir())


def test_an_api_in_trouble_may_be_tried_again(whole: Stack, urls: dict[str, str]) -> None:
    env = {"PREFECT_API_URL": urls["busy"], "PREFECT_CLIENT_MAX_RETRIES": "0"}
    line = told(whole.shell("deploy", LAB, "--name", "wrong", "--pool", whole.pool, env=env), 1)
    assert "is in trouble (500): out of order; try again later" in line


@pytest.mark.parametrize(
    ("url", "more", "env", "said"),
    [
        ("html", [], {}, ["/html/api", "PREFECT_API_URL"]),
        ("denied", [], {}, ["401", "PREFECT_API_KEY"]),
        ("no-address", [], {}, ["PREFECT_API_URL", "http:// or https://"]),
        ("right", ["--pool", "other-kind"], {}, ["'other-kind' is of type 'process'", "--pool"]),
        ("right", ["--pool", "a/b"], {}, ["'a/b' is not a name of a work pool", "--pool"]),
        ("right", ["--slots", "0"], {}, ["SLOTS", "greater than or equal to 1"]),
        ("right", ["--public-keys", "/none"], {}, ["/none", "flowgroup keys new"]),
        ("right", [], {"FLOWGROUP_POLL_INTERVAL_S": "often"}, ["FLOWGROUP_POLL_INTERVAL_S", "number"]),
        ("right", [], {"FLOWGROUP_CONFIG": "/none.toml"}, ["/none.toml", "FLOWGROUP_CONFIG"]),
    ],
)
def test_start_says_what_is_wrong(
    whole: Stack, urls: dict[str, str], url: str, more: list[str], env: dict[str, str], said: list[str], tmp_path: Path
) -> None:
    pool = [] if "--pool" in more else ["--pool", "never-served"]
    env = {"PREFECT_API_URL": urls[url], "FLOWGROUP_HOME": str(tmp_path), **env}
    line = told(whole.shell("start", *pool, *more, env=env), 2)
    assert not [word for word in said if word not in line], line


def test_a_second_daemon_on_the_same_pool_and_home_is_refused(whole: Stack) -> None:
    line = told(whole.shell("start", "--pool", whole.pool, "--home", str(whole.home)), 2)
    assert f"another daemon serves the pool '{whole.pool}'" in line
    assert "--home" in line
    assert whole.daemon.poll() is None
