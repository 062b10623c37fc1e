"""What is in the images, as CycloneDX in `sbom/`: `python -m flowgroup.dev.sbom`, which is `make sbom`.

cyclonedx-py reads names, versions and hashes from a lock, without the network. A lock says nothing of licences: they are
those of the packages that are installed here, where they have the lock's version. What the tool made is compared with the
lock before it is written.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import flowgroup

TOOL = Path(".venv-audit/bin/cyclonedx-py")
LOCKS = {
    "flowgroup-agent": Path("requirements/agent.lock"),
    "flowgroup-runtime": Path("requirements/runtime.lock"),
    "flowgroup-all": Path("requirements.lock"),
}
_PIN = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*\])?==(?P<version>[^\s;]+)")

Bom = dict[str, Any]
Licences = dict[tuple[str, str], list[Any]]


def main(folder: Path = Path("sbom")) -> None:
    licences = licences_of(_made("environment", "--no-validate", sys.executable))
    folder.mkdir(exist_ok=True)
    for name, lock in LOCKS.items():
        bom = finished(_made("requirements", "--pyproject", "pyproject.toml", str(lock)), licences)
        if wrong := differing(bom, lock.read_text()):
            sys.exit(f"{lock} and its SBOM differ in {', '.join(wrong)}")
        (folder / f"{name}.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")
        print(f"{folder / name}.cdx.json: {len(bom['components'])} packages")


def licences_of(installed: Bom) -> Licences:
    return {_known_as(one): one["licenses"] for one in installed["components"] if "licenses" in one}


def finished(bom: Bom, licences: Licences) -> Bom:
    """With licences; without the lock's lines, which say all hashes a second time as descriptions."""
    components = []
    for one in bom["components"]:
        kept = {key: value for key, value in one.items() if key != "description"}
        components.append(kept | ({"licenses": told} if (told := licences.get(_known_as(one))) else {}))
    return bom | {"components": components}


def differing(bom: Bom, lock: str) -> list[str]:
    """What is not in both with the same hashes, or has none; and the project itself, unless it has the code's version."""
    root = bom["metadata"]["component"]
    wrong = [] if (root["name"], root["version"]) == ("flowgroup", flowgroup.__version__) else ["flowgroup itself"]
    pins, told = _pins(lock), {one["purl"]: _hashes(one) for one in bom["components"]}
    return wrong + sorted(purl for purl in pins | told if not pins.get(purl) or pins[purl] != told.get(purl))


def _pins(lock: str) -> dict[str, set[str]]:
    """Hashes by package URL."""
    entries = [(_PIN.match(entry), entry) for entry in re.split(r"^(?=\S)", lock, flags=re.MULTILINE)]
    return {
        f"pkg:pypi/{pin['name']}@{pin['version']}": set(re.findall(r"--hash=sha256:(\w+)", entry))
        for pin, entry in entries
        if pin
    }


def _known_as(component: Bom) -> tuple[str, str]:
    """A lock has ruamel-yaml, where it is installed ruamel.yaml."""
    return re.sub(r"[-_.]+", "-", component["name"]).lower(), component["version"]


def _hashes(component: Bom) -> set[str]:
    return {one["content"] for place in component.get("externalReferences", []) for one in place.get("hashes", [])}


def _made(*command: str) -> Bom:
    """Without times and random ids: the same lock gives the same file."""
    made = subprocess.run([TOOL, *command[:-1], "--output-reproducible", command[-1]], capture_output=True, text=True)  # noqa: S603
    if made.returncode:
        sys.exit(f"{TOOL} {command[0]}: {made.stderr.strip()}")
    bom: Bom = json.loads(made.stdout)
    return bom


if __name__ == "__main__":
    main()
