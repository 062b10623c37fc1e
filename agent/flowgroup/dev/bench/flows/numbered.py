"""A run that says numbered lines whatever happens to the API, with a task now and then, and how long its calls were held."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect import flow, task
from prefect.runtime import flow_run
from prefect.settings import get_current_settings

_LIMIT_S = 60.0
_TASK_EVERY_S = 5


@task
def step(number: int) -> int:
    return number


@flow(log_prints=True)
def numbered(lines: int = 700, per_s: int = 10, asks_every_s: float = 0.0) -> None:
    """Each line has its number, and says when it was printed. `asks_every_s`: how often to ask the API; 0: never."""
    began = time.monotonic()
    with asking(asks_every_s):
        for number in range(lines):
            time.sleep(max(0.0, began + number / per_s - time.monotonic()))
            print(f"line {number} printed at {time.time()}")
            if number % (_TASK_EVERY_S * per_s) == 0:
                step(number)


@contextmanager
def asking(every_s: float) -> Iterator[None]:
    """Meanwhile ask the API what only reads and what changes something, in turn; say how long the longest answer took."""
    held: list[float] = [0.0]
    told: Counter[str] = Counter()
    over = threading.Event()
    thread = threading.Thread(target=_ask, args=(str(flow_run.get_id()), every_s, over, held, told))
    if every_s:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if every_s:
            thread.join()
            print(f"held for at most {max(held):.3f} s, answers {dict(told)}")


def _ask(run: str, every_s: float, over: threading.Event, held: list[float], told: Counter[str]) -> None:
    api = get_current_settings().api
    key = api.key.get_secret_value() if api.key else ""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=str(api.url), headers=headers, timeout=_LIMIT_S, trust_env=False) as client:
        while not over.wait(every_s):
            for method, path, body in (
                ("GET", f"/flow_runs/{run}", None),
                ("PATCH", f"/flow_runs/{run}/labels", {"asked": "again"}),
            ):
                began = time.monotonic()
                try:
                    answer = client.request(method, path, json=body)
                    waits = answer.headers.get("prefect-maintenance") == "true" and "retry-after" in answer.headers
                    said = "wait" if waits else str(answer.status_code)
                except httpx.HTTPError as exc:
                    said = type(exc).__name__
                held.append(time.monotonic() - began)
                told[said] += 1
