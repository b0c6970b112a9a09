"""`make audit`: a list of what the tests are pinned to (CycloneDX), and the faults known of it.

    python .ci/audit.py --lock test/requirements.lock --sbom build/sbom.json

Ends with 1 where a fault is known, and with 2 where the service that knows them told nothing of
some package: an unreachable service is not the same as no faults. The list is written first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


def write_sbom(lock: Path, sbom: Path) -> None:
    sbom.parent.mkdir(parents=True, exist_ok=True)
    command = [BIN / "cyclonedx-py", "requirements", str(lock), "-o", str(sbom)]
    subprocess.run(command, check=True)
    print(f"{sbom}: {len(json.loads(sbom.read_text())['components'])} packages")


def known_faults(lock: Path) -> tuple[int, str]:
    """(exit code, words) of pip-audit over the pinned packages."""
    command = [BIN / "pip-audit", "-r", str(lock), "--no-deps", "--disable-pip", "-f", "json"]
    done = subprocess.run(
        [*map(str, command), "--progress-spinner", "off"], capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        return 2, f"the vulnerability service was not reached, NOTHING was checked: {reason}"
    return verdict(packages)


def verdict(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """(exit code, words) of pip-audit's list: {"name", "version", "vulns"} or "skip_reason"."""
    faulty = [
        f"{one['name']} {one['version']}: {', '.join(fault['id'] for fault in one['vulns'])}"
        for one in packages
        if one.get("vulns")
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    words = [f"{len(packages) - len(skipped)} of {len(packages)} packages checked"]
    if skipped:
        words.append(f"the service told nothing of {', '.join(skipped)}")
    words.append("; ".join(faulty) or "no fault is known of those checked")
    return (1 if faulty else 2 if skipped else 0), "\n".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--sbom", type=Path, required=True)
    args = parser.parse_args()
    write_sbom(args.lock, args.sbom)
    code, words = known_faults(args.lock)
    print(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
