"""Templates with real forks, without Prefect: packages in a site-packages of the test's own, and a `run` that looks."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowgroup.driver import installed
from flowgroup.driver.forks import Fds, Forks, pair
from flowgroup.driver.template import Template
from flowgroup.driver.templates import Pace, Templates
from flowgroup.driver.zygote import MAX_PACKET
from flowgroup.errors import Permanent

PROGRAM = textwrap.dedent(
    """
    import importlib, json, os, site, socket, sys, time
    sys.path.append(sys.argv[2])
    usual = site.getsitepackages()
    site.getsitepackages = lambda: [*usual, sys.argv[2]]
    from flowgroup.driver import installed, warming
    from flowgroup.driver.zygote import serve

    def run(order, leash, shipper):
        order = json.loads(order)
        before = set(sys.modules)
        sys.path[:0] = order.get("path", [])
        if order.get("path"):
            importlib.invalidate_caches()
        found = {}
        for name in order.get("imports", []):
            was = name in sys.modules
            module = importlib.import_module(name)
            found[name] = [was, getattr(module, "VALUE", None)]
        news = [name for names in installed.news() for name in names]
        looked = eval(order["look"]) if "look" in order else None
        os.write(leash, json.dumps({"found": found, "news": news, "looked": looked}).encode())
        time.sleep(order.get("sleep", 0))
        return 0

    serve(socket.socket(fileno=int(sys.argv[1])), warming.settled(run), warming.preparing(run))
    """
)
PACKAGES = {
    "plain.py": "import os\nVALUE = os.getpid()\n",
    "other.py": "VALUE = 'other'\n",
    "late.py": "VALUE = 'late'\n",
    "envious.py": "import os\nVALUE = os.environ.get('FLAVOUR')\n",
    "threaded.py": "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n",
    "connected.py": "import socket\nPAIR = socket.socketpair()\n",
    "piped.py": "import os\nENDS = os.pipe()\n",
    "polled.py": "import select\nPOLL = select.epoll()\n",
    "filed.py": "import tempfile\nFILE = tempfile.NamedTemporaryFile()\n",
    "keeps.py": "import tempfile\nFOLDER = tempfile.mkdtemp()\n",
    "logged.py": "from pathlib import Path\nFILE = Path(__file__).with_suffix('.log').open('a')\n",
    "reads.py": "from pathlib import Path\nFILE = Path(__file__).open()\nVALUE = 'reads'\n",
    "raises.py": "raise RuntimeError('not today')\n",
    "leaves.py": "raise SystemExit(0)\n",
    "dies.py": "import os\nos._exit(3)\n",
    "hangs.py": "import time\ntime.sleep(3600)\n",
    "torch/__init__.py": "from torch import cuda\n",
    "torch/cuda.py": "def is_initialized():\n    return True\n",
    "mixed/__init__.py": "VALUE = 'mixed'\n",
    "mixed/good.py": "VALUE = 'good'\n",
    "mixed/bad.py": "import threaded\n",
}


@dataclass
class Nursery:
    """Templates over a zygote, both real."""

    zygote: Forks
    templates: Templates
    folder: Path

    async def start(self, env: Mapping[str, str] | None = None, **order: Any) -> "Run":
        forks = self.templates.forks_for(env or {})
        output, theirs = os.pipe()
        os.close(output)
        leash, end = socket.socketpair()
        shipped, shipper = socket.socketpair()
        shipped.close()
        leash.setblocking(False)
        name = f"run-{os.urandom(4).hex()}"
        pid = await forks.fork(name, json.dumps(order), self.folder, Fds(theirs, end.detach(), shipper.detach()))
        try:
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(leash, 1 << 20), 20)
        finally:
            leash.close()
        return Run(forks, pid, json.loads(said))

    async def run(self, env: Mapping[str, str] | None = None, **order: Any) -> dict[str, Any]:
        """One whole run; what it said."""
        run = await self.start(env, **order)
        await run.end()
        return run.said

    async def teach(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        """A run that has imported these."""
        self.templates.forks_for(env or {})
        self.templates.learn(env or {}, list(names))

    async def ready(self, env: Mapping[str, str] | None = None) -> Template:
        def look() -> Template | None:
            forks = self.templates.forks_for(env or {})
            return forks if isinstance(forks, Template) else None

        found: Template = await until(look)
        return found


@dataclass
class Run:
    forks: Any
    pid: int
    said: dict[str, Any]

    async def end(self) -> int:
        status: int = await asyncio.wait_for(self.forks.ended(self.pid), 20)
        self.forks.forget(self.pid)
        return status


async def until(is_so: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    async with asyncio.timeout(timeout_s):
        while not (found := is_so()):
            await asyncio.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.asynccontextmanager
async def nursery_in(folder: Path, pace: Pace, env: Mapping[str, str] | None = None) -> AsyncIterator[Nursery]:
    for name, code in PACKAGES.items():
        path = folder / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    for name in ("work", "near"):
        (folder / name).mkdir()
    (folder / "near" / "near.py").write_text("VALUE = 'on PYTHONPATH'\n")
    ours, theirs = pair()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(folder / "site")),
        pass_fds=[theirs.fileno()],
        env=dict({**os.environ, **(env or {})}, PYTHONPATH=f"agent:{folder / 'near'}", PYTHONDONTWRITEBYTECODE="1"),
    )
    theirs.close()
    ours.setblocking(False)
    assert json.loads(await asyncio.get_running_loop().sock_recv(ours, MAX_PACKET))["threads"] == 1
    zygote = Forks(ours, process)
    try:
        async with asyncio.TaskGroup() as tasks:
            templates = Templates(zygote, folder / "templates", tasks, pace)
            working = [tasks.create_task(zygote.listen()), tasks.create_task(templates.keep())]
            yield Nursery(zygote, templates, folder / "work")
            for task in (*working, *(task for task in asyncio.all_tasks() if task.get_name() == "template")):
                task.cancel()
    finally:
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    async with nursery_in(tmp_path, Pace(rebuild_s=0.1, ready_s=20)) as made:
        yield made


async def test_what_one_run_imports_the_next_one_has(nursery: Nursery) -> None:
    first = await nursery.run(imports=["plain", "mixed.good"])
    assert first["found"] == {"plain": [False, first["found"]["plain"][1]], "mixed.good": [False, "good"]}
    assert first["news"] == ["plain", "mixed", "mixed.good"]
    nursery.templates.learn({}, first["news"])
    template = await nursery.ready()
    second = await nursery.run(imports=["plain", "mixed.good"])
    assert second == {
        "found": {"plain": [True, template.pid], "mixed.good": [True, "good"]},
        "news": [],
        "looked": None,
    }


async def test_only_what_is_installed_is_news_and_only_that_is_imported(nursery: Nursery, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "ours.py").write_text("VALUE = 'ours'\n")
    said = await nursery.run(imports=["ours", "near", "other"], path=[str(own)])
    assert said["news"] == ["other"]
    await nursery.teach("ours", "near", "nowhere", "other")
    await nursery.ready()
    look = "[name in sys.modules for name in ('ours', 'near', 'nowhere', 'other')]"
    assert (await nursery.run(look=look))["looked"] == [False, False, False, True]


@pytest.mark.parametrize("nonsense", [None, "plain", {"plain": 1}, [1, ["plain"], "../plain", "a b", "", "x" * 1000]])
async def test_a_note_that_is_nonsense_makes_nothing(nursery: Nursery, nonsense: Any) -> None:
    nursery.templates.forks_for({})
    nursery.templates.learn({}, nonsense)
    await nursery.teach("other", env={"A": "1"})
    await nursery.ready({"A": "1"})
    assert nursery.templates.forks_for({}) is nursery.zygote


@pytest.mark.parametrize(
    "bad",
    [
        "threaded",
        "connected",
        "piped",
        "polled",
        "filed",
        "keeps",
        "logged",
        "raises",
        "leaves",
        "dies",
        "torch",
        "mixed.bad",
    ],
)
async def test_a_module_that_a_fork_cannot_take_is_left_out_and_the_others_stay(nursery: Nursery, bad: str) -> None:
    await nursery.teach("plain", "mixed.good", bad, "reads", "late")
    await nursery.ready()
    look = f"[name in sys.modules for name in ('plain', 'mixed.good', {bad!r}, 'reads', 'late')]"
    assert (await nursery.run(look=look))["looked"] == [True, True, False, True, True]


async def test_a_package_is_unfit_by_what_it_imports_itself_not_by_what_is_named_first(
    nursery: Nursery, tmp_path: Path
) -> None:
    (tmp_path / "site" / "mixed" / "__init__.py").write_text("from mixed import good\nimport threaded\n")
    said = await nursery.run(imports=["mixed", "other"])
    assert said["news"] == ["mixed.good", "threaded", "mixed", "other"]
    await nursery.teach(*(name for name in said["news"] if name != "threaded"))
    await nursery.ready()
    assert nursery.templates._left_out._names == {"mixed"}
    assert (await nursery.run(look="[name in sys.modules for name in ('mixed', 'other')]"))["looked"] == [False, True]


async def test_a_package_with_many_unfit_modules_is_left_out_as_a_whole(nursery: Nursery, tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / "site" / "mixed" / f"{name}.py").write_text("import threaded\n")
    await nursery.teach("mixed", "mixed.good", *(f"mixed.{name}" for name in "abcd"), "other")
    await nursery.ready()
    assert (await nursery.run(look="[n for n in sys.modules if n.startswith(('mixed', 'other'))]"))["looked"] == [
        "other"
    ]


async def test_a_template_that_does_not_come_is_given_up_and_runs_go_on(tmp_path: Path) -> None:
    async with nursery_in(tmp_path, Pace(rebuild_s=0, ready_s=1)) as nursery:
        await nursery.teach("hangs", "other")
        await until(lambda: list((tmp_path / "templates").glob("*")))
        await until(lambda: not list((tmp_path / "templates").glob("*")))
        await nursery.teach("plain")
        assert (await nursery.run(imports=["plain"]))["found"]["plain"][0] is False
        await nursery.teach("other", env={"A": "1"})  # one after another: this one shows that no other came
        await nursery.ready({"A": "1"})
        assert nursery.templates.forks_for({}) is nursery.zygote


async def test_modules_see_the_environment_of_their_run_and_of_no_other(nursery: Nursery) -> None:
    sweet, sour = {"FLAVOUR": "sweet"}, {"FLAVOUR": "sour"}
    for env in (sweet, sour):
        await nursery.teach("envious", env=env)
        await nursery.ready(env)
    assert (await nursery.run(sweet, imports=["envious"]))["found"] == {"envious": [True, "sweet"]}
    assert (await nursery.run(sour, imports=["envious"]))["found"] == {"envious": [True, "sour"]}
    assert (await nursery.run(imports=["envious"]))["found"] == {"envious": [False, None]}


async def test_what_only_a_new_process_can_take_is_not_set_in_a_template(nursery: Nursery) -> None:
    env = {"PYTHONHASHSEED": "7", "FLAVOUR": "sweet"}
    await nursery.teach("other", env=env)
    await nursery.ready(env)
    look = "[os.environ.get('PYTHONHASHSEED'), os.environ['FLAVOUR'], os.environ.get('OMP_NUM_THREADS')]"
    assert (await nursery.run(env, look=look))["looked"] == [None, "sweet", os.environ.get("OMP_NUM_THREADS")]


async def test_a_template_is_replaced_and_ends_with_its_last_child(nursery: Nursery) -> None:
    await nursery.teach("plain")
    old = await nursery.ready()
    running = await nursery.start(imports=["plain"], sleep=3600)
    assert running.said["found"]["plain"] == [True, old.pid]
    await nursery.teach("other")
    new = await until(lambda: (forks := nursery.templates.forks_for({})) is not old and forks)
    assert isinstance(new, Template)
    assert (await nursery.run(imports=["plain", "other"]))["found"] == {
        "plain": [True, new.pid],
        "other": [True, "other"],
    }
    assert is_alive(old.pid)
    assert is_alive(running.pid)
    os.kill(running.pid, signal.SIGTERM)
    assert os.WTERMSIG(await running.end()) == signal.SIGTERM
    await until(lambda: not is_alive(old.pid))
    assert is_alive(new.pid)


async def test_at_most_four_are_kept_and_the_one_not_used_for_longest_goes(nursery: Nursery) -> None:
    templates = {}
    for number in range(4):
        await nursery.teach("other", env={"N": str(number)})
        templates[number] = await nursery.ready({"N": str(number)})
    nursery.templates.forks_for({"N": "0"})
    await nursery.teach("other", env={"N": "4"})
    await nursery.ready({"N": "4"})
    await until(lambda: not is_alive(templates[1].pid))
    assert [is_alive(templates[number].pid) for number in range(4)] == [True, False, True, True]
    await nursery.ready({"N": "1"})  # it is used again, and comes again


async def test_a_template_that_dies_takes_its_children_along_and_the_driver_goes_on(nursery: Nursery) -> None:
    await nursery.teach("plain")
    template = await nursery.ready()
    running = await nursery.start(imports=["plain"], sleep=3600)
    os.kill(template.pid, signal.SIGKILL)
    with pytest.raises(Permanent, match="template died"):
        await asyncio.wait_for(running.forks.ended(running.pid), 20)
    await until(lambda: not is_alive(running.pid))
    await until(lambda: nursery.templates.forks_for({}) is not template)
    assert (await nursery.run(imports=["other"]))["found"] == {"other": [False, "other"]}
    again = await until(lambda: isinstance(forks := nursery.templates.forks_for({}), Template) and forks)
    assert again is not template


async def test_a_package_that_is_installed_meanwhile_makes_templates_old(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    await nursery.teach("plain")
    old = await nursery.ready()
    monkeypatch.setattr(installed, "stamp", lambda: (1,))
    assert nursery.templates.forks_for({}) is nursery.zygote
    new = await nursery.ready()
    assert new is not old
    await until(lambda: not is_alive(old.pid))


async def test_a_runs_own_module_goes_before_an_installed_one_that_is_imported_already(
    nursery: Nursery, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "other.py").write_text("VALUE = 'own'\n")
    await nursery.teach("other", "mixed.good")
    await nursery.ready()
    said = await nursery.run(imports=["other", "mixed.good"], path=[str(own)])
    assert said["found"] == {"other": [False, "own"], "mixed.good": [True, "good"]}
    assert (await nursery.run(imports=["other"]))["found"] == {"other": [True, "other"]}


async def test_the_pools_of_numpy_have_their_usual_size_and_numbers_differ(nursery: Nursery) -> None:
    pools = "[p.num_threads for p in __import__('threadpoolctl').ThreadpoolController().lib_controllers]"
    look = f"[{pools}, float(__import__('numpy').random.rand()), float(__import__('random').random())]"
    first = await nursery.run(imports=["numpy.random"], look=look)
    nursery.templates.learn({}, first["news"])
    await nursery.ready()
    second = await nursery.run(imports=["numpy.random"], look=look)
    third = await nursery.run(imports=["numpy.random"], look=look)
    assert second["found"]["numpy.random"][0]
    assert first["looked"][0]
    assert first["looked"][0] == second["looked"][0] == third["looked"][0]
    assert second["looked"][1] != third["looked"][1]
    assert second["looked"][2] != third["looked"][2]


async def test_a_pool_that_the_environment_gives_a_size_has_it_in_children_only(tmp_path: Path) -> None:
    env = {"OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5,2"}
    async with nursery_in(tmp_path, Pace(rebuild_s=0.1), env) as nursery:
        await nursery.teach("numpy")
        await nursery.ready()
        look = (
            "[[p.num_threads for p in __import__('threadpoolctl').ThreadpoolController().lib_controllers],"
            " os.environ['OPENBLAS_NUM_THREADS'], os.environ['OMP_NUM_THREADS']]"
        )
        said = await nursery.run(imports=["numpy"], look=look)
        assert said["found"]["numpy"][0]
        assert said["looked"] == [[3], "3", "5,2"]


async def test_nothing_is_left_of_templates_at_the_end(tmp_path: Path) -> None:
    async with nursery_in(tmp_path, Pace(rebuild_s=0.1)) as nursery:
        await nursery.teach("plain")
        template = await nursery.ready()
        running = await nursery.start(sleep=3600)
    await until(lambda: not is_alive(template.pid) and not is_alive(running.pid))
    assert list((tmp_path / "templates").iterdir()) == []
