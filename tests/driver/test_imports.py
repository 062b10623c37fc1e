"""A run's own modules on a shared worker: two versions of one name at once, each for its own run."""

import importlib
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import cloudpickle
import pytest

from flowgroup.driver import imports

PACK = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from flowgroup.driver.own import Own
    own = Own(frozenset({Path(sys.argv[1])}))
    assert own.names() == {"pkg"}, own.names()
    assert own.pack("pkg.nothing") is None
    sys.stdout.buffer.write(own.pack("pkg.tools"))
    """
)


@pytest.fixture
def packed(tmp_path: Path) -> dict[int, bytes]:
    """The modules of two runs, packed in processes of their own, where they are ordinary modules."""
    found = {}
    for version in (1, 2):
        folder = tmp_path / str(version) / "pkg"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("from .tools import VERSION\n")
        (folder / "tools.py").write_text(
            f"import threading\nVERSION = {version}\ndef late():\n    from pkg import tools\n    from . import tools as same\n"
            "    import pkg.tools\n    return tools.VERSION, same is tools, pkg.tools is tools\n"
        )
        command = [sys.executable, "-c", PACK, str(folder.parent)]
        found[version] = subprocess.run(command, capture_output=True, check=True, env={"PYTHONPATH": "agent"}).stdout
    return found


def code(packed: bytes) -> imports.Code:
    return imports.Code(frozenset({"pkg"}), lambda name: packed if name in {"pkg", "pkg.tools"} else None)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", __import__)
    monkeypatch.setattr("importlib.import_module", importlib.import_module)
    imports.install()


def test_each_run_sees_its_own_version_at_the_same_time(packed: dict[int, bytes]) -> None:
    seen: dict[int, object] = {}
    together = threading.Barrier(2)

    def task(version: int) -> None:
        with imports.of_run(code(packed[version])):
            together.wait(10)
            from pkg import tools  # type: ignore[import-not-found]

            together.wait(10)
            seen[version] = tools.late()

    threads = [threading.Thread(target=task, args=(version,)) for version in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert seen == {1: (1, True, True), 2: (2, True, True)}
    assert "pkg" not in sys.modules


def test_other_names_and_other_threads_import_as_usual(packed: dict[int, bytes]) -> None:
    with imports.of_run(code(packed[1])):
        import json

        assert json is sys.modules["json"]
    with pytest.raises(ModuleNotFoundError):
        import pkg  # noqa: F401


def test_what_is_not_there_and_what_could_not_travel_are_said_by_name(packed: dict[int, bytes]) -> None:
    modules = cloudpickle.loads(packed[1])
    without = cloudpickle.dumps({name: module for name, module in modules.items() if name != "pkg.tools"})
    with imports.of_run(code(without)):
        import pkg  # type: ignore[import-not-found]

        assert pkg.VERSION == 1
        with pytest.raises(ModuleNotFoundError, match=r"'pkg\.other' beside the flow"):
            import pkg.other
        with pytest.raises(ImportError, match=r"'pkg\.tools' holds something that cannot be sent"):
            import pkg.tools
