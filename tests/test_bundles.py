"""Bundles: what travels, the content's id, and what is refused before anything is unpickled."""

import hashlib
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cloudpickle
import prefect
import pytest

from flowgroup import signing
from flowgroup.bundles import archive, open_bundle, pack
from flowgroup.errors import Refused
from flowgroup.model.bundle import BundleRef, Statement

AGENT = Path(__file__).parents[1] / "agent"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

HELPER = """
    import threading
    LOCK = threading.Lock()  # cannot be pickled: the module must travel as source
    FACTOR = 2
    def twice(x):
        with LOCK:
            return x * FACTOR
"""
PROJECT = {
    "helper.py": HELPER,
    "tools/__init__.py": "",
    "tools/lazy.py": "from . import deep\ndef add(x):\n    return x + deep.ONE\n",
    "tools/deep.py": "ONE = 1\n",
    "sql/query.sql": "select 1",
    "unrelated.py": "raise RuntimeError('nobody imports me')\n",
    "venv/pyvenv.cfg": "",
    "venv/lib/python3/site-packages/installed.py": "",
}
FLOW = """
    from pathlib import Path
    from prefect import flow, task
    import helper

    @task
    def one(x):
        from tools import lazy
        return lazy.add(helper.twice(x))

    @flow
    def etl(n: int = 3):
        return one.fn(n), (Path(helper.__file__).parent / "sql" / "query.sql").exists()
"""
PACK_MAIN = """
    if __name__ == "__main__":
        import sys
        from flowgroup.bundles import pack
        packed = pack(etl, include=["sql/*.sql"])
        open(sys.argv[1], "wb").write(packed.data)
        print(packed.content_id, packed.entry, *packed.files)
"""
PACK_MODULE = """
    import sys
    import flows
    from flowgroup.bundles import pack
    packed = pack(flows.etl, include=["sql/*.sql"])
    open(sys.argv[1], "wb").write(packed.data)
    print(packed.content_id, packed.entry, *packed.files)
"""
OPEN = """
    import json, sys
    from pathlib import Path
    from flowgroup.bundles import open_bundle
    from flowgroup.model.bundle import BundleRef
    zip, ref, into = sys.argv[1:]
    flow = open_bundle(
        Path(zip), BundleRef.model_validate_json(Path(ref).read_text()), deployment="etl/prod", version="v1", into=Path(into)
    )
    print(json.dumps(flow.fn(5)))
"""


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def _python(folder: Path, *command: str, seed: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": str(AGENT), "PYTHONHASHSEED": str(seed), "PREFECT_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _statement(data: bytes, **changes: Any) -> Statement:
    values = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "deployment": "etl/prod",
        "version": "v1",
        "python": PYTHON,
        "cloudpickle": cloudpickle.__version__,
        "prefect": prefect.__version__,
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    }
    return Statement.model_validate(values)


def _ref(data: bytes, **changes: Any) -> BundleRef:
    return BundleRef(address="s3://b/flow.zip", statement=_statement(data, **changes).canonical())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return _write(tmp_path / "project", PROJECT)


@pytest.mark.parametrize(
    ("files", "entry"),
    [
        ({"flows.py": FLOW + PACK_MAIN, "start.py": ""}, "flows.py:etl"),
        ({"flows.py": FLOW, "start.py": PACK_MODULE}, "flows.py:etl"),
    ],
    ids=["from a script", "from a module"],
)
def test_a_flow_and_the_modules_beside_it_run_where_its_folder_is_not(
    files: dict[str, str], entry: str, project: Path, tmp_path: Path
) -> None:
    _write(project, files)
    script = "start.py" if files["start.py"] else "flows.py"
    out = tmp_path / "flow.zip"
    told = _python(project, script, str(out), seed=1).split()
    assert told == _python(project, script, str(out), seed=2).split(), "the id must not depend on the process"
    code = {"helper.py", "sql/query.sql", "tools/__init__.py", "tools/deep.py", "tools/lazy.py"}
    assert told[1] == entry
    assert set(told[2:]) == code | ({"flows.py"} if files["start.py"] else set())
    shutil.rmtree(project)
    (tmp_path / "ref.json").write_text(_ref(out.read_bytes()).model_dump_json())
    _write(tmp_path, {"open.py": OPEN})
    result = _python(tmp_path, "open.py", str(out), str(tmp_path / "ref.json"), str(tmp_path / "code"))
    assert json.loads(result) == [11, True]


