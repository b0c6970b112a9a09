"""The pictures of a tracked sequence: where the camera went, and how far off it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from l2m_ros.workshop.evaluation.tracking import PoseErrors
from l2m_ros.workshop.evaluation.trajectory import Trajectory

TRUTH, ESTIMATE, BAND, BAD = "#555555", "#2a78d6", "#2a78d633", "#d6452a"


def trajectory_figure(truth: Trajectory, estimate: Trajectory) -> Figure:
    """From above and from the side; both in the world of the truth."""
    figure = Figure(figsize=(10, 4.6))
    for axes, (across, up) in zip(figure.subplots(1, 2), ((0, 1), (0, 2)), strict=True):
        for trajectory, colour, width, label in (
            (truth, TRUTH, 3.0, "truth"),
            (estimate, ESTIMATE, 1.4, "keyframes chained"),
        ):
            points = trajectory.poses[:, :3, 3]
            axes.plot(points[:, across], points[:, up], color=colour, lw=width, label=label)
        axes.set_xlabel(f"{'xyz'[across]} [m]")
        axes.set_ylabel(f"{'xyz'[up]} [m]")
        axes.set_aspect("equal", adjustable="datalim")
        _clean(axes)
    figure.axes[0].legend(frameon=False)
    return figure


def error_figure(errors: PoseErrors, lost_stamps_ns: Sequence[int] = ()) -> Figure:
    """Error of each published pose over time, with what its covariance promised."""
    figure = Figure(figsize=(10, 4.6))
    above, below = figure.subplots(2, 1, sharex=True)
    start = min([*errors.stamps_ns[:1], *list(lost_stamps_ns)[:1]], default=0)
    seconds = (errors.stamps_ns - start) * 1e-9
    above.fill_between(seconds, 0, 3e3 * errors.sigma_m, color=BAND, lw=0, label="3 sigma claimed")
    above.plot(seconds, 1e3 * errors.translation_m, color=ESTIMATE, lw=1.2, label="error")
    above.set_ylabel("translation [mm]")
    above.legend(frameon=False, loc="upper right", ncols=2)
    below.plot(seconds, errors.rotation_deg, color=ESTIMATE, lw=1.2)
    below.set_ylabel("rotation [deg]")
    below.set_xlabel("time [s]")
    for axes in (above, below):
        for stamp in lost_stamps_ns:
            axes.axvline((stamp - start) * 1e-9, color=BAD, lw=0.6, alpha=0.5)
        axes.set_ylim(bottom=0)
        _clean(axes)
    return figure


def latency_figure(latencies_ms: Mapping[str, tuple[float, float]]) -> Figure:
    """(median, 95th percentile) of each stage."""
    figure = Figure(figsize=(10, 0.5 + 0.4 * max(1, len(latencies_ms))))
    axes = figure.subplots()
    names = list(latencies_ms)[::-1]
    median, high = zip(*(latencies_ms[name] for name in names), strict=True)
    axes.barh(names, high, color=BAND, label="95th percentile")
    axes.barh(names, median, color=ESTIMATE, height=0.4, label="median")
    axes.set_xlabel("ms per frame")
    axes.legend(frameon=False, loc="lower right")
    _clean(axes)
    return figure


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#8883", lw=0.5)
