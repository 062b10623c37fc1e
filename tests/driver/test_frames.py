"""What of Prefect's context goes to a worker: never the token."""

import pickle
from pathlib import Path
from uuid import uuid4

from prefect import tags, task
from prefect.context import get_settings_context
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_REFRESH_CACHE,
    temporary_settings,
)

from flowgroup.driver import frames


@task
def some_task() -> None:
    return None


def test_the_token_stays_in_the_child() -> None:
    with temporary_settings({PREFECT_API_KEY: "the-token-of-this-run"}):
        frame = frames.of_run(runner=None)
        call = pickle.dumps(frames.of_call(some_task, uuid4(), {}))
    assert b"the-token-of-this-run" not in frame + call


def test_how_tasks_and_results_are_treated_goes_along(tmp_path: Path) -> None:
    set_ = {
        PREFECT_TASKS_REFRESH_CACHE: True,
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_LOCAL_STORAGE_PATH: str(tmp_path / "child"),
    }
    with temporary_settings(set_):
        context = pickle.loads(frames.of_run(runner=None))
    set_here = {PREFECT_API_KEY: "worker", PREFECT_LOCAL_STORAGE_PATH: str(tmp_path / "worker")}
    with temporary_settings(set_here) as _, frames.settings_of(context, get_settings_context()):
        settings = get_settings_context().settings
    assert settings.tasks.refresh_cache
    assert settings.results.persist_by_default
    assert settings.results.local_storage_path == tmp_path / "worker"
    assert settings.api.key is not None
    assert settings.api.key.get_secret_value() == "worker"
    assert context["settings_context"] == {}


def test_tags_around_a_call_go_with_that_call() -> None:
    with tags("around"):
        call = frames.of_call(some_task, uuid4(), {})
    assert call["tags_context"] == {"current_tags": {"around"}}
    assert frames.of_call(some_task, uuid4(), {})["task_run_context"] == {}
