"""Files of ours that somebody else wrote, or a disk spoilt; bundles, their statements; settings; job variables."""

import contextlib
import io
import json
import zipfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import httpx
import pytest
from pydantic import ValidationError

from flowgroup import signing
from flowgroup.bundles import archive
from flowgroup.daemon import attempts
from flowgroup.daemon.placement import Policy, place
from flowgroup.edge.local import Local
from flowgroup.edge.registry.digest import digest_of
from flowgroup.edge.relay_control import OpenAttempt
from flowgroup.errors import FlowgroupError, Refused
from flowgroup.model.bundle import BundleRef, Statement
from flowgroup.model.ids import AttemptId, ClusterName, DeploymentId, FlowId, RunId
from flowgroup.model.image import ImageName
from flowgroup.model.runs import Deployment, DueRun
from flowgroup.model.spec import ClusterSpec
from flowgroup.sections import DaemonSettings, DriverSettings, KubernetesSettings, PrefectSettings, RelaySettings
from flowgroup.settings import Settings
from tests.fuzz.mutating import fuzz, fuzz_async, spoilt, spoilt_bytes
from tests.fuzz.recorded import ATTEMPT, RUN

SPEC = ClusterSpec(flow_id=FlowId("f"), flow_name="etl", isolation="pool", workers=1)
CLUSTER = {"spec": SPEC.model_dump(mode="json"), "processes": {"driver": {"pid": 2**22 + 1, "started": "x/1"}}}
STATEMENT = Statement(
    sha256="0" * 64,
    size=10,
    deployment="etl/dev",
    version="v1",
    python="3.11",
    cloudpickle="3.1.2",
    prefect="3.8.8",
    created=datetime(2026, 11, 22, tzinfo=UTC),
)
VARIABLES = {
    "workers": 2,
    "worker_threads": 1,
    "worker_memory": "1 GiB",
    "env": {"A": "b"},
    "mode": "shared",
    "worker_groups": [{"name": "gpu", "workers": 1, "dask_resources": {"GPU": 1}}],
    "idle_timeout_s": 10,
    "bundle": {"address": "file:///x/flows/etl/a.zip", "statement": STATEMENT.canonical(), "signature": None},
}


async def test_a_spoilt_cluster_folder_costs_no_other_cluster(tmp_path: Path) -> None:
    local = Local(tmp_path, PrefectSettings(api_url="http://127.0.0.1:9/api"))

    async def check(random: Random) -> None:
        for name, text in (("good", json.dumps(CLUSTER).encode()), ("bad", spoilt_bytes(CLUSTER, random))):
            folder = tmp_path / "clusters" / name
            folder.mkdir(exist_ok=True)
            (folder / "secret").write_text("secret")
            (folder / "cluster.json").write_bytes(text)
        found = [one.name for one in await local.find()]
        assert "good" in found
        for name in found:
            with contextlib.suppress(FlowgroupError):
                await local.look(name)

    await fuzz_async(check)


def test_a_spoilt_file_of_attempts_is_as_none(tmp_path: Path) -> None:
    file = tmp_path / "attempts.json"
    one = OpenAttempt(AttemptId(ATTEMPT), RunId(RUN), "0" * 64, None, ClusterName("c"))
    file.write_text(json.dumps([asdict(one)]))
    assert attempts._read(file) == [one]

    def check(random: Random) -> None:
        file.write_bytes(spoilt_bytes([asdict(one), asdict(one)], random))
        with contextlib.suppress(Refused):
            for read in attempts._read(file) or ():
                hash((read.attempt, read.run_id, read.cluster, read.relay))

    fuzz(check)