def test_a_notebooks_id_is_the_same_in_every_process(project: Path, tmp_path: Path) -> None:
    cells = textwrap.dedent(
        """
        import re, sys, dataclasses, enum
        from pydantic import BaseModel
        from prefect import flow, task
        from prefect.task_runners import ThreadPoolTaskRunner
        NAMES = {"a", "b", "c", "d"}
        WORDS = re.compile("x+")
        class Colour(enum.Enum):
            RED = "r"
        class Config(BaseModel):
            n: int = 3
            tags: set[str] = {"x", "y", "z"}
        @dataclasses.dataclass
        class Row:
            a: int = 1
        def helper(x):
            return x in {"p", "q", "r"} and Row(), Colour.RED
        @task(tags=["u", "v", "w"], retries=2)
        def load(config: Config):
            import tools.lazy
            return helper(config), NAMES, WORDS
        @flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
        def etl(config: Config = Config()):
            return load(config)
        from flowgroup.bundles import pack
        packed = pack(etl)
        print(packed.content_id, packed.entry, *packed.files)
        """
    )
    told = {_python(project, "-c", cells, seed=seed) for seed in (1, 2)}
    assert len(told) == 1
    assert told.pop().split()[1:] == ["notebook:etl", "tools/__init__.py", "tools/deep.py", "tools/lazy.py"]


NOTEBOOK = """
from prefect import flow, task

LIMIT = 3
TABLE = {"a": [1, 2]}

def inner(x):
    return x + 1

def helper(x):
    return inner(x)

class Config:
    size = 1
    def double(self):
        return self.size * 2

unused = 1

def make(step):
    @flow(name="etl")
    def etl(n: int = 1):
        return helper(n), LIMIT, TABLE, Config().double(), step
    return etl

etl = make(5)
"""


