"""`make audit`: a list of what the tests are pinned to (CycloneDX), and the faults known of it.

    python .ci/audit.py --lock test/requirements.lock --sbom build/sbom.json
    make audit OSV=https://mirror.example/v1/query    a service that speaks OSV instead of PyPI

    0  every package was checked, none has a fault that is known
    1  a fault is known of some
    2  none is known, but the service told nothing of some packages
    3  nothing was checked: no service answered, or it knows none of the packages

The list is written first, and held against CycloneDX's schema.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
CLEAN, FAULTY, PARTLY, UNCHECKED = 0, 1, 2, 3
NAMED = 10  # packages that a line names


def write_sbom(lock: Path, sbom: Path) -> None:
    sbom.parent.mkdir(parents=True, exist_ok=True)
    command = [BIN / "cyclonedx-py", "requirements", "--validate", str(lock), "-o", str(sbom)]
    subprocess.run(command, check=True)
    print(f"{sbom}: {len(json.loads(sbom.read_text())['components'])} packages")


def known_faults(lock: Path, osv_url: str | None, pip_audit: Path) -> tuple[int, str]:
    """(exit code, words) of pip-audit over the pinned packages."""
    command = [pip_audit, "-r", str(lock), "--no-deps", "--disable-pip", "-f", "json"]
    if osv_url:
        command += ["-s", "osv", "--osv-url", osv_url]
    done = subprocess.run(
        [*map(str, command), "--progress-spinner", "off"], capture_output=True, text=True
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
        return UNCHECKED, f"NOTHING was checked, the service was not reached: {reason}"
    return verdict(packages)


def verdict(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """(exit code, words) of pip-audit's list: {"name", "version", "vulns"} or "skip_reason"."""
    faulty = [
        f"{one['name']} {one['version']}: {', '.join(fault['id'] for fault in one['vulns'])}"
        for one in packages
        if one.get("vulns")
    ]
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if len(skipped) == len(packages):
        return UNCHECKED, (
            f"NOTHING was checked: the service told nothing of any of the {len(packages)} packages "
            "(behind a mirror? name a service that speaks OSV: make audit OSV=URL)"
        )
    words = [f"{len(packages) - len(skipped)} of {len(packages)} packages checked"]
    if skipped:
        more = f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        words.append(f"the service told nothing of {', '.join(skipped[:NAMED])}{more}")
    words.append("; ".join(faulty) or "no fault is known of those checked")
    return (FAULTY if faulty else PARTLY if skipped else CLEAN), "\n".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--sbom", type=Path, required=True)
    parser.add_argument("--osv-url", help="a service that speaks OSV, instead of PyPI's")
    args = parser.parse_args()
    write_sbom(args.lock, args.sbom)
    code, words = known_faults(args.lock, args.osv_url, BIN / "pip-audit")
    print(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
