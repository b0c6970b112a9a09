"""The first Gaussians: flat ones on the surface, from depth or from matches between views.

Where depth is known, pixels are lifted and their normals read off the depth. Elsewhere each
view is matched densely with its partners, at MATCH_PX and refined to a fraction of a pixel,
matches are triangulated with the known poses, and depth that two partners agree on takes the
place of known depth; normals are fitted to the neighbouring points, for single depths are too
noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.camera import project, rays, unproject
from l2m_ros.geometry.triangulation import nearest_depths
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.matching.subpixel import jacobian_at, refined
from l2m_ros.progress import track
from l2m_ros.types import Correspondences, DenseMatch, FloatArray
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.model import SH_0, Gaussians
from l2m_ros.workshop.lifting.sky import sky_by_rule

OPACITY = 0.7  # of a first Gaussian: it lies on the surface already
THICKNESS = 0.1  # of its extent
EDGE_SHARE = 0.1  # neighbours in depth farther apart lie on two surfaces
EDGE_POINTS = 0.5  # of the first points: at depth edges
EDGE_BEND, EDGE_PX = 0.01, 1  # change of slope of inverse depth at an edge; so far is beside it
GRAZING = 0.05  # cosine below which a surface is seen too flat to be lifted
MATCH_PX = 640  # longest side of the images that are matched
REFINED_FROM_PX = 320  # in smaller images the patch of 9 px that is aligned holds two surfaces
PARTNERS = 4  # views that each view is matched with
AGREEMENT, SUPPORT = 0.02, 2  # of the depths of a pixel, by how many partners
REPROJECTION_PX, LEAST_ANGLE_DEG = 1.0, 1.5  # of a triangulated match
SKY_DISTANCE = 30.0  # sky lies this many median depths away


@dataclass(frozen=True, eq=False)
class Points:
    """A coloured, oriented cloud."""

    xyz: FloatArray  # (N, 3)
    rgb: FloatArray  # (N, 3) in [0, 1]
    normal: FloatArray  # (N, 3) unit, towards a camera that saw the point
    distance: FloatArray  # (N,) depth in the view that it was lifted from

    def __len__(self) -> int:
        return len(self.xyz)

    def select(self, chosen: FloatArray) -> Points:
        return Points(*(getattr(self, column.name)[chosen] for column in fields(self)))


def joined(parts: list[Points]) -> Points:
    columns = [[getattr(p, column.name) for p in parts] for column in fields(Points)]
    return Points(*(np.concatenate(column) for column in columns))


def points_from_depth(captures: list[Capture], wanted: int, seed: int = 0) -> Points:
    """About `wanted` points spread evenly, a share of them at depth edges; sky as a far dome."""
    kinds = _of_both_kinds(captures, wanted, seed, _lifted)
    if not sum(len(points) for points, _ in kinds):
        raise InvalidInput("no view has known depth")
    return joined([thinned(points, count, seed) for points, count in kinds])


def _of_both_kinds(
    captures: list[Capture], wanted: int, seed: int, lifted: Callable[..., Points]
) -> list[tuple[Points, int]]:
    """Points from everywhere and how many are wanted, then the same at depth edges.

    Outlines need small Gaussians of their own. As many points come from each view.
    """
    at_edges = int(EDGE_POINTS * wanted)
    kinds = []
    for number, (count, edges) in enumerate(((wanted - at_edges, False), (at_edges, True))):
        rng = np.random.default_rng((seed, number))
        each = max(64, 4 * count // len(captures))
        found = [lifted(c, each, rng, edges) for c in captures if c.depth is not None]
        kinds.append((joined(found), count))
    return kinds


def _lifted(capture: Capture, count: int, rng: np.random.Generator, edges: bool) -> Points:
    """`count` points of a view's depth; of pixels near depth edges alone where asked."""
    assert capture.depth is not None
    depth, directions = capture.depth.astype(np.float64), rays(capture.view.camera)
    normal, sound = normals_of_depth(depth, directions)
    sky = sky_by_rule(capture.rgb) & ~np.isfinite(depth)
    if sky.any() and np.isfinite(depth).any():
        depth = np.where(sky, SKY_DISTANCE * np.nanmedian(depth), depth)
        normal = np.where(sky[..., None], -directions, normal)
        sound = sound | sky
    if edges:
        sound = sound & near_edge(capture.depth)
    rows, columns = np.nonzero(sound)
    chosen = rng.permutation(len(rows))[:count]
    at = rows[chosen], columns[chosen]
    pose = capture.view.world_from_camera
    xyz = directions[at] * depth[at][:, None] @ pose[:3, :3].T + pose[:3, 3]
    oriented = normal[at] / np.linalg.norm(normal[at], axis=1, keepdims=True)
    return Points(xyz, capture.rgb[at] / 255.0, oriented @ pose[:3, :3].T, depth[at])


