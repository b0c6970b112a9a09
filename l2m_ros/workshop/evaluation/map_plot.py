"""A map from above: its points, its keyframes, the truth and what was said."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from l2m_ros.types import ByteArray, FloatArray

TRUTH, SAID, KEYFRAME = "#333333", "#d6452a", "#2a78d6"
ARROW_M = 0.25
SHARE = (5, 60)  # percent of the points' heights that are drawn: neither ceiling nor floor


def figure(
    points_m: FloatArray,
    colours: ByteArray,
    *,
    keyframes: FloatArray,
    truth: FloatArray,
    said: FloatArray,
) -> Figure:
    """Points (N, 3) in their colours (N, 3), an arrow a keyframe, two ways; poses are (., 4, 4)."""
    drawing = Figure(figsize=(9, 6.5))
    axes = drawing.subplots()
    heights = points_m[:, 2]
    low, high = np.percentile(heights, SHARE) if len(heights) else (0.0, 0.0)
    shown = (heights >= low) & (heights <= high)
    xyz, rgb = points_m[shown], colours[shown] / 255.0
    axes.scatter(xyz[:, 0], xyz[:, 1], c=rgb, s=1.5, lw=0, alpha=0.8, rasterized=True)
    _arrows(axes, keyframes, KEYFRAME, "keyframes of the map")
    axes.plot(*truth[:, :2, 3].T, color=TRUTH, lw=3.0, label="second drive, truth")
    if len(said):
        axes.plot(*said[:, :2, 3].T, ".-", color=SAID, lw=1.0, label="~/map_pose")
        _arrows(axes, said[:1], SAID, "where it was found first")
    axes.set_xlabel("x [m]")
    axes.set_ylabel("y [m]")
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(frameon=True, loc="upper right", fontsize=8)
    return drawing


def _arrows(axes: object, poses: FloatArray, colour: str, label: str) -> None:
    """Where cameras look: their z axis, from above."""
    ahead = ARROW_M * poses[:, :2, 2]
    axes.quiver(  # type: ignore[attr-defined]
        *poses[:, :2, 3].T, *ahead.T, color=colour, angles="xy", scale_units="xy", scale=1,
        width=0.003, label=label, zorder=3,
    )  # fmt: skip
