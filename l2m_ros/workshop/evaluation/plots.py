"""Pictures of a benchmark: recall curves, where the cameras were put, matches by their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from l2m_ros import drawing
from l2m_ros.images import write_figure, write_rgb
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.evaluation.benchmark import PairResult
from l2m_ros.workshop.evaluation.scenes import Scene

# Told apart by colour-blind eyes too (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
RECALL_TO = {"pose": (20.0, "larger of rotation and direction error [deg]"),
             "homography": (10.0, "corner error [px]")}  # fmt: skip
PICTURE_WIDTH_PX = 480  # of each image of a pair

Results = Mapping[str, Sequence[PairResult]]  # by matcher


def recall_figure(scene: Scene, results: Results) -> Figure:
    """Share of the pairs within an error; the AUC is the area under it."""
    limit, label = RECALL_TO[scene.kind]
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.subplots()
    for colour, (matcher, own) in zip(_colours(results), results.items(), strict=True):
        errors = np.sort([r.error for r in own])
        within = errors[errors <= limit]
        x = np.concatenate([[0.0], within, [limit]])
        y = 100.0 * np.concatenate([np.arange(len(within) + 1), [len(within)]]) / len(errors)
        axes.plot(x, y, color=colour, lw=1.8, label=matcher)
    axes.set(xlim=(0, limit), ylim=(0, 101), xlabel=label, ylabel="pairs [%]")
    axes.set_title(f"{scene.name}: {len(scene.pairs)} pairs", fontsize=11)
    axes.legend(frameon=False, loc="best")
    _clean(axes)
    return figure


def trajectory_figure(scene: Scene, results: Results) -> Figure | None:
    """True camera positions and, from each keyframe b, where the estimate puts camera a.

    Seen along the direction in which the cameras spread least. An estimate without metres is
    drawn at the true distance. None where the scene has no poses of its images.
    """
    truth = _positions(scene)
    if len(truth) < 2:
        return None
    centre, axes_3d = _plane_of(np.array(list(truth.values())))
    figure = Figure(figsize=(6.4, 5.2))
    axes = figure.subplots()
    path = (np.array([truth[name] for name in sorted(truth)]) - centre) @ axes_3d
    axes.plot(*path.T, "o", color="#888888", ms=4, label="true cameras", zorder=3)
    for colour, (matcher, own) in zip(_colours(results), results.items(), strict=True):
        ends = [_ends(scene, r) for r in own]
        lines = [(np.array(both) - centre) @ axes_3d for both in ends if both is not None]
        for i, line in enumerate(lines):
            label = f"{matcher}: error of camera a" if i == 0 else None
            axes.plot(*line.T, "-", color=colour, lw=1.2, alpha=0.8, label=label)
            axes.plot(*line[1], "x", color=colour, ms=5)
    middle = (path.max(axis=0) + path.min(axis=0)) / 2
    reach = 0.65 * np.ptp(path, axis=0).max() + 1e-6  # lines of gross errors leave the picture
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    unit = "m" if any(pair.metric for pair in scene.pairs) else "scene units"
    axes.set(xlabel=f"[{unit}]", ylabel=f"[{unit}]")
    axes.set_title(f"{scene.name}: camera positions", fontsize=11)
    axes.legend(frameon=False, fontsize=9)
    _clean(axes)
    return figure


def pair_picture(scene: Scene, matcher: str, result: PairResult, size_px: int | None) -> ByteArray:
    """The matches of one pair, by their true error where it is known, else by confidence."""
    a, b = (scene.view(name).shrunk(size_px) for name in (result.pair.a, result.pair.b))
    errors = result.match_errors_px
    colours = None
    if errors is not None and not np.isnan(errors).all():
        colours = drawing.error_colours(errors)
    picture = drawing.draw_matches(
        a.rgb, b.rgb, result.matches,
        width_px=PICTURE_WIDTH_PX,
        colours=colours,
    )  # fmt: skip
    unit = "px" if scene.kind == "homography" else "deg"
    by_error = "green < 1 px, yellow < 3, orange < 5, red wrong"
    meaning = "yellow = confident" if colours is None else by_error
    words = f"{matcher}: {len(result.matches)} matches ({meaning}); error {result.error:.2g} {unit}"
    bar = np.full((drawing.LINE_HEIGHT_PX + 8, picture.shape[1], 3), 24, np.uint8)
    return np.concatenate([drawing.with_words(bar, [words]), picture])


def median_pair(results: Sequence[PairResult]) -> PairResult:
    """A typical pair: neither the best nor the worst."""
    return sorted(results, key=lambda r: r.error)[len(results) // 2]


def write_plots(folder: Path, scene: Scene, results: Results, size_px: int | None) -> list[Path]:
    """SCENE_recall.png, SCENE_trajectory.png and SCENE_matches.jpg (one typical pair for all)."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, figure in (
        ("recall", recall_figure(scene, results)),
        ("trajectory", trajectory_figure(scene, results)),
    ):
        if figure is not None:
            written.append(folder / f"{scene.name}_{kind}.png")
            write_figure(written[-1], figure, dpi=110, bbox_inches="tight")
    typical = median_pair(next(iter(results.values()))).pair
    rows = [
        pair_picture(scene, matcher, own[_index(own, typical)], size_px)
        for matcher, own in results.items()
    ]
    written.append(folder / f"{scene.name}_matches.jpg")
    write_rgb(written[-1], drawing.stacked(rows))
    return written


def _index(results: Sequence[PairResult], pair: Any) -> int:
    return next(i for i, r in enumerate(results) if (r.pair.a, r.pair.b) == (pair.a, pair.b))


def _positions(scene: Scene) -> dict[str, FloatArray]:
    names = {name for pair in scene.pairs for name in (pair.a, pair.b)}
    poses = {name: scene.world_from_camera(name) for name in sorted(names)}
    return {name: pose[:3, 3] for name, pose in poses.items() if pose is not None}


def _ends(scene: Scene, result: PairResult) -> tuple[FloatArray, FloatArray] | None:
    """Camera a where it is, and where the estimate puts it as seen from b."""
    world_from_b = scene.world_from_camera(result.pair.b)
    truth = result.pair.b_from_a
    if world_from_b is None or truth is None or result.estimate is None:
        return None
    estimate = result.estimate[:3, 3]
    if result.metric is None:
        estimate = estimate * np.linalg.norm(truth[:3, 3])
    R, centre = world_from_b[:3, :3], world_from_b[:3, 3]
    return R @ truth[:3, 3] + centre, R @ estimate + centre


def _plane_of(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Centre (3,) and the two axes (3, 2) along which the points spread most."""
    centre = points.mean(axis=0)
    return centre, np.linalg.svd(points - centre, full_matrices=True)[2][:2].T


def _colours(results: Results) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(results))]


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#8883", lw=0.5)
