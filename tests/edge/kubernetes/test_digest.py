"""An image by its digest on a real Kubernetes, pulled from a real registry: a tag that moves changes no deployment."""

import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.edge.kubernetes import real
from tests.edge.kubernetes.test_whole import World, found, world
from tests.registries import image_registry

__all__ = ["world"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600), pytest.mark.filterwarnings("default::ResourceWarning")]

# With a tag alone each new pod would have what the tag stands for by then.
MORE_SETTINGS = {"FLOWGROUP_KUBERNETES_IMAGE_PULL_POLICY": "Always"}


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Puts an image behind one tag whose pods have `EDITION`; its name. The node is this machine, as its registry is."""
    buildah = shutil.which("buildah")
    if buildah is None or not real.SHARED.exists():
        pytest.skip("images are pushed here by the buildah of ../shared/cluster only")
    if subprocess.run([buildah, "inspect", real.IMAGE], capture_output=True, check=False).returncode:
        pytest.skip(f"buildah does not have {real.IMAGE}")

    def run(*arguments: str) -> str:
        done = subprocess.run([buildah, *arguments], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with image_registry(tmp_path_factory.mktemp("registry")) as host:

        def pushed(edition: str) -> str:
            image = f"{host}/team/etl:1"
            container = run("from", "--pull-never", real.IMAGE)
            try:
                run("config", "--env", f"EDITION={edition}", container)
                made = run("commit", "--quiet", container)
            finally:
                run("rm", container)
            try:
                run("push", "--quiet", "--disable-compression", "--tls-verify=false", made, f"docker://{image}")
            finally:
                run("rmi", made)
            return image

        yield pushed


def test_a_run_has_the_image_that_its_tag_stood_for_when_it_was_deployed(
    push: Callable[[str], str], world: World
) -> None:
    def deployed() -> tuple[str, str]:
        lab = world.deploy("lab.py:lab", "digest", "--workers", "1", "--image", image, "--mode", "per-run")
        return lab, str(world.stack.api.get(f"/deployments/{lab}").json()["job_variables"]["image"])

    def editions() -> list[str]:
        run = world.run(lab, what="finds", with_={"names": ["EDITION"], "files": [], "modules": []})
        world.stack.wait_log(run, f"Image: {stored}")
        return [side["EDITION"] for side in found(world, run).values()]

    image = push("first")
    lab, stored = deployed()
    assert stored.startswith(f"{image}@sha256:")
    assert editions() == ["first", "first"]
    assert push("second") == image
    assert editions() == ["first", "first"]
    assert deployed() not in ((lab, stored), (lab, image))
