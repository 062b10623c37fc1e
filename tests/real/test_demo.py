"""`make demo` and `flowgroup dev` as a new user meets them: what they show, and that nothing is left, however they end."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from flowgroup.dev.minder import sweep
from flowgroup.edge.processes import end_now, running
from tests.real.stack import wait_for
from tests.servers import free_port, give_empty

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

_REPOSITORY = Path(__file__).parents[2]
_START_S = 150.0
_END_S = 40.0


@dataclass
class Terminal:
    """Where commands are typed: `tmp` and `home` are its own, and all that is started from it bears `mark`."""

    tmp: Path
    home: Path
    mark: str

    @contextlib.contextmanager
    def typed(self, *command: str, within: Path = _REPOSITORY) -> Iterator["Typed"]:
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "FLOWGROUP_", "MAKE"))
        }
        env |= {
            "TMPDIR": str(self.tmp),
            "HOME": str(self.home),
            "FG_TEST_MARK": self.mark,
            "PYTEST_ADDOPTS": "tests/test_health.py",
        }
        process = subprocess.Popen(
            command,
            cwd=within,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        typed = Typed(process, [])
        reader = Thread(target=typed.read)
        reader.start()
        try:
            yield typed
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()

    def flowgroup(self, *arguments: str) -> contextlib.AbstractContextManager["Typed"]:
        return self.typed(sys.executable, "-m", "flowgroup", *arguments)

    def processes(self) -> list[int]:
        """All that was started from here and still runs, zombies not counted."""
        return [pid for pid in _pids() if self.mark in _read(pid, "environ") or str(self.tmp) in _read(pid, "cmdline")]

    def left(self) -> list[str]:
        """Processes and files that should not be there."""
        told = [f"{pid}: {_read(pid, 'cmdline')}".replace("\0", " ") for pid in self.processes()]
        return told + [str(path) for path in self.tmp.iterdir()]

    def is_clean(self) -> bool:
        return not self.left()


@dataclass
class Typed:
    """A command on its way, and the lines that it has printed."""

    process: "subprocess.Popen[str]"
    lines: list[str]

    def read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append(line.rstrip())

    def wait_line(self, pattern: str, timeout_s: float = _START_S) -> str:
        def found() -> str | None:
            return next((line for line in list(self.lines) if re.search(pattern, line)), None)

        def seen() -> bool:
            return found() is not None or self.process.poll() is not None

        wait_for(seen, f"a line like {pattern!r}; it said:\n{self.said()}", timeout_s)
        line = found()
        assert line is not None, f"it ended without a line like {pattern!r}:\n{self.said()}"
        return line

    def said(self) -> str:
        return "\n".join(self.lines)

    def press(self, number: signal.Signals) -> None:
        """As a terminal does: to the whole process group."""
        os.killpg(self.process.pid, number)

    def ends(self, timeout_s: float = _END_S) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end within {timeout_s} s:\n{self.said()}")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    # Not below pytest's own folder: a Unix socket's path has about 100 characters at most.
    with tempfile.TemporaryDirectory(prefix="fgt-") as tmp, tempfile.TemporaryDirectory(prefix="fgh-") as home:
        made = Terminal(Path(tmp), Path(home), uuid.uuid4().hex)
        yield made
        left = made.processes()
        for pid in left:
            end_now([running(pid)], grace_s=0)
        assert not left


@pytest.fixture
def warm(terminal: Terminal) -> Terminal:
    """A terminal whose home has the empty database of an earlier demo."""
    give_empty(terminal.home / ".cache" / "flowgroup")
    return terminal


def test_the_readme_s_first_commands_work_as_written(terminal: Terminal) -> None:
    if subprocess.run(["make", "-q", ".venv/ready"], cwd=_REPOSITORY, check=False).returncode:
        pytest.skip("the environment is older than requirements.lock: make would build it anew, under this very test")
    commands = readme_commands()
    assert commands == [["make", "demo"], ["make", "test"]]

    with terminal.typed(*commands[0]) as demo:
        assert demo.ends(_START_S) == 0, demo.said()
    said = demo.said()
    assert len(re.findall(r"^  \S+ +Running$", said, re.MULTILINE)) >= 2
    assert len(re.findall(r"^  \S+ +Completed$", said, re.MULTILINE)) >= 2
    assert "INFO  hello from process" in said
    assert "squared, on the Dask worker with process id" in said
    assert re.search(r"Prefect's UI is at http://127\.0\.0\.1:\d+", said)
    table = said[said.index("→ Pending") :]
    assert len(re.findall(r"Completed +-?\d+\.\d\d s +-?\d+\.\d\d s +\d+\.\d\d s", table)) == 2
    assert "Traceback" not in said
    assert not terminal.left()
    assert [path.name for path in terminal.home.rglob("*") if path.is_file()] == [f"empty-{_prefect_version()}.db"]

    with terminal.typed(*commands[1]) as tests:  # only one file of them: this one is among them
        assert tests.ends(_START_S) == 0, tests.said()
    assert re.search(r"\d+ passed", tests.said())


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_a_quick_start_works_as_written(terminal: Terminal, page: str) -> None:
    """But for the port, which is a free one, and `make setup`: what it makes stands in for the clone's own."""
    give_empty(terminal.home / ".flowgroup" / "cache")
    port = free_port()
    clone = _clone(terminal.home / "clone")
    first, second = quick_start((_REPOSITORY / page).read_text().replace(":4200", f":{port}"))
    assert re.sub("make setup.*\n", "", first).split("#")[0].split() == [".venv/bin/flowgroup", "dev"]
    with terminal.typed(".venv/bin/flowgroup", "dev", "--port", str(port), within=clone) as dev:
        dev.wait_line("Ctrl-C ends everything")
        with terminal.typed("bash", "-euxc", second, within=clone) as author:
            assert author.ends(1.5 * _START_S) == 0, author.said()
        assert author.said().count("finished successfully in 'Completed'") == second.count("prefect deployment run") > 0
        assert "Traceback" not in author.said()
        dev.press(signal.SIGINT)
        assert dev.ends() == 130
    assert not terminal.processes()


