"""Known advisories about what the locks name: `python -m flowgroup.dev.audit`, which is `make audit`.

pip-audit asks PyPI, or the service that $PIP_AUDIT_VULNERABILITY_SERVICE names. Ends with 0 where there are none, with 1 where
there are some, and with 2 where the service did not answer for every package: silence is no good news.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOOL = Path(".venv-audit/bin/pip-audit")
# Strict: else it skips what the service does not know, and finds nothing where that does not answer.
_OPTIONS = ("--strict", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json")


def main(tool: Path = TOOL) -> int:
    locks = [Path("requirements.lock"), *sorted(Path("requirements").glob("*.lock"))]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "advisories.json")
        asked = subprocess.run(  # noqa: S603
            [tool, *_OPTIONS, f"--output={told}", *(f"--requirement={lock}" for lock in locks)],
            capture_output=True,
            text=True,
        )
        answer = json.loads(told.read_text()) if told.exists() else None
    if answer is None:
        print(f"audit: nothing was audited: {_reason(asked.stderr)}", file=sys.stderr)
        return 2
    found = list(advisories(answer))
    print("\n".join(found) or f"audit: no known advisory about {len(answer['dependencies'])} packages")
    return 1 if found or asked.returncode else 0


def advisories(answer: dict[str, Any]) -> Iterator[str]:
    """A line for each."""
    for package in answer["dependencies"]:
        for one in package["vulns"]:
            names = ", ".join([one["id"], *one["aliases"]])
            mended = ", ".join(one["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {names}; mended in {mended}"


def _reason(stderr: str) -> str:
    """Its last line that says one; after it may come a tip."""
    said = [line.strip() for line in stderr.splitlines() if line.strip() and "Tip:" not in line]
    return said[-1] if said else "pip-audit said nothing"


if __name__ == "__main__":
    sys.exit(main())
