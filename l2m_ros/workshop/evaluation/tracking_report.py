"""A tracked run as figures, as a table for the terminal, and as a page with pictures."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import ByteArray
from l2m_ros.workshop.evaluation.report import Report
from l2m_ros.workshop.evaluation.tracking import (
    EXACT,
    PosedFrame,
    TruthSigma,
    pose_errors,
    summarize,
    with_truth,
)
from l2m_ros.workshop.evaluation.trajectory import Trajectory, trajectory_error

STAGES = ("wait", "frame", "encode", "match", "pose", "reference", "stereo", "publish", "latency")
# But not of rgb8 or 16UC1.
NUMBER = re.compile(r"(?<![A-Za-z])[+-]?\d+(\.\d+)?(e[+-]?\d+)?(?![A-Z\d])")
MIN_FOR_TRAJECTORY = 3  # poses; an alignment of fewer says nothing
MANY_POSED = 0.8  # share of the frames below which `text` says why, in so many lines
LINES_WHY = 2


@dataclass(eq=False)
class TrackedRun:
    """What was seen of a run: filled frame by frame, then read."""

    title: str
    lead: str
    frames: int = 0
    keyframes: int = 0
    posed: list[PosedFrame] = field(default_factory=list)
    unposed: Counter[str] = field(default_factory=Counter)  # frames by reason
    unposed_stamps_ns: list[int] = field(default_factory=list)
    scale_sources: Counter[str] = field(default_factory=Counter)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)  # one value a frame
    latency_ms: dict[str, tuple[float, float]] = field(default_factory=dict)  # median, p95
    chained: list[tuple[int, Any]] = field(default_factory=list)  # (stamp, odom_from_camera)
    # What /diagnostics would have said, and of how many frames; numbers in the words are left out.
    diagnostics: Counter[str] = field(default_factory=Counter)
    truth: Trajectory | None = None  # world_from_camera
    truth_sigma: TruthSigma = EXACT
    rate_hz: float | None = None
    pictures: list[tuple[ByteArray, str]] = field(default_factory=list)
    _inputs_said: dict[str, str] = field(default_factory=dict)

    def add_stages(self, stages_ms: dict[str, float]) -> None:
        for stage, spent_ms in stages_ms.items():
            self.stages_ms.setdefault(stage, []).append(spent_ms)

    def report_input(self, key: str, words: str | None) -> None:
        """A problem with an input begins, goes on, or (None) ends."""
        if words is None:
            self._inputs_said.pop(key, None)
        else:
            self._inputs_said[key] = words

    def add_remarks(self, remarks: dict[str, str | None]) -> None:
        """What there was to say of one frame, besides what holds of its inputs."""
        said = {**self._inputs_said, **{key: words for key, words in remarks.items() if words}}
        self.diagnostics.update(f"{key}: {NUMBER.sub('#', said[key])}" for key in said)

    def latencies_ms(self) -> dict[str, tuple[float, float]]:
        """(median, 95th percentile) by stage: as told, or of the frames."""
        measured = {
            stage: (float(np.median(ms)), float(np.quantile(ms, 0.95)))
            for stage, ms in self.stages_ms.items()
        }
        known = measured | self.latency_ms
        order = [stage for stage in STAGES if stage in known]
        return {stage: known[stage] for stage in [*order, *sorted(known.keys() - set(order))]}

    def trajectory(self) -> Trajectory:
        stamps = np.array([stamp for stamp, _ in self.chained], dtype=np.int64)
        return Trajectory(stamps, np.array([pose for _, pose in self.chained]))

    def figures(self) -> dict[str, Any]:
        """Everything measured, JSON can hold it."""
        out: dict[str, Any] = {
            "frames": self.frames,
            "posed": len(self.posed),
            "keyframes": self.keyframes,
            "not_posed": dict(self.unposed),
            "scale_sources": dict(self.scale_sources),
            "diagnostics": dict(self.diagnostics.most_common()),
            "rate_hz": self.rate_hz,
            "stages_ms": {
                stage: {"median": median, "p95": p95}
                for stage, (median, p95) in self.latencies_ms().items()
            },
        }
        if self.truth is not None:
            known = self.posed_with_truth()
            out["posed_without_truth"] = unknown = len(self.posed) - len(known)
            if known or not self.posed:  # of no poses none is wrong, and there is no mean
                errors = pose_errors(known, self.truth, self.truth_sigma)
                out["poses"] = summarize(errors, self.frames - unknown).as_dict()
            if known:
                chain = self.trajectory()
                truth = self.truth.sampled(chain.stamps_ns)
                if len(truth) >= MIN_FOR_TRAJECTORY:
                    out["trajectory"] = vars(trajectory_error(chain, truth))
        return out

    def posed_with_truth(self) -> list[PosedFrame]:
        return [] if self.truth is None else with_truth(self.posed, self.truth)

    def rows(self) -> list[tuple[str, str]]:
        """The table, line by line."""
        f = self.figures()
        share = 100 * f["posed"] / max(1, f["frames"])
        rows = [
            ("frames", str(f["frames"])),
            ("posed", f"{f['posed']} ({share:.1f} %)"),
            ("keyframes", str(f["keyframes"])),
            ("not posed", ", ".join(f"{n} {why}" for why, n in f["not_posed"].items()) or "none"),
            (
                "scale from",
                ", ".join(f"{n} {name}" for name, n in f["scale_sources"].items()) or "none",
            ),
        ]
        if f["rate_hz"] is not None:
            rows.append(("rate", f"{f['rate_hz']:.1f} Hz"))
        rows += [
            (f"{stage} [ms]", f"median {ms['median']:.1f}, p95 {ms['p95']:.1f}")
            for stage, ms in f["stages_ms"].items()
        ]
        return rows + _truth_rows(f)

    def text(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {value}" for name, value in rows]
        return "\n".join([*lines, *self._why_so_few()])

    def _why_so_few(self) -> list[str]:
        """What was said of most frames, with its remedy, where many have no pose."""
        if len(self.posed) >= MANY_POSED * self.frames:
            return []
        return [f"{n} frames: {words}" for words, n in self.diagnostics.most_common(LINES_WHY)]

    def report(self) -> Report:
        from l2m_ros.workshop.evaluation import tracking_plots as plots

        page = Report(self.title, self.lead).table(self.rows())
        if self.pictures:
            page.heading("Matches")
            for rgb, caption in self.pictures:
                page.picture(rgb, caption)
        known = self.posed_with_truth()
        if self.truth is not None and known and len(self.chained) >= MIN_FOR_TRAJECTORY:
            page.heading("Trajectory")
            page.plot(
                plots.trajectory_figure(self.truth, aligned(self.trajectory(), self.truth)),
                "Seen from above and from the side: the keyframes' poses chained, laid on the "
                "truth at the first frame.",
            )
        if self.truth is not None and known:
            page.heading("Error over time")
            page.plot(
                plots.error_figure(pose_errors(known, self.truth), self.unposed_stamps_ns),
                "Error of each published pose, and three standard deviations of what its "
                "covariance claimed. Red lines: frames without a pose.",
            )
        if latencies := self.latencies_ms():
            page.heading("Where the time goes")
            page.plot(plots.latency_figure(latencies), "Milliseconds per frame by stage.")
        return page


def aligned(estimate: Trajectory, truth: Trajectory) -> Trajectory:
    """The estimate moved so that its first pose lies on the truth: drift is left to be seen."""
    nearest = int(np.abs(truth.stamps_ns - estimate.stamps_ns[0]).argmin())
    move = truth.poses[nearest] @ se3.inverse(estimate.poses[0])
    return Trajectory(estimate.stamps_ns, move @ estimate.poses)


def _scale_error(percent: float) -> str:
    return f"median {percent:.1f}" if np.isfinite(percent) else "unknown: the camera hardly moved"


def _truth_rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if unknown := figures.get("posed_without_truth"):
        words = f"none for {unknown} posed frames or their keyframes: they are not compared"
        if "poses" not in figures:
            words = (
                "none at the stamps of both a posed frame and its keyframe, so nothing is "
                "compared: is it of this recording and clock?"
            )
        rows.append(("truth", words))
    if (p := figures.get("poses")) and p["posed"]:
        band = f"{p['nees_low']:.2f} to {p['nees_high']:.2f}"
        rows += [
            (
                "translation error",
                f"median {p['translation_median_mm']:.1f} mm, p95 {p['translation_p95_mm']:.1f} mm",
            ),
            (
                "rotation error",
                f"median {p['rotation_median_deg']:.3f} deg, p95 {p['rotation_p95_deg']:.3f} deg",
            ),
            ("scale error [%]", _scale_error(p["scale_median_percent"])),
            ("NEES (6 = honest)", f"{p['nees_mean']:.2f} (95 % band {band})"),
            (
                "wrong poses (> 5 sigma)",
                f"{p['wrong_poses']}, {p['harmful_poses']} of them over 2 cm or 0.5 deg",
            ),
        ]
    if "trajectory" in figures:
        t = figures["trajectory"]
        rows += [
            ("ATE", f"rmse {t['ate_rmse_m']:.3f} m over {t['length_m']:.1f} m"),
            ("RPE", f"rmse {t['rpe_rmse_m']:.4f} m, {t['rpe_rotation_rmse_deg']:.3f} deg a frame"),
        ]
    return rows
