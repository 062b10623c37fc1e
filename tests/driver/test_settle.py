"""A run's settings made quickly are those that Prefect would have read from the environment."""

import json
import os
import subprocess
import sys
from pathlib import Path

_BOTH = """
import json, os, sys
import prefect.context
from flowgroup.driver.settle import settle
from flowgroup.settings import set_environment

def now():
    return prefect.context.get_settings_context().settings.model_dump(mode="json", context={"include_secrets": True})

env = json.loads(sys.argv[1])
changed = set_environment(env)
settle(env, changed, quickly=True)
quick = now()
prefect.context.refresh_global_settings_context()
print(json.dumps([quick == now(), sorted(name for name in quick if quick[name] != now()[name]), quick["api"], quick["home"]]))
"""


def both(tmp_path: Path, **more: str) -> list[object]:
    home = tmp_path / "run" / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    env = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_KEY": "token",
        "PREFECT_API_AUTH_STRING": "token",
        "PREFECT_UI_URL": "http://ui",
        "PREFECT__FLOW_RUN_ID": "x",
        **more,
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    shared = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_URL": "http://127.0.0.1:1/api",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _BOTH, json.dumps(env)],
        env={**clean, **shared},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


def test_what_is_made_quickly_is_what_prefect_reads(tmp_path: Path) -> None:
    same, different, api, home = both(tmp_path)
    assert (same, different) == (True, [])
    assert isinstance(api, dict)
    assert api["key"] == "token"
    assert home == str(tmp_path / "run" / "prefect")


def test_a_setting_of_the_run_is_read_by_prefect_itself(tmp_path: Path) -> None:
    same, different, _, _ = both(tmp_path, PREFECT_LOGGING_LEVEL="DEBUG", PREFECT_RESULTS_PERSIST_BY_DEFAULT="true")
    assert (same, different) == (True, [])
