"""`deploy` against a real Prefect server, from Python and from a shell."""

import argparse
import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, temporary_settings

from flowgroup import Cluster, deploy, signing
from flowgroup.bundles import open_bundle
from flowgroup.client import shell
from flowgroup.dev.patient import Patient
from flowgroup.edge import store
from flowgroup.errors import Refused, Transient
from flowgroup.model.bundle import BundleRef
from flowgroup.model.variables import base_job_template

pytestmark = pytest.mark.real
POOL = "pool-of-deploy-tests"


@flow(name="deployed")
def etl(n: int = 1, name: str = "x") -> int:
    """What it does."""
    return n


@pytest.fixture(scope="module")
def server(prefect_api: str) -> Iterator[httpx.Client]:
    """A client of the server, which has a pool of our type and one of another."""
    with httpx.Client(base_url=prefect_api, timeout=90, transport=Patient()) as client:
        for name, kind, template in ((POOL, "dask", base_job_template()), ("other-type", "process", {})):
            answer = client.post("/work_pools/", json={"name": name, "type": kind, "base_job_template": template})
            assert answer.status_code in (201, 409)
        yield client


@pytest.fixture
def author(
    server: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str
) -> Iterator[Callable[..., Any]]:
    """`deploy` with a pool, a name and a store already said."""
    for name in ("FLOWGROUP_STORE", "FLOWGROUP_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(what: Any = etl, **said: Any) -> Any:
        return deploy(what, **{"name": tmp_path.name, "pool": POOL, "store": f"file://{tmp_path}/store", **said})

    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield call


def _read(server: httpx.Client, deployed: Any) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/deployments/{deployed.deployment_id}").raise_for_status().json()
    return found


def _ref(found: dict[str, Any]) -> BundleRef:
    return BundleRef.model_validate(found["job_variables"]["bundle"])


def test_one_call_makes_a_deployment_and_the_second_changes_nothing(
    author: Callable[..., Any], server: httpx.Client, tmp_path: Path
) -> None:
    said: dict[str, Any] = {
        "cluster": Cluster(n_workers=3, worker_memory="2GiB"),
        "schedule": ["0 6 * * *", timedelta(hours=1)],
        "parameters": {"n": 5},
        "image": "registry/etl:1",
        "env": {"OMP_NUM_THREADS": "1", "STAGE": "dev"},
        "start_script": "pip list",
        "tags": ["b", "a"],
        "concurrency_limit": 2,
        "job_variables": {"isolation": "team"},
    }
    first = author(**said)
    assert first.changed
    assert first.name == f"deployed/{tmp_path.name}"
    assert first.url is not None and str(first.deployment_id) in first.url
    found = _read(server, first)
    bundle = found["job_variables"].pop("bundle")
    assert found["job_variables"] == {
        "workers": 3,
        "worker_memory": "2GiB",
        "image": "registry/etl:1",
        "start_script": "pip list",
        "env": {"OMP_NUM_THREADS": "1", "STAGE": "dev"},
        "isolation": "team",
    }
    assert json.loads(bundle["statement"])["environment"] == {"OMP_NUM_THREADS": "1", "STAGE": "dev"}
    assert found["version"] == first.version == json.loads(bundle["statement"])["version"]
    assert (found["parameters"], found["tags"]) == ({"n": 5}, ["b", "a"])
    assert found["enforce_parameter_schema"] and found["description"] == "What it does."
    assert found["global_concurrency_limit"]["limit"] == 2
    assert found["entrypoint"].endswith("test_deploy.py:etl")
    assert len(found["schedules"]) == 2

    again = author(**said)
    assert not again.changed
    assert (again.deployment_id, again.flow_id, again.version, again.address) == (
        first.deployment_id,
        first.flow_id,
        first.version,
        first.address,
    )
    assert _read(server, first)["updated"] == found["updated"]
    assert len(list((tmp_path / "store").rglob("*.zip"))) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"cluster": Cluster()},
        {"parameters": {"n": 2}},
        {"tags": ["t"]},
        {"schedule": 60},
        {"description": "other"},
        {"env": {"A": "1"}},
        {"image": "x"},
        {"paused": True},
        {"concurrency_limit": 1},
        {"queue": "fast"},
        {"job_variables": {"idle_timeout_s": 1}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_whatever_is_said_otherwise_is_written(more: dict[str, Any], author: Callable[..., Any]) -> None:
    first = author()
    assert not author().changed
    changed = author(**more)
    assert changed.changed and changed.deployment_id == first.deployment_id
    assert not author(**more).changed


async def test_it_works_where_a_loop_runs_as_in_a_notebook(author: Callable[..., Any]) -> None:
    assert author().changed


def test_what_was_deployed_can_be_opened(author: Callable[..., Any], server: httpx.Client, tmp_path: Path) -> None:
    pair = signing.new_pair(tmp_path / "keys")
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("from prefect import flow\nN = 20\n@flow\ndef opened(n: int = 1):\n    return n + N\n", space)
    done = author(space["opened"], signing_key=pair.private)
    assert done.key_id == pair.key_id
    ref = _ref(_read(server, done))
    path = store.local_path(ref.address)
    assert path is not None
    before = list(sys.path)
    loaded = open_bundle(
        path,
        ref,
        public_keys=signing.load_public(pair.public),
        deployment=done.name,
        version=done.version,
        into=tmp_path / "code",
    )
    sys.path[:] = before
    assert loaded.fn(1) == 21


def test_signing_anew_or_by_another_key_is_a_change(author: Callable[..., Any], tmp_path: Path, monkeypatch) -> None:
    one, two = (signing.new_pair(tmp_path / "keys", name) for name in ("one", "two"))
    assert author().key_id is None
    monkeypatch.setenv("FLOWGROUP_SIGNING_KEY", str(one.private))
    signed = author()
    assert (signed.changed, signed.key_id) == (True, one.key_id)
    assert not author().changed
    monkeypatch.delenv("FLOWGROUP_SIGNING_KEY")
    kept = author()
    assert (kept.changed, kept.key_id) == (False, one.key_id), "a signature is not taken away"
    assert author(signing_key=two.private).key_id == two.key_id


def test_a_bundle_that_is_gone_or_elsewhere_is_uploaded_again(author: Callable[..., Any], tmp_path: Path) -> None:
    path = store.local_path(author().address)
    assert path is not None
    path.unlink()
    assert author().changed and not author().changed
    moved = author(store=f"file://{tmp_path}/elsewhere")
    assert moved.changed and moved.address.startswith(f"file://{tmp_path}/elsewhere/flows/deployed/")


def test_schedules_that_are_not_mentioned_stay_and_stopped_ones_stay_stopped(
    author: Callable[..., Any], server: httpx.Client
) -> None:
    done = author(schedule=[Cron("0 6 * * *", slug="daily"), 600])
    schedules = _read(server, done)["schedules"]
    stopped = next(item for item in schedules if "cron" in item["schedule"])
    server.patch(f"/deployments/{done.deployment_id}/schedules/{stopped['id']}", json={"active": False})
    assert not author().changed
    assert not author(schedule=[600, Cron("0 6 * * *", slug="daily")]).changed
    assert author(tags=["t"]).changed
    kept = _read(server, done)["schedules"]
    assert sorted(item["active"] for item in kept) == [False, True]
    anchors = [item["schedule"]["anchor_date"] for item in (*schedules, *kept) if "anchor_date" in item["schedule"]]
    assert len(anchors) == 2 and len(set(anchors)) == 1
    assert author(
        schedule=IntervalSchedule(interval=timedelta(seconds=600), anchor_date=datetime(2026, 1, 1, tzinfo=UTC))
    ).changed
    assert author(schedule=[]).changed
    assert _read(server, done)["schedules"] == []


@pytest.mark.parametrize("name", ["n" * 300, "Ünïcode ✓ " * 30, "with 'quotes' and spaces"])
def test_long_and_odd_flow_names_work(name: str, author: Callable[..., Any], server: httpx.Client) -> None:
    @flow(name=name)
    def odd() -> None: ...

    done = author(odd)
    assert done.changed and not author(odd).changed
    assert len(Path(done.address).parent.name) <= 32
    statement = json.loads(_ref(_read(server, done)).statement)
    assert statement["deployment"] == done.name and done.name.startswith(name)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"what": print}, "is not a Prefect flow: put @flow above"),
        ({"name": "a/b"}, "name='a/b' cannot name a deployment"),
        ({"name": " "}, "cannot name a deployment"),
        ({"pool": "nope"}, "there is no work pool 'nope' .*`flowgroup start --pool nope` makes it"),
        ({"pool": "other-type"}, "'other-type' is of type 'process', not 'dask'"),
        ({"parameters": {"m": 1}}, "has no parameter 'm'; it has: n, name"),
        ({"parameters": {"n": "many"}}, "parameters= do not fit flow 'deployed': n: 'many' is not of type 'integer'"),
        ({"schedule": "at noon"}, "schedule='at noon' is wrong.*give a cron string"),
        ({"schedule": -5}, "schedule=-5 is wrong"),
        ({"schedule": object()}, "a object is not a schedule"),
        ({"store": "/tmp/x"}, "'/tmp/x' is not a store"),
        ({"include": ["*.none"]}, "matches no file"),
        ({"env": {"1A": "x"}}, "'1A' is not a name of an environment variable"),
        ({"job_variables": {"wrokers": 1}}, "wrokers"),
        ({"job_variables": {"bundle": {}}}, "deploy writes it"),
        ({"start_script": "x" * 65000, "env": {"PYTHONX": "y" * 1000}}, "are too long to be signed"),
        ({"signing_key": "/none.key"}, "cannot read the signing key /none.key"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_left(
    said: dict[str, Any], message: str, author: Callable[..., Any], server: httpx.Client, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=message):
        author(said.pop("what", etl), **said)
    assert not (tmp_path / "store").exists()
    left = server.post("/deployments/filter", json={"deployments": {"name": {"any_": [tmp_path.name]}}}).json()
    assert left == []


@contextlib.contextmanager
def _answering(status: int, body: str) -> Iterator[str]:
    """A server that gives everybody the same answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (200, "<html>", Refused, "answers what is no JSON.*ends in /api"),
        (200, '{"a": 1}', Refused, "answers something unexpected"),
        (404, '{"detail": "Not Found"}', Refused, "answers 404 to .*is it Prefect's API"),
        (404, "<html>", Refused, "answers 404"),
        (401, '{"detail": "Unauthorized"}', Refused, "does not let you in .401.*PREFECT_API_KEY"),
        (500, "oops", Transient, "in trouble .500.: oops"),
    ],
)
def test_an_api_that_is_none_is_told(
    status: int, body: str, error: type[Exception], message: str, author: Callable[..., Any]
) -> None:
    with _answering(status, body) as url, temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(error, match=message) as caught:
            author()
        assert url in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "http://no-such-host.invalid/api", None])
def test_an_api_that_is_not_there_is_told(url: str | None, author: Callable[..., Any]) -> None:
    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(Refused, match="PREFECT_API_URL"):
        author()


def test_a_bundle_goes_to_an_s3_server(author: Callable[..., Any], s3: dict[str, str], monkeypatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    store.forget()
    done = author(store="s3://flowgroup/team a/")
    assert done.address.startswith("s3://flowgroup/team a/flows/deployed/")
    assert not author(store="s3://flowgroup/team a").changed
    assert len(store.get_now(done.address)) == store.head_now(done.address)
    with pytest.raises(Refused, match="s3://no-such-bucket"):
        author(store="s3://no-such-bucket", name="nowhere")
    store.forget()


SCRIPT = """
from prefect import flow
import neighbour

@flow
def shelled(n: int = 1, words: list[str] = []):
    return neighbour.X

if __name__ == "__main__":
    raise RuntimeError("not when it is deployed")
"""


def _shell(*args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    shell.add_arguments(parser)
    return parser.parse_args(args)


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "neighbour.py").write_text("X = 1\n")
    (tmp_path / "a_flow_file.py").write_text(SCRIPT)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path / "a_flow_file.py"
    sys.path[:] = path
    for name in {"neighbour", "a_flow_file", "_flow_test"} - modules:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("author")
def test_a_shell_deploys_a_file(
    script: Path, tmp_path: Path, server: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "start.sh").write_text("true")
    words = ["--name", "sh", "--pool", POOL, "--workers", "2", "--worker-threads", "4", "--cron", "0 6 * * *"]
    words += [
        "--param",
        "n=7",
        "--param",
        'words=["a"]',
        "--env",
        "A=b=c",
        "--tag",
        "t",
        "--store",
        f"file://{tmp_path}/s",
    ]
    words += ["--start-script", str(tmp_path / "start.sh"), "--concurrency-limit", "3", "--paused"]
    assert shell.deploy_command(_shell(f"{script}:shelled", *words)) == 0
    assert "deployed  shelled/sh" in capsys.readouterr().out
    assert shell.deploy_command(_shell(str(script), *words, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] is False
    found = server.get(f"/deployments/{told['deployment_id']}").json()
    assert found["parameters"] == {"n": 7, "words": ["a"]}
    assert found["paused"] is True and found["tags"] == ["t"]
    variables = found["job_variables"]
    assert (variables["workers"], variables["worker_threads"], variables["env"]) == (2, 4, {"A": "b=c"})
    assert found["entrypoint"] == "a_flow_file.py:shelled"


@pytest.mark.usefixtures("author")
def test_a_file_whose_name_is_taken_is_deployed_too(script: Path, tmp_path: Path) -> None:
    path = script.rename(tmp_path / "json.py")
    sys.path[:0] = [str(tmp_path)]
    assert (
        shell.deploy_command(
            _shell(f"{path}:shelled", "--name", "j", "--pool", POOL, "--store", f"file://{tmp_path}/s")
        )
        == 0
    )


@pytest.mark.usefixtures("author")
@pytest.mark.parametrize(
    ("where", "more", "message"),
    [
        ("none.py:f", [], "there is no file"),
        ("{}:nope", [], "has no flow 'nope'; its flows: shelled"),
        ("{}:neighbour", [], "has no flow 'neighbour'"),
        ("{}", ["--param", "n"], "--param 'n' is not NAME=VALUE"),
        ("{}", ["--workers", "-1"], r"Cluster\(workers=-1\)"),
        ("{}", ["--start-script", "/none.sh"], "cannot read the start script /none.sh"),
        ("broken", [], "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("two", [], "does not define exactly one flow .it has: one, two"),
    ],
)
def test_a_shells_bad_input_is_refused(where: str, more: list[str], message: str, script: Path, tmp_path: Path) -> None:
    files = {
        "broken": "import nowhere_at_all",
        "two": "from prefect import flow\n@flow\ndef one(): ...\n@flow\ndef two(): ...",
    }
    if where in files:
        path = tmp_path / f"{where}_of_shell.py"
        path.write_text(files[where])
        where = str(path)
    with pytest.raises(Refused, match=message):
        shell.deploy_command(_shell(where.format(script), "--name", "x", "--pool", POOL, *more))


def test_a_shell_makes_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    shell.add_keys_arguments(parser)
    args = parser.parse_args(["new", "--folder", str(tmp_path), "--name", "mine"])
    assert args.command(args) == 0
    assert signing.key_id(signing.load_public(tmp_path / "mine.pub")[0]) in capsys.readouterr().out


def test_the_command_line_does_not_import_prefect() -> None:
    code = "import sys, flowgroup.client.shell, flowgroup.signing; print('prefect' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "agent"}
    )
    assert done.stdout.strip() == "False"