@pytest.mark.parametrize(
    "moment", ["starting a Prefect server", "starting the daemon", "a run on demand", r" Running$"]
)
def test_ctrl_c_leaves_nothing_at_any_moment(warm: Terminal, moment: str) -> None:
    with warm.flowgroup("demo") as demo:
        demo.wait_line(moment)
        demo.press(signal.SIGINT)
        assert demo.ends() == 130
        assert "Traceback" not in demo.said()
        assert not warm.left()


@pytest.mark.parametrize("how", ["twice Ctrl-C", "the terminal is closed", "kill -9"])
def test_a_demo_that_ends_roughly_leaves_nothing(warm: Terminal, how: str) -> None:
    with warm.flowgroup("demo") as demo:
        demo.wait_line(r" Pending$")
        if how == "kill -9":
            demo.process.kill()
        else:
            demo.press(signal.SIGHUP if how == "the terminal is closed" else signal.SIGINT)
        if how == "twice Ctrl-C":
            demo.wait_line("ending everything")
            demo.press(signal.SIGINT)
        assert demo.ends() != 0
        assert "Traceback" not in demo.said()
        wait_for(warm.is_clean, "all is gone", _END_S)


def test_kill_ends_a_job_in_the_background_too(warm: Terminal) -> None:
    background = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")  # where a shell's `&` has SIGINT ignored
    with warm.typed(*background, sys.executable, "-m", "flowgroup", "demo") as demo:
        demo.wait_line("starting a Prefect server")
        demo.press(signal.SIGINT)
        demo.wait_line("Prefect's UI is at")
        demo.process.terminate()
        assert demo.ends() == 130
        assert not warm.left()