def near_edge(depth: FloatArray) -> FloatArray:
    """(H, W): known depth within EDGE_PX of a bend of inverse depth."""
    known = np.nan_to_num(depth) > 0
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), np.nan)
    bend = np.zeros(depth.shape, bool)
    with np.errstate(invalid="ignore"):
        across = np.abs(inverse[:, 2:] + inverse[:, :-2] - 2 * inverse[:, 1:-1])
        down = np.abs(inverse[2:] + inverse[:-2] - 2 * inverse[1:-1])
        bend[:, 1:-1] = across > EDGE_BEND * inverse[:, 1:-1]
        bend[1:-1] |= down > EDGE_BEND * inverse[1:-1]
    window = np.ones((2 * EDGE_PX + 1, 2 * EDGE_PX + 1), np.uint8)
    return np.asarray(known & (cv2.dilate(bend.view(np.uint8), window) > 0))


def normals_of_depth(depth: FloatArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Unit normals (H, W, 3) towards the camera, and where they can be trusted (H, W).

    Beside a depth edge the differences are taken on the pixel's own side, so surfaces have
    normals right up to their outline.
    """
    points = directions * depth[..., None]
    across, down = _own_slope(points, 1), _own_slope(points, 0)
    with np.errstate(invalid="ignore"):
        raw = np.cross(down, across)
        raw /= np.maximum(np.linalg.norm(raw, axis=-1, keepdims=True), 1e-12)
        jump = np.maximum(np.abs(across[..., 2]), np.abs(down[..., 2]))
        facing = -(raw * directions).sum(-1) / np.linalg.norm(directions, axis=-1)
        sound = (jump < EDGE_SHARE * depth) & (np.abs(facing) > GRAZING)
    return np.nan_to_num(raw * np.sign(facing)[..., None]), sound


def _own_slope(points: FloatArray, axis: int) -> FloatArray:
    """(H, W, 3) change from pixel to pixel along an axis: the mean of both sides, but of the side
    where depth changes less if the other changes by more than three times as much."""
    step = np.diff(points, axis=axis)
    edge = np.full_like(np.take(points, [0], axis=axis), np.nan)
    ahead = np.concatenate([step, edge], axis=axis)
    back = np.concatenate([edge, step], axis=axis)
    with np.errstate(invalid="ignore"):
        a, b = (np.nan_to_num(np.abs(x[..., 2:]), nan=np.inf) for x in (ahead, back))
        floor = 1e-3 * np.abs(points[..., 2:])
        both = np.maximum(a, b) <= 3 * np.minimum(a, b) + floor
        return np.where(both, 0.5 * (ahead + back), np.where(a < b, ahead, back))


def depth_from_matches(
    captures: list[Capture], matcher: Matcher, sharp: list[Capture] | None = None
) -> list[Capture]:
    """The captures with depth from dense matches to their partners, triangulated.

    `sharp` are the same views in larger images, to match on. A pixel's depth is believed where
    two partners at least agree within AGREEMENT.
    """
    sharp = captures if sharp is None else sharp
    encoded = [matcher.encode(capture.rgb) for capture in track(sharp, "encoding images")]
    references = [matcher.reference(features) for features in encoded]
    found: dict[int, list[tuple[FloatArray, FloatArray]]] = {i: [] for i in range(len(captures))}
    for one, other in track(list(partners(captures)), "matching views"):
        for a, b in ((one, other), (other, one)):
            match = matcher.match(encoded[a], references[b])
            found[a].append(_matched_depth(sharp[a], sharp[b], match, captures[a].view.size))
    made = [
        replace(capture, depth=_agreed(found[i], capture.rgb.shape[:2]))
        for i, capture in enumerate(captures)
    ]
    known = sum(int(np.isfinite(c.depth).sum()) for c in made if c.depth is not None)
    if known < 100:
        raise InvalidInput(
            f"matches agree on the depth of {known} pixels only: the views share too little, or "
            "another --matcher is needed"
        )
    return made


def _matched_depth(
    a: Capture, b: Capture, match: Match, size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """(H, W) depth of a by triangulation with b, NaN = none; and weights (squared parallax).

    `size` (width, height) is that of the depth.
    """
    width, height = size
    pairs = correspondences(match, limit=width * height)
    scale = np.array(size) / np.array(a.view.size)
    px = ((pairs.query_px + 0.5) * scale - 0.5).round().astype(int).clip(0, (width - 1, height - 1))
    pairs = _refined_at(match, pairs, (px + 0.5) / scale - 0.5, a, b)
    xyz, good = triangulate(a, b, pairs.query_px, pairs.keyframe_px)
    px, xyz = px[good], xyz[good]
    depth = np.full((height, width), np.nan)
    depth[px[:, 1], px[:, 0]] = xyz[:, 2]
    centre = a.view.camera_from_world @ b.view.world_from_camera[:, 3]
    with np.errstate(invalid="ignore"):
        return depth, (np.linalg.norm(centre[:3]) / depth) ** 2


def _refined_at(
    match: Match, pairs: Correspondences, query_px: FloatArray, a: Capture, b: Capture
) -> Correspondences:
    """The pairs moved to nearby pixels of a, along the warp's slope, and refined there.

    On the fountain the median error of depth falls from 0.25 % to 0.10 %.
    """
    if not isinstance(match, DenseMatch) or max(a.view.size) < REFINED_FROM_PX:
        return pairs
    slope = jacobian_at(match, pairs.query_px)
    along = np.einsum("nij,nj->ni", slope, query_px - pairs.query_px)
    moved = replace(
        pairs, query_px=query_px.astype(np.float32),
        keyframe_px=(pairs.keyframe_px + along).astype(np.float32),
    )  # fmt: skip
    return refined(moved, slope, a.rgb, b.rgb)[0]


def _agreed(found: list[tuple[FloatArray, FloatArray]], shape: tuple[int, ...]) -> FloatArray:
    """The weighted mean of what lies near the median, where enough do; NaN elsewhere."""
    if len(found) < SUPPORT:
        return np.full(shape, np.nan, np.float32)
    depth, weight = (np.stack(layers) for layers in zip(*found, strict=True))
    some = np.isfinite(depth).any(axis=0)
    middle = np.full(shape, np.nan)
    middle[some] = np.nanmedian(depth[:, some], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.abs(depth / middle - 1) < AGREEMENT
        total = np.where(near, weight, 0.0).sum(axis=0)
        mean = np.where(near, weight * depth, 0.0).sum(axis=0) / total
    return np.where(near.sum(axis=0) >= SUPPORT, mean, np.nan).astype(np.float32)


def points_from_matches(captures: list[Capture], wanted: int, seed: int = 0) -> Points:
    """The same at the depth that matches agreed on, with normals fitted to the neighbours."""
    kinds = _of_both_kinds(captures, wanted, seed, _at_depth)
    cloud, kept = _oriented(joined([points for points, _ in kinds]))
    parts, first = [], 0
    for points, count in kinds:
        own = slice(first, first + len(points))
        parts.append(thinned(cloud.select(np.flatnonzero(kept[own]) + first), count, seed))
        first += len(points)
    return joined(parts)


def _at_depth(capture: Capture, count: int, rng: np.random.Generator, edges: bool) -> Points:
    assert capture.depth is not None
    chosen = near_edge(capture.depth) if edges else np.isfinite(capture.depth)
    rows, columns = np.nonzero(chosen)
    order = rng.permutation(len(rows))[:count]
    at = rows[order], columns[order]
    ray, pose = rays(capture.view.camera)[at], capture.view.world_from_camera
    xyz = ray * capture.depth[at][:, None] @ pose[:3, :3].T + pose[:3, 3]
    back = -ray / np.linalg.norm(ray, axis=1, keepdims=True)
    return Points(xyz, capture.rgb[at] / 255.0, back @ pose[:3, :3].T, capture.depth[at])


def partners(captures: list[Capture]) -> Iterator[tuple[int, int]]:
    """Pairs of views that look at the same place from moderately different ones."""
    poses = np.stack([capture.view.world_from_camera for capture in captures])
    ahead, centres = poses[:, :3, 2], poses[:, :3, 3]
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    usual = np.median(np.sort(gaps, axis=1)[:, 1 : PARTNERS + 1])
    angle = np.degrees(np.arccos(np.clip(ahead @ ahead.T, -1, 1)))
    # Far apart or turned away costs; so does standing still, which gives no depth.
    cost = angle / 30 + np.abs(np.log(np.maximum(gaps, 1e-9) / max(usual, 1e-9)))
    cost[np.eye(len(captures), dtype=bool) | (angle > 70)] = np.inf
    chosen = set()
    for i, row in enumerate(cost):
        for j in np.argsort(row)[:PARTNERS]:
            if np.isfinite(row[j]):
                chosen.add((min(i, int(j)), max(i, int(j))))
    yield from sorted(chosen)


def triangulate(
    a: Capture, b: Capture, px_a: FloatArray, px_b: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(N, 3) points in a's camera where the rays pass nearest, (N,) which can be believed."""
    b_from_a = b.view.camera_from_world @ a.view.world_from_camera
    R, t = b_from_a[:3, :3], b_from_a[:3, 3]
    u, v = unproject(a.view.camera, px_a), unproject(b.view.camera, px_b) @ R
    centre = -R.T @ t  # of b in a
    depth_a, depth_b, sine = nearest_depths(u, v, centre)
    xyz = 0.5 * (u * depth_a[:, None] + centre + v * depth_b[:, None])
    off_a = np.linalg.norm(project(a.view.camera, xyz) - px_a, axis=1)
    off_b = np.linalg.norm(project(b.view.camera, xyz @ R.T + t) - px_b, axis=1)
    with np.errstate(invalid="ignore"):
        good = (depth_a > 0) & (depth_b > 0) & (sine > np.sin(np.radians(LEAST_ANGLE_DEG)))
        good &= (off_a < REPROJECTION_PX) & (off_b < REPROJECTION_PX)
    return xyz, good


def _oriented(points: Points, neighbours: int = 12) -> tuple[Points, FloatArray]:
    """With normals fitted to the neighbours, towards the camera; (N,) which are not lonely."""
    tree = cKDTree(points.xyz)
    distance, index = tree.query(points.xyz, min(neighbours, len(points)))
    spread = distance[:, 1:].mean(axis=1) / points.distance
    kept = spread < 4 * np.median(spread)
    local = points.xyz[index]
    local = local - local.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", local, local))
    normal = vectors[:, :, 0]
    normal *= np.where((normal * points.normal).sum(1) < 0, -1.0, 1.0)[:, None]
    return replace(points, normal=normal), kept


def thinned(points: Points, wanted: int, seed: int = 0) -> Points:
    """At most `wanted`, spread evenly as seen: one point a voxel, voxels as large as far away.

    The size, in units of the distance, is found by bisection.
    """
    if len(points) <= wanted:
        return points
    points = points.select(np.random.default_rng(seed).permutation(len(points)))
    low, high = 1e-6, 4.0
    for _ in range(16):
        size = np.sqrt(low * high)
        if len(_one_a_voxel(points, size)) > wanted:
            low = size
        else:
            high = size
    return points.select(_one_a_voxel(points, high)[:wanted])


def _one_a_voxel(points: Points, size: float) -> FloatArray:
    """Indices of one point a voxel; a voxel is left out where points seen from nearer lie in it."""
    level = np.floor(np.log2(np.maximum(points.distance, 1e-9))).astype(int)
    chosen = np.zeros(len(points), bool)
    origin = points.xyz.min(axis=0)
    for own in np.unique(level):
        reaching = np.flatnonzero(level <= own)
        cells = np.floor((points.xyz[reaching] - origin) / (size * 2.0**own)).astype(np.int64)
        keys = cells @ np.array([1, 2_097_143, 4_398_046_511_087])
        # Nearer points first: unique returns the first of each voxel.
        order = np.argsort(level[reaching] == own, kind="stable")
        _, first = np.unique(keys[order], return_index=True)
        winners = reaching[order[first]]
        chosen[winners[level[winners] == own]] = True
    return np.flatnonzero(chosen)


def gaussians_on(points: Points, sh_degree: int) -> Gaussians:
    """Flat Gaussians at the points, as wide as the points' spacing; lonely ones stay small."""
    n = len(points)
    tree = cKDTree(points.xyz)
    spacing = tree.query(points.xyz, min(5, n))[0][:, 1:].mean(axis=1)
    relative = spacing / points.distance
    spacing = np.clip(relative, 1e-9, 4 * np.median(relative)) * points.distance
    scales = np.log(np.stack([0.7 * spacing, 0.7 * spacing, THICKNESS * 0.7 * spacing], axis=1))
    sh = np.zeros((n, (sh_degree + 1) ** 2, 3))
    sh[:, 0] = (points.rgb - 0.5) / SH_0
    parts = (
        points.xyz, scales, _third_axis_to(points.normal),
        np.full(n, np.log(OPACITY / (1 - OPACITY))), sh,
    )  # fmt: skip
    return Gaussians(*(torch.tensor(part, dtype=torch.float32) for part in parts))


def _third_axis_to(normal: FloatArray) -> FloatArray:
    """(N, 4) w x y z of the shortest rotation from z to each unit normal."""
    x, y, z = normal.T
    w = 1 + z
    flipped = w < 1e-6
    quaternion = np.stack([w, -y, x, np.zeros_like(x)], axis=1)
    quaternion[flipped] = (0, 1, 0, 0)
    return quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
