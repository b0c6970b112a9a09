"""What is known otherwise of the depth of held-out views: measured depth, or SIFT's."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.captures import Capture, Captures
from l2m_ros.workshop.gaussians.initial import triangulate
from l2m_ros.workshop.gaussians.labels import BoolArray, seen_by
from l2m_ros.workshop.gaussians.neighbours import views_around
from l2m_ros.workshop.gaussians.sources import load_captures

NEAR_VIEWS = 4  # around each held-out view; every ordered pair of them is a chain
TRUTH_PX, TRUTH_KEYPOINTS = 1536, 8000  # SIFT is run on larger images than were fitted
TRUTH_AGREEMENT = 0.005  # of a point's depth from different views
SEEN_NEAR = 0.025  # of the longer side: so near to a point that SIFT found, others see, too
TRUTH_NEIGHBOURS, TRUTH_ALONE = 8, 0.1  # how far before or behind its nearest points is too far


@dataclass(frozen=True, eq=False)
class Truth:
    """Depth known at points of a view."""

    px: FloatArray  # (N, 2), between pixels too
    depth: FloatArray  # (N,)


def around_view(items: list[Capture], index: int, distance: float) -> list[Capture]:
    """Views that see the same place from aside."""
    return [items[i] for i in views_around(items, index, distance, NEAR_VIEWS)]


def true_depths(captures: Captures, distance: float) -> tuple[dict[str, Truth], str]:
    """What is known otherwise of the held-out views' depth, by name; "depth", "sift" or "none"."""
    known = {c.name: _of_map(c.depth) for c in captures.held_out if c.depth is not None}
    if known:
        return known, "depth"
    around = {
        capture.name: [c.name for c in around_view(captures.items, index, distance)]
        for index, capture in enumerate(captures.items)
        if capture in captures.held_out
    }
    names = {name for middle, others in around.items() for name in (middle, *others)}
    sharp = load_captures(captures.source, longest_px=TRUTH_PX, only=names)
    by_name, small = {c.name: c for c in sharp.items}, {c.name: c for c in captures.items}
    matcher = load_matcher("sift", backend="auto", max_points=TRUTH_KEYPOINTS)
    encoded = {name: matcher.encode(capture.rgb) for name, capture in by_name.items()}
    truths = {}
    for name, others in around.items():
        found = []
        for other in others:
            match = matcher.match(encoded[name], matcher.reference(encoded[other]))
            pairs = correspondences(match, limit=TRUTH_KEYPOINTS)
            xyz, good = triangulate(
                by_name[name], by_name[other], pairs.query_px, pairs.keyframe_px
            )
            found.append(np.c_[pairs.query_px, xyz[:, 2]][good])
        truths[name] = _agreed(np.concatenate(found), by_name[name], small[name])
    return truths, "sift" if truths else "none"


def seen_elsewhere(captures: Captures, truths: dict[str, Truth]) -> list[BoolArray]:
    """(H, W) of each held-out view: what training views are known to see, by their depth where
    there is any, or else by the points that SIFT found in them."""
    others = [(c.depth, c.view) for c in captures.training if c.depth is not None]
    seen = []
    for capture in captures.held_out:
        width, height = capture.view.size
        if capture.depth is not None:
            seen.append(seen_by(capture.depth, capture.view, others))
        elif capture.name in truths:
            at = truths[capture.name].px.round().astype(int).clip(0, (width - 1, height - 1))
            away = np.ones((height, width), np.uint8)
            away[at[:, 1], at[:, 0]] = 0
            distance_px = cv2.distanceTransform(away, cv2.DIST_L2, 5)
            seen.append(distance_px <= SEEN_NEAR * max(width, height))
        else:
            seen.append(np.zeros((height, width), bool))
    return seen


def _of_map(depth: FloatArray) -> Truth:
    rows, columns = np.nonzero(np.nan_to_num(depth) > 0)
    return Truth(np.stack([columns, rows], axis=1).astype(float), depth[rows, columns])


def _agreed(found: FloatArray, sharp: Capture, small: Capture) -> Truth:
    """Points (u, v, depth) that two views at least agree on, in the small image's pixels."""
    _, point, count = np.unique(found[:, :2], axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(point.ravel(), kind="stable")
    px, depth = [], []
    for group in np.split(found[order], np.cumsum(count)[:-1]):
        middle = float(np.median(group[:, 2]))
        if len(group) > 1 and np.abs(group[:, 2] / middle - 1).max() < TRUTH_AGREEMENT:
            px.append(group[0, :2])
            depth.append(middle)
    scale = np.array(small.view.size) / np.array(sharp.view.size)
    at = (np.array(px).reshape(-1, 2) + 0.5) * scale - 0.5
    return _among_others(Truth(at, np.array(depth)))


def _among_others(truth: Truth) -> Truth:
    """Without points that lie well before or behind all of their neighbours.

    A wall's courses repeat along the epipolar lines of cameras that stand side by side, so two
    pairs of views can agree on a stone that is not there: metres behind the wall.
    """
    if len(truth.px) <= TRUTH_NEIGHBOURS:
        return truth
    _, nearest = cKDTree(truth.px).query(truth.px, TRUTH_NEIGHBOURS + 1)
    around = truth.depth[nearest[:, 1:]]
    low, high = (1 - TRUTH_ALONE) * around.min(axis=1), (1 + TRUTH_ALONE) * around.max(axis=1)
    kept = (low < truth.depth) & (truth.depth < high)
    return Truth(truth.px[kept], truth.depth[kept])