def _notebook(code: str) -> str:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "<cell>", "exec"), space)
    return pack(space["etl"]).content_id


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("LIMIT = 3", "LIMIT = 4", True),
        ("[1, 2]", "[1, 3]", True),
        ("x + 1", "x + 2", True),
        ("inner(x)", "inner(x) ", False),
        ("size = 1", "size = 2", True),
        ("self.size * 2", "self.size * 3", True),
        ("n: int = 1", "n: int = 2", True),
        ("n: int = 1", "n: float = 1", True),
        ("make(5)", "make(6)", True),
        ('name="etl"', 'name="etl", retries=1', True),
        ("unused = 1", "unused = 2", False),
        ("LIMIT = 3", "\n\n# a comment\nLIMIT = 3", False),
    ],
)
def test_a_notebooks_id_changes_with_what_its_functions_use(old: str, new: str, changes: bool) -> None:
    assert old in NOTEBOOK
    assert (_notebook(NOTEBOOK.replace(old, new)) != _notebook(NOTEBOOK)) is changes


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Imports `flow_of_a_test.py` with the given text anew, from its folder."""
    before = list(sys.path)

    def load(text: str) -> Any:
        _write(tmp_path, {"flow_of_a_test.py": text})
        sys.path[:] = [str(tmp_path), *before]
        sys.modules.pop("flow_of_a_test", None)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return __import__("flow_of_a_test")

    yield load
    sys.path[:] = before
    sys.modules.pop("flow_of_a_test", None)


def test_settings_belong_to_the_content(module: Callable[[str], Any]) -> None:
    flow = module("from prefect import flow\n@flow\ndef etl(): pass\n").etl
    ids = [
        pack(flow).content_id,
        pack(flow, image="x:1").content_id,
        pack(flow, start_script="true").content_id,
        pack(flow, env={"A": "1"}).content_id,
        pack(flow.with_options(retries=3)).content_id,
    ]
    assert len(set(ids)) == len(ids)
    assert pack(flow).content_id == ids[0]


def test_the_source_of_a_module_is_the_content_even_where_nothing_uses_it(module: Callable[[str], Any]) -> None:
    text = "from prefect import flow\n@flow\ndef etl(): pass\n"
    first = pack(module(text).etl)
    assert pack(module(text).etl).content_id == first.content_id
    assert pack(module(text + "# more\n").etl).content_id != first.content_id


@pytest.mark.parametrize(
    ("text", "call", "message"),
    [
        ("x = 1", lambda module: pack(module.x), "1 is not a Prefect flow: put @flow above"),
        ("def f(): pass", lambda module: pack(module.f), "is not a Prefect flow"),
        ("", lambda module: pack(_flow_of(module), include=["*.none"]), r"include='\*\.none' matches no file below"),
        ("", lambda module: pack(_flow_of(module), include=["../*"]), r"must be a pattern of paths below"),
        ("", lambda module: pack(_flow_of(module), include=["/etc/*"]), r"must be a pattern of paths below"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    text: str, call: Callable[[Any], Any], message: str, module: Callable[[str], Any]
) -> None:
    loaded = module(text + "\nfrom prefect import flow\n@flow\ndef etl(): pass\n")
    with pytest.raises(Refused, match=message):
        call(loaded)


def _flow_of(module: Any) -> Any:
    return module.etl


def test_a_flow_that_holds_what_cannot_be_pickled_is_refused(module: Callable[[str], Any]) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("import threading\nfrom prefect import flow\nL = threading.Lock()\n@flow\ndef etl():\n    L.acquire()", space)
    with pytest.raises(Refused, match=r"flow 'etl' cannot be packed: .*lock.*make it inside the function"):
        pack(space["etl"])


class _Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-was-unpickled"


@pytest.fixture
def evil(mark: Path) -> bytes:
    return archive.write(pickle.dumps(_Evil(mark)), {"helper.py": b"X = 1"})


@pytest.fixture
def path_kept() -> Iterator[None]:
    before = list(sys.path)
    yield
    sys.path[:] = before


def _open(data: bytes, ref: BundleRef, tmp_path: Path, **more: Any) -> Any:
    arguments = {"deployment": "etl/prod", "version": "v1", "into": tmp_path / "code", **more}
    return open_bundle(data, ref, **arguments)


@pytest.mark.usefixtures("path_kept")
def test_the_mark_works_and_what_is_no_flow_is_refused(evil: bytes, mark: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not a flow"):
        _open(evil, _ref(evil), tmp_path)
    assert mark.exists()


def _newer(version: str) -> str:
    major, minor, *_ = version.split(".")
    return f"{major}.{int(minor) + 1}.0"


@pytest.mark.parametrize(
    ("change_data", "change_statement", "more", "message"),
    [
        (lambda data: data[:-1], {}, {}, r"s3://b/flow.zip is truncated .*deploy the flow again"),
        (lambda data: data + b"x", {}, {}, "truncated or another file"),
        (lambda data: b"", {}, {}, "truncated or another file"),
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], {}, {}, "was changed after it was deployed"),
        (
            lambda data: data,
            {"python": "3.99"},
            {},
            f"packed with Python 3.99, the driver runs {PYTHON}: deploy again from",
        ),
        (lambda data: data, {"cloudpickle": "99.0.0"}, {}, "packed with cloudpickle 99.0.0, the driver has"),
        (lambda data: data, {"cloudpickle": _newer(cloudpickle.__version__)}, {}, "packed with cloudpickle"),
        (lambda data: data, {"prefect": _newer(prefect.__version__)}, {}, "packed with Prefect .*, the driver runs"),
        (lambda data: data, {"prefect": "3.0.0"}, {}, "packed with Prefect 3.0.0"),
        (lambda data: data, {"version": "v0"}, {}, "is version v0, but the deployment says v1"),
        (lambda data: data, {"deployment": "other/prod"}, {}, "was made for the deployment 'other/prod'"),
        (lambda data: data, {}, {"version": None}, "but the deployment says none"),
        (lambda data: data, {}, {"public_keys": ["A" * 43 + "="]}, "is not signed"),
    ],
)
def test_nothing_is_unpickled_before_everything_was_checked(
    change_data: Callable[[bytes], bytes],
    change_statement: dict[str, Any],
    more: dict[str, Any],
    message: str,
    evil: bytes,
    mark: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(Refused, match=message):
        _open(change_data(evil), _ref(evil, **change_statement), tmp_path, **more)
    assert not mark.exists()
    assert not (tmp_path / "code").exists()


def test_a_statement_signed_by_another_is_refused_unopened(evil: bytes, mark: Path, tmp_path: Path) -> None:
    trusted, stranger = (signing.new_pair(tmp_path / "keys", name) for name in ("trusted", "stranger"))
    text = _statement(evil).canonical()
    signature, _ = signing.sign(text, stranger.private)
    ref = BundleRef(address="s3://b/flow.zip", statement=text, signature=signature, key_id=trusted.key_id)
    with pytest.raises(Refused, match="does not fit its statement"):
        _open(evil, ref, tmp_path, public_keys=signing.load_public(trusted.public))
    assert not mark.exists()


@pytest.mark.usefixtures("path_kept")
def test_a_patch_release_of_prefect_and_an_older_cloudpickle_are_taken(
    module: Callable[[str], Any], tmp_path: Path
) -> None:
    data = pack(module("from prefect import flow\n@flow\ndef etl(): return 7\n").etl).data
    major, minor, *_ = prefect.__version__.split(".")
    ref = _ref(data, prefect=f"{major}.{minor}.999", cloudpickle="2.2.1")
    assert _open(data, ref, tmp_path).fn() == 7


def _entry(name: str, *, mode: int = stat.S_IFREG | 0o600, data: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("flow.pkl", b"N.")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        file.writestr(entry, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_entry("../evil.py"), "may not be in one, '../evil.py'"),
        (_entry("code/../../evil.py"), "may not be in one"),
        (_entry("/etc/evil"), "may not be in one"),
        (_entry("code//evil.py"), "may not be in one"),
        (_entry("code/./evil.py"), "may not be in one"),
        (_entry("code/"), "may not be in one"),
        (_entry("code/c:evil"), "may not be in one"),
        (_entry("code\\..\\evil"), "may not be in one"),
        (_entry("other.txt"), "may not be in one"),
        (_entry("code/link", mode=stat.S_IFLNK | 0o777, data=b"/etc/passwd"), "may not be in one"),
        (_entry("code/pipe", mode=stat.S_IFIFO), "may not be in one"),
        (b"this is no zip", "is not a readable zip"),
        (_entry("code/x.py").replace(b"flow.pkl", b"flow.pkk"), "has no flow.pkl"),
    ],
)
def test_a_zip_with_anything_odd_in_it_is_refused_unwritten(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=message):
        _open(data, _ref(data), tmp_path)
    assert not (tmp_path / "code").exists()
    assert not (tmp_path / "evil.py").exists()


def test_a_zip_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = archive.write(b"N.", {"a.bin": b"0" * 1000, "b.bin": b""})
    with monkeypatch.context() as patched, pytest.raises(Refused, match="unpacks to 1002 bytes, more than 999"):
        patched.setattr(archive, "MAX_UNPACKED_BYTES", 999)
        _open(data, _ref(data), tmp_path)
    with monkeypatch.context() as patched, pytest.raises(Refused, match="has 3 files, more than 2"):
        patched.setattr(archive, "MAX_FILES", 2)
        _open(data, _ref(data), tmp_path)


def test_a_missing_bundle_is_refused(tmp_path: Path, evil: bytes) -> None:
    with pytest.raises(Refused, match=r"s3://b/flow\.zip is missing: deploy the flow again"):
        _open(tmp_path / "none.zip", _ref(evil), tmp_path)  # type: ignore[arg-type]


@pytest.mark.usefixtures("path_kept")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_installed_anywhere", "needs the module 'not_installed_anywhere', which is neither"),
        ("raise KeyError('HOME_OF_AUTHOR')", "cannot be loaded: KeyError: 'HOME_OF_AUTHOR'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(source: str, message: str, tmp_path: Path) -> None:
    pickled = b"cnot_here_before\nflow\n."
    data = archive.write(pickled, {"not_here_before.py": source.encode()})
    with pytest.raises(Refused, match=message):
        _open(data, _ref(data), tmp_path)


def test_two_versions_of_a_module_travel_by_value(tmp_path: Path) -> None:
    _write(tmp_path, {"mine/__init__.py": "", "mine/work.py": "def f():\n    return 41\n"})
    script = """
        import sys, pickle, cloudpickle
        from pathlib import Path
        from flowgroup.bundles import register_by_value
        sys.path.insert(0, sys.argv[1])
        import mine.work
        loaded = list(sys.modules.values())
        register_by_value(Path(sys.argv[1]), loaded); register_by_value(Path(sys.argv[1]), loaded)
        data = cloudpickle.dumps(mine.work.f)
        register_by_value(Path("/"), loaded)
        assert cloudpickle.loads(cloudpickle.dumps(cloudpickle.dumps)) is cloudpickle.dumps
        del sys.modules["mine.work"], sys.modules["mine"]; sys.path.pop(0)
        print(pickle.loads(data)())
    """
    _write(tmp_path, {"run/script.py": script})
    assert _python(tmp_path / "run", "script.py", str(tmp_path)) == "41"
