"""Faults of sensors on recordings of real cameras: what is published, and is it ever wrong?

python benchmarks/recorded_trust.py SEQUENCES [--only NAME] [--variant mirrored] [--fault NAME]

SEQUENCES as `sequences.py` has it. Each recording is tracked with its depth, its right image, its
odometry alone and both, as it is, mirrored and backwards, with every fault of `recorded_faults`:
through a bag and `l2m_ros.bags.replay`, as the node runs it, the truth's own sigma added. Results
are kept and gone on with as by `trust.py`; --looked prints each wrong pose.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import blas  # noqa: F401
import numpy as np
from more_faults import more_faults_of
from recorded_faults import faults_of
from recordings import VARIANTS, recorded
from sequences import bare, meta_of, recordings_in, sources_of
from trust import HEAD, MASKED, RememberingMatcher, replayed, row

from l2m_ros.files import write_whole
from l2m_ros.geometry import se3
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.parameters.file import parameter_values
from l2m_ros.workshop.evaluation.tracking import (
    PosedFrame,
    TruthSigma,
    pose_errors,
    summarize,
)
from l2m_ros.workshop.evaluation.tracking_report import TrackedRun
from l2m_ros.workshop.simulation import in_the_way
from l2m_ros.workshop.simulation.sequence import SimulatedFrame

SOURCES = ("depth", "depth+odometry", "odometry", "stereo")
IGNORED = {
    "depth": {"odom": "ignore"},
    "stereo": {"odom": "ignore"},
    "odometry": {"depth": "ignore", "right": "ignore"},
    "depth+odometry": {},
}


def sources(folder: Path) -> list[str]:
    known = sources_of(folder)
    both = ["depth+odometry"] if {"depth", "odometry"} <= set(known) else []
    return [source for source in SOURCES if source in [*known, *both]]


def measured(
    shots: list[SimulatedFrame], fault: str, source: str, matcher: Any, sigma: TruthSigma
) -> dict[str, Any]:
    run = TrackedRun(fault, "", truth_sigma=sigma)
    known = faults_of(source) | more_faults_of(source)
    spoilt = known[fault].apply(iter(shots), np.random.default_rng([0, 41]))
    mask = in_the_way.robot_mask(shots[0].frame) if fault.endswith(MASKED) else None
    figures = replayed(spoilt, parameter_values(None, IGNORED[source]), matcher, run, mask)
    return {**figures, "wrong": _wrong(run, shots, unused_odometry=source in ("depth", "stereo"))}


def _wrong(run: TrackedRun, shots: list[SimulatedFrame], unused_odometry: bool) -> list[str]:
    """Each pose that is wrong and does harm: which frame by which keyframe, and by how much.

    unused_odometry: what the recording's odometry says is told beside it, as a second witness.
    """
    index = {shot.frame.stamp_ns: shot.index for shot in shots}
    words = []
    for posed in run.posed:
        assert run.truth is not None
        errors = pose_errors([posed], run.truth, run.truth_sigma)
        if summarize(errors, 1).harmful_poses:
            query, keyframe = (index[ns] for ns in (posed.stamp_ns, posed.keyframe_stamp_ns))
            words.append(
                f"frame {query} by {keyframe}: "
                f"{1e3 * errors.translation_m[0]:.0f} mm, {errors.rotation_deg[0]:.2f} deg, "
                f"claimed {1e3 * errors.sigma_m[0]:.0f} mm, NEES {errors.nees[0]:.0f}"
                + (_witness(posed, shots[keyframe], shots[query]) if unused_odometry else "")
            )
    return words


def _witness(posed: PosedFrame, keyframe: SimulatedFrame, query: SimulatedFrame) -> str:
    if not (keyframe.odom_published and query.odom_published):
        return ""
    a, b = (shot.odom_from_base @ shot.base_from_camera for shot in (keyframe, query))
    apart = se3.difference(posed.keyframe_from_camera, se3.inverse(a) @ b)
    far_mm, far_deg = 1e3 * np.linalg.norm(apart[:3]), np.degrees(np.linalg.norm(apart[3:]))
    return f"; odometry is {far_mm:.0f} mm, {far_deg:.2f} deg from it"


def verdict(kept: list[dict[str, Any]]) -> str:
    wrong = sum(figures.get("poses", {}).get("harmful_poses") or 0 for figures in kept)
    return f"{len(kept)} runs, {wrong} of {sum(f['posed'] for f in kept)} poses wrong (goal 0)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--model", default="lite")
    parser.add_argument("--only", help="recordings whose name contains this")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="default: as_it_is")
    parser.add_argument("--source", action="append", choices=SOURCES)
    parser.add_argument(
        "--fault", action="append", help="repeat it; default: all of recorded_faults"
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=80, help="frames; 0: all of a segment")
    parser.add_argument("--kept", type=Path, default=Path("recorded_trust.json"))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so long")
    parser.add_argument("--again", action="store_true", help="also what is kept already")
    parser.add_argument("--looked", action="store_true", help="print each wrong pose")
    args = parser.parse_args()
    kept = json.loads(args.kept.read_text()) if args.kept.exists() else {}
    shown, begun_s = [], time.monotonic()
    print(HEAD)
    for folder in recordings_in(args.sequences, args.only):
        sigma = meta_of(folder)["pose_sigma"]
        for variant in args.variant or ["as_it_is"]:
            shots: list[SimulatedFrame] = []
            for source in args.source or sources(folder):
                if source not in sources(folder):
                    continue
                print(f"-- {folder.name} {variant}, {source}")
                more = more_faults_of(source) if args.fault else {}
                for fault in faults_of(source) | more:
                    if args.fault and fault not in args.fault:
                        continue
                    span = f"{args.first}+{args.count}"
                    name = f"{fault} {source} {folder.name} {variant} {span} {args.model}"
                    if name not in kept or args.again:
                        if time.monotonic() - begun_s > 60.0 * args.minutes:
                            continue
                        if not shots:
                            whole = recorded(
                                folder, VARIANTS[variant], first=args.first, count=args.count
                            )
                            shots, matcher = whole, RememberingMatcher(load_matcher(args.model))
                        given = shots if source != "odometry" else [_bare(s) for s in shots]
                        truth = TruthSigma(sigma["m"], sigma["deg"])
                        kept[name] = measured(given, fault, source, matcher, truth)
                        write_whole(args.kept, json.dumps(kept, indent=1))
                    shown.append(kept[name])
                    print(row(fault, "", kept[name]), flush=True)
                    for words in kept[name]["wrong"] if args.looked else ():
                        print(f"    {words}")
    print(verdict(shown))


def _bare(shot: SimulatedFrame) -> SimulatedFrame:
    return replace(shot, frame=bare(shot.frame))


if __name__ == "__main__":
    main()