def test_a_statement_is_the_authors_or_refused() -> None:
    said = json.loads(STATEMENT.canonical())

    def check(random: Random) -> None:
        text = spoilt_bytes(said, random).decode("utf-8", "replace")
        with contextlib.suppress(ValidationError):
            ref = BundleRef(address="file:///x.zip", statement=text, signature=random.choice((None, "", "AA==", "é")))
            with contextlib.suppress(Refused):
                assert signing.check(ref, (), deployment="etl/dev", version="v1").canonical() == text

    fuzz(check)


def test_an_archive_is_whole_or_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("flow.pkl", b"pickle")
        zipped.writestr("code/helper.py", "x = 1\n", zipfile.ZIP_DEFLATED)
    good = packed.getvalue()

    def check(random: Random) -> None:
        bad = bytearray(good)
        for _ in range(random.randint(1, 4)):
            bad[random.randrange(len(bad))] = random.randrange(256)
        whole = bytes(bad[: random.choice((len(bad), random.randrange(len(bad))))])
        with contextlib.suppress(Refused):
            archive.unpack(whole, tmp_path / "into", name="x.zip")
        assert {path.name for path in tmp_path.iterdir()} <= {"into"}

    fuzz(check)


def test_job_variables_are_a_place_or_refused() -> None:
    def check(random: Random) -> None:
        said, template = spoilt(VARIABLES, random), {"variables": {"properties": spoilt({"a": {"default": 1}}, random)}}
        variables = said if isinstance(said, dict) else {}
        deployment = Deployment(DeploymentId("d"), "dev", FlowId("f"), "etl", "v1", "flow.py:etl", (), variables)
        due = DueRun(
            RunId(RUN), "run", FlowId("f"), DeploymentId("d"), datetime.now(UTC), spoilt({"env": {}}, random) or {}
        )
        if isinstance(due.job_variables, dict):
            with contextlib.suppress(Refused):
                place(due, deployment, template, Policy("pool"))

    fuzz(check, share=2)


_SECTIONS = (DaemonSettings, RelaySettings, DriverSettings, KubernetesSettings, PrefectSettings)
_NAMES = [f"{one.model_config['env_prefix']}{name}".upper() for one in _SECTIONS for name in one.model_fields]
_FILE = '[daemon]\npool = "p"\nslots = 3\nqueues = ["a"]\n[relay]\nttl = 1\n[kubernetes]\nimage = "x"\n'


def test_a_setting_is_taken_or_refused_whether_it_is_in_the_environment_or_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"

    def check(random: Random) -> None:
        text = spoilt_bytes({"x": [1, "a"]}, random).decode("latin-1").replace("\x00", "")
        said = random.choice((text, "-1", "nan", "1e400", "true", "", "9" * 5000, "[", "/", "~nobody/x"))
        at = random.randrange(len(_FILE))
        file.write_bytes(_FILE.encode()[:at] + random.choice((b"", b"\xff", b"[", b'"', b"=")) + _FILE.encode()[at:])
        with monkeypatch.context() as patched, contextlib.suppress(Refused):
            patched.setenv(random.choice(_NAMES), said)
            patched.setenv("FLOWGROUP_CONFIG", str(file))
            Settings.read()

    fuzz(check)


def test_a_registrys_answer_is_a_digest_or_an_error_of_ours() -> None:
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []}
    image = ImageName("registry.test", "a/b", "1", None)

    def check(random: Random) -> None:
        def answer(_: httpx.Request) -> httpx.Response:
            code = random.choice((200, 200, 401, 404, 302, 500))
            challenge = random.choice(("Bearer realm=x", 'Bearer realm="https://a/b",service="c"', "Basic", "", "é"))
            headers = {
                "www-authenticate": challenge.encode(),
                "location": random.choice((b"/x", b"", b"http://[", b"\xff")),
            }
            return httpx.Response(code, content=spoilt_bytes(manifest, random), headers=headers)

        with contextlib.suppress(FlowgroupError):
            found = digest_of(image, lambda _: None, timeout_s=5.0, transport=httpx.MockTransport(answer))
            assert found.startswith("sha256:")

    fuzz(check)
