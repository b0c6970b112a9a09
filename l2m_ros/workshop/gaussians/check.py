"""How good the labels of a scene are: by four ways to read depth off its Gaussians.

    alpha               expected depth   (sum w z) / (sum w)
    dominant            plane depth of the heaviest Gaussian
    plane               plane depth
    plane_regularised   plane depth, of the scene fitted with the geometric regularisers

The first three are read off the scene fitted without regularisers (`NAME.plain.ply`, which
`l2m splat build` writes beside), the last off the scene itself.

A label from one depth map and two exact poses lies on its epipolar line whatever the depth, so
the epipolar error is taken over a chain: a label of a points into b, b's own label from there
into c. Where the depths of a and b disagree, c is missed. It is the symmetric squared distance
in normalised coordinates, d^2 (1 / (l1^2 + l2^2) + 1 / (l1'^2 + l2'^2)), as matchers report it.
Where a pixel's planes in the scene that is shipped do not agree on its depth it is not labelled,
by none of the ways: the same pixels are left out for all.
b is a held-out view; a and c see the same place from about a quarter of its distance aside.

Cameras on one line see nothing of that: all points of a chain lie in one plane through the line,
and so on the epipolar line, however wrong the depths. The cycle error sees it: the squared
distance, in normalised coordinates of c, between the end of the chain and a's own label in c.

The depth error is |d / d* - 1| over the labelled pixels of held-out views. d* is known depth, or
else the depth of SIFT matches of the full images, triangulated with the known poses, that two
pairs of views at least agree on within 0.5 %; with neither it is None.

PSNR is that of whole held-out views. What no training view shows is drawn by guess, and may decide
it. So beside it stands that of the pixels that others are known to see, whatever the scenes say:
known depth lies in a training view's frame and agrees with its depth, or a SIFT point as above is
near. The last PSNR is that of the labelled pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.progress import progress
from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.captures import Capture, Captures
from l2m_ros.workshop.gaussians.fit import psnr_on
from l2m_ros.workshop.gaussians.labels import APART, BoolArray, Labels, depth_at, label_between
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.neighbours import SKY, usual_distance
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import Rendering, render, surely
from l2m_ros.workshop.gaussians.truth import Truth, around_view, seen_elsewhere, true_depths

WAYS = ("alpha", "dominant", "plane", "plane_regularised")
LEAST_ALPHA = 0.5


@dataclass
class CheckReport:
    """Means over all labels; None where there is nothing to compare with."""

    epipolar: dict[str, float | None] = field(default_factory=dict)
    cycle: dict[str, float | None] = field(default_factory=dict)
    depth: dict[str, float | None] = field(default_factory=dict)
    depth_median: dict[str, float | None] = field(default_factory=dict)
    labelled: dict[str, float] = field(default_factory=dict)  # share of pixels
    psnr: float | None = None
    psnr_plain: float | None = None
    seen: float = 0.0  # share of the pixels of held-out views that training views are known to see
    psnr_seen: float | None = None  # of these pixels
    psnr_seen_plain: float | None = None
    psnr_labelled: float | None = None  # where another view shows the same by plane_regularised
    psnr_labelled_plain: float | None = None  # of the other scene, at the same pixels
    truth: str = "none"  # of depth: "depth", "sift" or "none"
    held_out: int = 0
    gaussians: int = 0

    def as_json(self) -> dict[str, Any]:
        return vars(self)


def check_scene(
    regularised: Gaussians,
    plain: Gaussians,
    captures: Captures,
    rasterizer: Rasterizer,
    apart: float = APART,
    own_mask: bool = False,
) -> CheckReport:
    """All figures; `plain` is the scene without regularisers (or the same one).

    Where the planes of a pixel of `regularised` lie farther `apart`, of its depth, it is not
    labelled, by none of the ways; with `own_mask`, the planes of the scene that a way is read off.
    """
    report = CheckReport(held_out=len(captures.held_out), gaussians=len(regularised))
    distance = usual_distance(regularised, captures.items)
    far = SKY * distance
    truths, report.truth = true_depths(captures, distance)
    tallies = {way: _Tally() for way in WAYS}
    with progress(len(captures.held_out), "checking labels") as bar:
        for index, capture in enumerate(captures.items):
            if capture not in captures.held_out:
                continue
            around = around_view(captures.items, index, distance)
            views = [c.view for c in (capture, *around)]
            shipped = _read_off(regularised, views, WAYS[-1:], rasterizer, far, apart)
            found = _read_off(plain, views, WAYS[:-1], rasterizer, far, apart) | shipped
            for way, depths in found.items():
                if not own_mask:
                    pairs = zip(depths, shipped[WAYS[-1]], strict=True)
                    depths = [replace(depth, sure=other.sure) for depth, other in pairs]
                tallies[way].add(capture, around, depths, truths.get(capture.name))
            bar.update(1, capture.name)
    for way, tally in tallies.items():
        report.epipolar[way] = _mean(tally.epipolar)
        report.cycle[way] = _mean(tally.cycle)
        report.depth[way] = _mean(tally.depth)
        report.depth_median[way] = _mean(tally.depth, np.median)
        shares = [mask.mean() for mask in tally.labelled]
        report.labelled[way] = float(np.mean(shares)) if shares else 0.0
    if captures.held_out:
        report.psnr = float(np.mean(psnr_on(regularised, captures.held_out, rasterizer)))
        report.psnr_plain = float(np.mean(psnr_on(plain, captures.held_out, rasterizer)))
        seen = seen_elsewhere(captures, truths)
        report.seen = float(np.mean([mask.mean() for mask in seen]))
        if all(mask.any() for mask in seen):
            both = [
                psnr_on(one, captures.held_out, rasterizer, seen) for one in (regularised, plain)
            ]
            report.psnr_seen, report.psnr_seen_plain = (float(np.mean(psnr)) for psnr in both)
        masks = tallies["plane_regularised"].labelled
        if masks and all(mask.any() for mask in masks):
            views = captures.held_out
            report.psnr_labelled = float(np.mean(psnr_on(regularised, views, rasterizer, masks)))
            report.psnr_labelled_plain = float(np.mean(psnr_on(plain, views, rasterizer, masks)))
    return report


def _mean(parts: list[FloatArray], of: Any = np.mean) -> float | None:
    values = np.concatenate(parts) if parts else np.zeros(0)
    return float(of(values)) if len(values) else None


@dataclass(frozen=True, eq=False)
class ReadOff:
    """Depth of a view, 0 where the scene shows too little, and where it is sure of it."""

    depth: FloatArray  # (H, W)
    sure: BoolArray  # (H, W)


@torch.no_grad()
def _read_off(
    scene: Gaussians,
    views: list[PosedCamera],
    ways: tuple[str, ...],
    rasterizer: Rasterizer,
    far: float,
    apart: float,
) -> dict[str, list[ReadOff]]:
    """Depth of each view by each of the ways that the rasterizer knows.

    Each view is drawn once. gsplat does not say which Gaussian dominates.
    """
    found: dict[str, list[ReadOff]] = {way: [] for way in ways}
    for view in views:
        rendering = render(rasterizer, scene, view, far=far, spread=True)
        for way in ways:
            depth = depth_of(way, rendering)
            if depth is not None:
                found[way].append(ReadOff(depth, surely(rendering, apart)))
    return {way: depths for way, depths in found.items() if len(depths) == len(views)}


def depth_of(way: str, rendering: Rendering) -> FloatArray | None:
    """(H, W) by one of the four ways; sky is part of alpha blending, and of nothing else."""
    shown = rendering.alpha if way == "alpha" else rendering.solid
    name = {"alpha": "expected_depth", "dominant": "dominant_depth"}.get(way, "plane_depth")
    depth = getattr(rendering, name)
    if depth is None:
        return None
    return np.asarray(torch.where(shown > LEAST_ALPHA, depth, 0.0).cpu().numpy())


class _Tally:
    """Errors of one way, label by label."""

    def __init__(self) -> None:
        self.epipolar: list[FloatArray] = []
        self.cycle: list[FloatArray] = []
        self.depth: list[FloatArray] = []
        self.labelled: list[BoolArray] = []

    def add(
        self,
        middle: Capture,
        around: list[Capture],
        depths: list[ReadOff],
        truth: Truth | None,
    ) -> None:
        """`depths` are those of the middle and then of the views around it."""
        labelled = np.zeros(depths[0].depth.shape, bool)
        for i, a in enumerate(around):
            labelled |= _label(depths[0], middle, depths[i + 1], a).visible
            to_middle = _label(depths[i + 1], a, depths[0], middle)
            for j, c in enumerate(around):
                if i != j:
                    epipolar, cycle = _chained(to_middle, depths, i, a, middle, c)
                    self.epipolar.append(epipolar)
                    self.cycle.append(cycle)
        self.labelled.append(labelled)
        if truth is not None:
            near = np.clip(truth.px.round().astype(int), 0, np.array(middle.view.size) - 1)
            ours = depth_at(depths[0].depth, truth.px)
            judged = labelled[near[:, 1], near[:, 0]] & (ours > 0)
            self.depth.append(np.abs(ours[judged] / truth.depth[judged] - 1))


def _label(depth_a: ReadOff, a: Capture, depth_b: ReadOff, b: Capture) -> Labels:
    return label_between(depth_a.depth, a.view, depth_b.depth, b.view, depth_a.sure, depth_b.sure)


def _chained(
    to_middle: Labels, depths: list[ReadOff], i: int, a: Capture, middle: Capture, c: Capture
) -> tuple[FloatArray, FloatArray]:
    """Of labels from a to c by way of the middle view: epipolar errors, and squared distances from
    the labels that go straight."""
    rows, columns = np.nonzero(to_middle.visible)
    through = to_middle.warp_px[rows, columns].astype(np.float64)
    depth = depth_at(depths[0].depth, through)
    known = depth > 0
    start = np.stack([columns, rows], axis=1)[known].astype(np.float64)
    ray = unproject(a.view.camera, start)
    own = depths[i + 1].depth[rows[known], columns[known]]
    end, front = _seen_from(c, middle, unproject(middle.view.camera, through[known]), depth[known])
    straight, front_too = _seen_from(c, a, ray, own)
    sound = front & front_too & (np.abs(end) < 2.0).all(axis=1)  # within any usual field of view
    chained = np.c_[end[sound], np.ones(sound.sum())]
    cycle = ((end[sound] - straight[sound]) ** 2).sum(axis=1)
    return symmetric_epipolar(ray[sound], chained, a.view, c.view), cycle


def _seen_from(
    c: Capture, other: Capture, rays: FloatArray, depth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(N, 2) normalised coordinates in c of points of another view; (N,) those in front of c."""
    c_from_other = c.view.camera_from_world @ other.view.world_from_camera
    points = (rays * depth[:, None]) @ c_from_other[:3, :3].T + c_from_other[:3, 3]
    front = points[:, 2] > 1e-6
    return points[:, :2] / np.where(front, points[:, 2], 1.0)[:, None], front


def symmetric_epipolar(
    ray_a: FloatArray, ray_c: FloatArray, a: PosedCamera, c: PosedCamera
) -> FloatArray:
    """(N,) squared distances of (N, 3) rays of a and c, normalised coordinates, both ways."""
    c_from_a = c.camera_from_world @ a.world_from_camera
    E = se3.skew(c_from_a[:3, 3]) @ c_from_a[:3, :3]
    line_c, line_a = ray_a @ E.T, ray_c @ E
    residual = (ray_c * line_c).sum(axis=1) ** 2
    lengths = [(line[:, :2] ** 2).sum(axis=1) for line in (line_c, line_a)]
    return np.asarray(residual * sum(1 / np.maximum(length, 1e-18) for length in lengths))
