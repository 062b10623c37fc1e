"""Shows flow runs' states and logs in the terminal as they arrive at the API."""

import sys
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TextIO

import httpx

_FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "FATAL"}


@dataclass
class Watch:
    """Polls one pool's runs. `look` prints what is new since the last look, a state that is over again by then too."""

    api: httpx.Client
    pool: str
    out: TextIO = field(default_factory=lambda: sys.stdout)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _states_seen: set[str] = field(default_factory=set)
    _logs_seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    def look(self) -> None:
        wanted = {"work_pools": {"name": {"any_": [self.pool]}}, "sort": "START_TIME_ASC", "limit": 200}
        started = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        for run in self._post("/flow_runs/filter", {**wanted, **started}):
            is_news = run["state_id"] != self.runs.get(run["id"], {}).get("state_id")
            self.runs[run["id"]] = run
            if is_news:
                self._show_states(run)
        self._show_logs()

    def ended(self, run_id: str) -> bool:
        return self.runs.get(run_id, {}).get("state_type") in _FINAL

    def started(self, run_id: str) -> bool:
        return self.runs.get(run_id, {}).get("state_type") not in (None, "SCHEDULED", "PENDING")

    def has_said(self, run_id: str, start: str) -> bool:
        """Whether the run's own log (not that of its tasks) has a line that begins so."""
        lines = (entry for entry in self._logs_seen.values() if entry["flow_run_id"] == run_id)
        return any(entry["task_run_id"] is None and entry["message"].startswith(start) for entry in lines)

    def _show_states(self, run: dict[str, Any]) -> None:
        for state in _states(self.api, run):
            if state["id"] not in self._states_seen and state["type"] != "SCHEDULED":
                self._states_seen.add(state["id"])
                self._print(run["name"], f"{state['name']}  {_first_line(state['message'])}".rstrip())

    def _show_logs(self) -> None:
        ids = list(self.runs)[-50:]
        if not ids:
            return
        body = {"logs": {"flow_run_id": {"any_": ids}}, "sort": "TIMESTAMP_DESC", "limit": 200}
        for entry in reversed(self._post("/logs/filter", body)):
            if entry["id"] not in self._logs_seen:
                self._logs_seen[entry["id"]] = entry
                level = _LEVELS.get(entry["level"], str(entry["level"]))
                self._print(self.runs[entry["flow_run_id"]]["name"], f"  {level:5} {entry['message']}")

    def _post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.api.post(path, json=body)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def _print(self, name: str, text: str) -> None:
        print(f"  {name:24.24} {text}", file=self.out, flush=True)


def _first_line(message: str | None) -> str:
    return message.splitlines()[0] if message else ""


def _states(api: httpx.Client, run: dict[str, Any]) -> list[dict[str, Any]]:
    """All states that a run was in, the oldest first."""
    found: list[dict[str, Any]] = (
        api.get("/flow_run_states/", params={"flow_run_id": run["id"]}).raise_for_status().json()
    )
    return sorted(found, key=lambda state: datetime.fromisoformat(state["timestamp"]))


def timings(api: httpx.Client, run: dict[str, Any]) -> dict[str, float]:
    """Seconds from a run's due time to each of its states, by the API's own record."""
    due = max(datetime.fromisoformat(run["expected_start_time"]), datetime.fromisoformat(run["created"]))
    return {
        state["name"]: (datetime.fromisoformat(state["timestamp"]) - due).total_seconds() for state in _states(api, run)
    }
