"""One model's golden cases, all of them: `l2m parity FOLDER --model NAME`."""

from __future__ import annotations

from pathlib import Path

from l2m_ros.networks.registry import build
from l2m_ros.networks.shared import named_weights
from l2m_ros.workshop.parity import l2m, lite, mickey, tinyroma
from l2m_ros.workshop.parity.golden import Report, Resize, read_cases

RUNS = {
    "l2m": l2m.run,
    "tinyroma": tinyroma.run,
    "lite": lite.run,
    "mickey": mickey.run,
}


def run_parity(folder: Path, model: str, resize: Resize) -> Report:
    """Build the network, draw its weights, run every case of the folder and compare."""
    cases = read_cases(folder)
    table = cases.of(model)
    report = Report(model)
    checks = folder / "named_weights_checks.json"
    if checks.is_file() and not cases.prefix:
        report.checks = named_weights.failed_checks(checks)
    network = build(str(table.get("architecture", model)))
    if "weights" not in table:  # else the case brings its own
        network = named_weights.fill(network, cases.prefix)
    RUNS[model](network, cases, table, report, resize)
    return report
