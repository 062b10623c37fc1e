"""Ordinary Prefect deployments run on the pool too, and their code reaches the Dask workers by value."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real.stack import FLOWS, Stack

pytestmark = pytest.mark.real
DASK = {"workers": 1, "worker_threads": 4}  # as in test_bundles: one cluster for all
PREFECT = Path(sys.executable).with_name("prefect")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The author's folder."""
    shutil.copytree(FLOWS / "bundled", tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "project"


def shell(whole: Stack, *command: str | Path, cwd: Path) -> str:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_", "GIT_"))
    }
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    env = {**clean, **quiet, "PREFECT_API_URL": whole.url, "PREFECT_HOME": str(whole.home / "author")}
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def deployment(whole: Stack, name: str) -> str:
    return str(whole.api.get(f"/deployments/name/bundled/{name}").raise_for_status().json()["id"])


def runs_with_its_modules(whole: Stack, deployment_id: str) -> None:
    """The flow runs, and its tasks find the modules beside it, those that are loaded late as well."""
    run = whole.start(deployment_id)
    assert whole.wait(run)["state_name"] == "Completed", whole.message(run)
    whole.wait_log(run, "areas [18, 9, 3, 18]")
    whole.wait_log(run, "bare ['bare', 'bare']")
    whole.wait_log(run, "beside [1, 18]")
    whole.wait_log(run, "words 'a line of data'")


def test_from_source_of_a_folder(whole: Stack, project: Path) -> None:
    (project.parent / "deploy.py").write_text(
        "from prefect import flow\n"
        f"flow.from_source(source={str(project)!r}, entrypoint='flow.py:bundled').deploy(\n"
        f"    name='from-source', work_pool_name={whole.pool!r}, job_variables={DASK!r}, build=False, push=False\n)\n"
    )
    shell(whole, sys.executable, "deploy.py", cwd=project.parent)
    runs_with_its_modules(whole, deployment(whole, "from-source"))


def test_prefect_yaml_with_a_git_clone(whole: Stack, project: Path) -> None:
    bare = project.parent / "bare.git"
    git = ("git", "-c", "user.name=author", "-c", "user.email=author@example.org", "-c", "commit.gpgsign=false")
    shell(whole, "git", "init", "--quiet", "--bare", "--initial-branch=main", bare, cwd=project)
    shell(whole, "git", "init", "--quiet", "--initial-branch=main", cwd=project)
    shell(whole, "git", "add", ".", cwd=project)
    shell(whole, *git, "commit", "--quiet", "--message", "a flow", cwd=project)
    shell(whole, "git", "push", "--quiet", bare, "main", cwd=project)
    (project / "prefect.yaml").write_text(f"""
pull:
- prefect.deployments.steps.git_clone:
    repository: file://{bare}
    branch: main
deployments:
- name: from-yaml
  entrypoint: flow.py:bundled
  work_pool:
    name: {whole.pool}
    job_variables: {{workers: {DASK["workers"]}, worker_threads: {DASK["worker_threads"]}}}
""")
    shell(whole, PREFECT, "--no-prompt", "deploy", "--name", "from-yaml", cwd=project)
    shutil.rmtree(project)
    runs_with_its_modules(whole, deployment(whole, "from-yaml"))


@pytest.mark.parametrize(
    ("name", "entrypoint", "place"),
    [
        ("path-and-entrypoint", "flow.py:bundled", {"path": "{project}"}),
        ("absolute-entrypoint", "{project}/flow.py:bundled", {}),
        (
            "module-entrypoint",
            "flow.bundled",
            {"pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": "{project}"}}]},
        ),
    ],
)
def test_paths_and_entrypoints(whole: Stack, project: Path, name: str, entrypoint: str, place: dict[str, Any]) -> None:
    flow_id = whole.api.post("/flows/", json={"name": "bundled"}).json()["id"]
    body = filled(
        {
            "name": name,
            "flow_id": flow_id,
            "work_pool_name": whole.pool,
            "entrypoint": entrypoint,
            "job_variables": DASK,
            **place,
        },
        str(project),
    )
    answer = whole.api.post("/deployments/", json=body)
    assert answer.is_success, answer.text
    runs_with_its_modules(whole, answer.json()["id"])


def filled(value: Any, project: str) -> Any:
    if isinstance(value, str):
        return value.replace("{project}", project)
    if isinstance(value, dict):
        return {key: filled(inner, project) for key, inner in value.items()}
    return [filled(inner, project) for inner in value] if isinstance(value, list) else value


def test_code_that_is_not_there_is_named(whole: Stack, project: Path) -> None:
    flow_id = whole.api.post("/flows/", json={"name": "bundled"}).json()["id"]
    body = {"name": "nowhere", "flow_id": flow_id, "work_pool_name": whole.pool, "job_variables": DASK}
    made = whole.api.post("/deployments/", json={**body, "entrypoint": "nowhere.py:bundled", "path": str(project)})
    run = whole.start(made.json()["id"])
    assert whole.wait(run)["state_name"] == "Crashed"
    assert "nowhere.py" in whole.message(run)
