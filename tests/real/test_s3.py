"""Bundles and results in an S3 bucket, for runs that hold no key of it."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
import pytest
from obstore.store import from_url

from flowgroup.edge import store
from tests.real.stack import Stack, stack, wait_for

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def bucket(s3: dict[str, str]) -> Iterator[dict[str, str]]:
    """The author's environment, and this process's as long as the module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():
            patch.setenv(name, value)
        store.forget()
        yield s3
    store.forget()


@pytest.fixture(scope="module")
def pool(prefect_api: str, bucket: dict[str, str]) -> Iterator[Stack]:
    env = {**bucket, "FLOWGROUP_DRIVER_KEEP_ENV": "AWS_REGION"}
    with (
        TemporaryDirectory(prefix="fg-", ignore_cleanup_errors=True) as folder,
        stack(prefect_api, Path(folder), "s3", env=env) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def deployment(pool: Stack, bucket: dict[str, str]) -> str:
    dask = ("--workers", "1", "--worker-threads", "2")
    return pool.deploy("stored.py:stored", "s3", *dask, store="s3://flowgroup/team", env=bucket)


def keys(prefix: str) -> list[str]:
    return sorted(entry["path"] for page in obstore.list(from_url("s3://flowgroup"), prefix=prefix) for entry in page)


def states_of(pool: Stack, run: str, task: str) -> set[str]:
    """The server records tasks' states a little later than the run's end."""
    return {one["state_name"] for one in pool.tasks(run) if one["name"].startswith(task)}


def test_bundle_and_results_are_in_the_bucket_and_the_cache_serves_the_next_run(pool: Stack, deployment: str) -> None:
    salt = uuid.uuid4().hex
    assert len(keys("team/flows/stored")) == 1
    first = pool.start(deployment, salt=salt)
    assert pool.wait(first)["state_name"] == "Completed", pool.message(first)
    pool.wait_log(first, f"computed 2 of {salt}")
    kept = keys("team/results/stored")
    assert len(kept) == 3, kept
    assert pool.run(first)["state"]["data"]["storage_key"].startswith("s3://flowgroup/team/results/stored/")
    second = pool.start(deployment, salt=salt)
    assert pool.wait(second)["state_name"] == "Completed", pool.message(second)
    wait_for(lambda: states_of(pool, second, "doubled") == {"Cached"}, "its tasks came from the cache")
    assert len(keys("team/results/stored")) == 4
    pool.wait_log(second, "'doubled': [2, 4]")
    assert not [entry for entry in pool.logs(second) if "computed" in entry["message"]]


def test_no_key_of_the_store_is_where_user_code_runs(
    pool: Stack, deployment: str, bucket: dict[str, str], tmp_path: Path
) -> None:
    run = pool.start(deployment, salt=uuid.uuid4().hex, until=str(tmp_path / "looked"))
    child = int(pool.wait_log(run, "pid ", timeout_s=60)["message"].removeprefix("pid "))
    processes = {**pool.processes(pool.cluster_of(run)), "child": child, "zygote": parent_of(child)}
    assert processes.keys() >= {"driver", "scheduler", "worker-0"}
    for role, pid in processes.items():
        environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        assert "AWS_REGION=us-east-1" in environ, role
        assert not [entry for entry in environ if entry.startswith("AWS_") and "REGION" not in entry], role
        assert bucket["AWS_SECRET_ACCESS_KEY"] not in str(environ), role
    (tmp_path / "looked").touch()
    assert pool.wait(run)["state_name"] == "Completed"
    pool.wait_log(run, "'variables': [['AWS_REGION'], ['AWS_REGION']]")


def test_a_bundle_that_is_gone_from_the_bucket_is_named(pool: Stack, bucket: dict[str, str]) -> None:
    deployment = pool.deploy("stored.py:stored", "gone", store="s3://flowgroup/gone", env=bucket)
    (bundle,) = keys("gone/flows")
    obstore.delete(from_url("s3://flowgroup"), bundle)
    run = pool.start(deployment, salt="")
    assert pool.wait(run)["state_name"] == "Crashed"
    assert f"s3://flowgroup/{bundle} is not there" in pool.message(run)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