def test_the_next_demo_ends_what_one_left_that_lost_its_minder_too(
    warm: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(warm.tmp))
    with warm.flowgroup("demo") as demo:
        demo.wait_line(r" Pending$")
        sweep("flowgroup-demo-")  # a demo that runs is left alone
        assert demo.process.poll() is None
        for pid in warm.processes():
            if "flowgroup.dev.minder" in _read(pid, "cmdline"):
                os.kill(pid, signal.SIGKILL)
        demo.process.kill()
        demo.process.wait()
        [folder] = warm.tmp.iterdir()
        assert warm.processes()
        sweep("flowgroup-demo-")  # it is too young: its owner may be about to lock it
        assert folder.exists()
        os.utime(folder / "dev.lock", (0, 0))
        sweep("flowgroup-demo-")
        wait_for(warm.is_clean, "all is gone", _END_S)


def test_two_demos_at_once_do_not_meet(warm: Terminal) -> None:
    with warm.flowgroup("demo") as one, warm.flowgroup("demo") as other:
        one.wait_line(r" Running$")
        one.press(signal.SIGINT)
        assert one.ends() == 130
        assert other.ends(_START_S) == 0, other.said()
        assert not warm.left()


def test_dev_stays_up_says_who_is_in_the_way_and_goes_without_a_trace_of_processes(warm: Terminal) -> None:
    home, port = warm.home / "fg", str(free_port())
    give_empty(home / "cache")
    start = ("dev", "--home", str(home), "--port", port)
    with warm.flowgroup(*start) as dev:
        dev.wait_line("Ctrl-C ends everything")
        assert f"http://127.0.0.1:{port}/api" in dev.said()
        with warm.flowgroup(*start) as second:
            assert second.ends() == 2
        assert f"in use by another flowgroup (process {dev.process.pid})" in second.said()
        with warm.flowgroup("dev", "--home", str(warm.home / "elsewhere"), "--port", port) as third:
            assert third.ends() == 2
        assert f"port {port} of this machine is taken" in third.said()
        assert "--port" in third.said()
        assert dev.process.poll() is None
        dev.process.kill()

    with warm.flowgroup(*start) as again:  # at once: it waits until the minder of the first one is done
        again.wait_line("Ctrl-C ends everything")
        again.press(signal.SIGINT)
        assert again.ends() == 130
        assert "Traceback" not in again.said()
        assert not warm.processes()
    assert (home / "prefect" / "prefect.db").exists()  # what was deployed is there the next time


def readme_commands() -> list[list[str]]:
    """The README's first code block, without its comments."""
    block = (_REPOSITORY / "README.md").read_text().split("```")[1]
    lines = [line.partition("#")[0].split() for line in block.splitlines()]
    return [line for line in lines if line and line[0] == "make"]


def quick_start(page: str) -> tuple[str, str]:
    """
    What is typed into the first terminal and, as one script, into the second. A block of Python is the file that is named
    before it; what has an ellipsis in it is for a server that we have not.
    """
    _, _, text = page.partition("# Quick start\n")
    if page.startswith("# flowgroup"):
        text = text.partition("\n## ")[0]  # the README's section
    steps, file = [], ""
    for prose, language, block in re.findall(r"(.*?)```(\w*)\n(.*?)```", text, re.DOTALL):
        file = (re.findall(r"`(\w+\.py)`", prose) or [file])[-1]
        if language == "python":
            steps.append(f"cat > {file} <<'END'\n{block}END")
        elif "…" not in block:
            steps.append(block)
    return steps[0], "\n".join([". .venv/bin/activate", *steps[1:]])


def _clone(folder: Path) -> Path:
    """A folder with a `.venv` whose commands are those of this very environment."""
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, module in {"python": "", "flowgroup": "-m flowgroup", "prefect": "-m prefect"}.items():
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (commands / name).chmod(0o755)
    (commands / "activate").write_text(f'PATH="{commands}:$PATH"\n')
    return folder


def _prefect_version() -> str:
    from importlib.metadata import version

    return version("prefect")


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""
