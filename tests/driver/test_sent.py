"""What a scheduler does with a task that it passes on."""

import base64
import pickle
import subprocess
import sys

from flowgroup.driver.parts import whole
from flowgroup.driver.sent import Upstream, Work, run_task

_LOOK = """
import base64, pickle, sys
call, work, upstream = pickle.loads(base64.b64decode(sys.argv[1]))
heavy = {"prefect", "distributed", "pydantic", "httpx"} & set(sys.modules)
print(call.__name__, work.owner, upstream.index, sorted(heavy))
"""


def test_a_scheduler_need_not_import_prefect_to_pass_a_task_on() -> None:
    work = Work("Client-1", None, frozenset(), told=True, depth=1, code=whole(b"1"), frame=whole(b"2"), call=b"3")
    sent = base64.b64encode(pickle.dumps((run_task, work, Upstream(0)))).decode()
    seen = subprocess.run([sys.executable, "-c", _LOOK, sent], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "run_task Client-1 0 []"
