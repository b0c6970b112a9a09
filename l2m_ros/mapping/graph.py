"""The pose graph: keyframes where their edges want them, a wrong loop without a say.

gtsam: its robust noise models and marginal covariances are what a map needs, and it is the library
that the field uses; scipy has neither a manifold nor marginals.

    residual of an edge = log(measured_b_from_a  b_from_map  map_from_a), Cauchy weight for loops
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

import gtsam
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.verification import unmodelled
from l2m_ros.types import FloatArray

Poses = dict[int, FloatArray]
Placed = dict[int, tuple[FloatArray, FloatArray]]

ROBUST_SIGMAS = {"odometry": 5.0, "loop": 2.5, "prior": 5.0}  # of Cauchy's weight
UNVERIFIED = 25.0  # an edge of tracking counts as this much less certain at the start
ORIGIN_M, ORIGIN_RAD = 1e-4, 1e-4  # the first keyframe is the map's origin
MAX_ITERATIONS = 50


def components(ids: Iterable[int], edges: Iterable[Edge]) -> list[list[int]]:
    """Groups of keyframes that edges connect, the largest first (of equals the oldest)."""
    root = {id: id for id in ids}

    def find(id: int) -> int:
        while root[id] != id:
            root[id] = root[root[id]]
            id = root[id]
        return id

    anchor: int | None = None  # keyframes whose place is known are connected by the map itself
    for edge in edges:
        if edge.a not in root or edge.b not in root:
            continue
        if edge.kind == "prior":
            anchor = edge.a if anchor is None else anchor
            a, b = find(edge.a), find(anchor)
        else:
            a, b = find(edge.a), find(edge.b)
        root[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for id in root:
        groups.setdefault(find(id), []).append(id)
    return sorted((sorted(group) for group in groups.values()), key=lambda g: (-len(g), g[0]))


def chained(ids: list[int], edges: Sequence[Edge], known: Mapping[int, FloatArray]) -> Poses:
    """First places of a connected group, along its most certain edges (a minimum spanning tree).

    From the oldest keyframe that is known, or from the priors. Edges of tracking come late: loops
    are verified from either side, and a start at a wrong edge is where robust weights would stay.
    """
    neighbours: dict[int, list[tuple[float, int, FloatArray]]] = {id: [] for id in ids}
    for edge in edges:
        if edge.a in neighbours and edge.b in neighbours and edge.a != edge.b:
            variance = float(np.trace(edge.covariance + unmodelled(edge.a_from_b)))
            cost = variance * (UNVERIFIED if edge.kind == "odometry" else 1.0)
            neighbours[edge.a].append((cost, edge.b, edge.a_from_b))
            neighbours[edge.b].append((cost, edge.a, se3.inverse(edge.a_from_b)))
    start = min(ids)
    first = {e.a: e.a_from_b for e in edges if e.kind == "prior" and e.a in neighbours}
    poses: Poses = first or {start: known.get(start, np.eye(4))}
    queue = [(cost, b, a, T) for a in poses for cost, b, T in neighbours[a]]
    queue = [(cost, n, *rest) for n, (cost, *rest) in enumerate(queue)]
    heapq.heapify(queue)
    count = len(queue)
    while queue:
        _, _, b, a, a_from_b = heapq.heappop(queue)
        if b in poses:
            continue
        poses[b] = se3.compose(poses[a], a_from_b)
        for cost, c, T in neighbours[b]:
            if c not in poses:
                heapq.heappush(queue, (cost, count, c, b, T))
                count += 1
    return poses


def optimised(edges: Iterable[Edge], first: Poses) -> Placed:
    """Poses with covariances of one connected group; its oldest keyframe is held."""
    graph, values = gtsam.NonlinearFactorGraph(), gtsam.Values()
    origin = min(first)
    for id, pose in first.items():
        values.insert(id, gtsam.Pose3(pose))
    held = np.array([ORIGIN_RAD] * 3 + [ORIGIN_M] * 3)
    graph.add(
        gtsam.PriorFactorPose3(
            origin, gtsam.Pose3(first[origin]), gtsam.noiseModel.Diagonal.Sigmas(held)
        )
    )
    for edge in edges:
        if edge.a in first and edge.b in first:
            graph.add(_factor(edge))
    settings = gtsam.LevenbergMarquardtParams()
    settings.setMaxIterations(MAX_ITERATIONS)
    result = gtsam.LevenbergMarquardtOptimizer(graph, values, settings).optimize()
    return _placed(graph, result, list(first))


def _factor(edge: Edge) -> gtsam.NonlinearFactor:
    P = edge.covariance if edge.kind == "prior" else edge.covariance + unmodelled(edge.a_from_b)
    noise = gtsam.noiseModel.Gaussian.Covariance(_theirs(edge.a_from_b, P))
    cauchy = gtsam.noiseModel.mEstimator.Cauchy.Create(ROBUST_SIGMAS[edge.kind])
    noise = gtsam.noiseModel.Robust.Create(cauchy, noise)
    pose = gtsam.Pose3(edge.a_from_b)
    if edge.kind == "prior":
        return gtsam.PriorFactorPose3(edge.a, pose, noise)
    return gtsam.BetweenFactorPose3(edge.a, edge.b, pose, noise)


def _placed(graph: gtsam.NonlinearFactorGraph, values: gtsam.Values, ids: list[int]) -> Placed:
    marginals = gtsam.Marginals(graph, values)
    placed = {}
    for id in ids:
        T = se3.compose(values.atPose3(id).matrix())
        placed[id] = (T, _ours(T, marginals.marginalCovariance(id)))
    return placed


_SWAP = np.array([3, 4, 5, 0, 1, 2])  # gtsam has rotation first, about the moving axes


def _theirs(T: FloatArray, P: FloatArray) -> FloatArray:
    A = np.kron(np.eye(2), T[:3, :3].T)
    turned = A @ P @ A.T
    return np.asarray(0.5 * (turned + turned.T)[np.ix_(_SWAP, _SWAP)])


def _ours(T: FloatArray, theirs: FloatArray) -> FloatArray:
    A = np.kron(np.eye(2), T[:3, :3])
    P = A @ theirs[np.ix_(_SWAP, _SWAP)] @ A.T
    return np.asarray(0.5 * (P + P.T))


def misfit(edge: Edge, placed: Placed) -> float:
    """Chi-square of an edge with six degrees of freedom, by its own covariance."""
    a_from_b = se3.inverse(placed[edge.a][0]) @ placed[edge.b][0]
    d = se3.difference(a_from_b, edge.a_from_b)
    P = edge.covariance + unmodelled(edge.a_from_b)
    return float(d @ np.linalg.solve(P, d))


def bridges(gone: set[int], edges: list[Edge]) -> list[Edge]:
    """Edges that keep the neighbours of keyframes connected that are to be taken away."""
    left = list(edges)
    for id in sorted(gone):
        touching = [_outward(e, id) for e in left if id in (e.a, e.b) and e.a != e.b]
        left = [e for e in left if id not in (e.a, e.b)]
        if len(touching) < 2:
            continue
        hub = min(touching, key=lambda e: float(np.trace(e.covariance)))
        joined = {frozenset((e.a, e.b)) for e in left}
        for other in touching:
            if other.b == hub.b or frozenset((hub.b, other.b)) in joined:
                continue
            back = se3.inverse(hub.a_from_b)
            P = se3.compose_covariance(
                back, se3.inverse_covariance(hub.a_from_b, hub.covariance),
                other.a_from_b, other.covariance,
            )  # fmt: skip
            kind = "odometry" if hub.kind == other.kind == "odometry" else "loop"
            left.append(Edge(hub.b, other.b, se3.compose(back, other.a_from_b), P, kind))
    before = {(e.a, e.b, e.kind) for e in edges}
    return [e for e in left if (e.a, e.b, e.kind) not in before]


def _outward(edge: Edge, id: int) -> Edge:
    """The same edge with `id` as its a."""
    if edge.a == id:
        return edge
    P = se3.inverse_covariance(edge.a_from_b, edge.covariance)
    return Edge(edge.b, edge.a, se3.inverse(edge.a_from_b), P, edge.kind)
