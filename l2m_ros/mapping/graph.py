"""The pose graph: keyframes where their edges want them, a wrong loop without a say.

gtsam: its robust noise models and marginal covariances are what a map needs, and it is the library
that the field uses; scipy has neither a manifold nor marginals.

    residual of an edge = log(measured_b_from_a  b_from_map  map_from_a)

Cauchy weights bear errors that are larger than claimed. Where an edge still contradicts the answer,
graduated non-convexity finds the edges that suit each other, from any start, and the rest is left
out: Cauchy weights alone end where they start (four wrong loops among 24 keyframes moved one by
2.4 m) and never let go of the last millimetres.
"""

from __future__ import annotations

from collections.abc import Iterable

import gtsam
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.chaining import Poses, components
from l2m_ros.mapping.records import Edge, outward
from l2m_ros.mapping.verification import unmodelled
from l2m_ros.types import FloatArray

Placed = dict[int, tuple[FloatArray, FloatArray]]

WRONG_CHI2 = 30.0  # an edge this far off the others' answer has no say (six degrees of freedom)
ROBUST_SIGMAS = {"odometry": 5.0, "loop": 2.5, "prior": 5.0, "motion": 5.0}  # of Cauchy's weight
ORIGIN_M, ORIGIN_RAD = 1e-4, 1e-4  # the first keyframe is the map's origin
MAX_ITERATIONS = 50
# The search for wrong edges: steps of the loss from convex to truncated, iterations in each. As
# gtsam has them (1.4 and 50) 1,000 keyframes took two minutes.
GNC_STEP, GNC_ITERATIONS = 4.0, 6


def optimised(edges: Iterable[Edge], first: Poses) -> Placed:
    """Poses with covariances of one connected group; its oldest keyframe is held."""
    inside = [edge for edge in edges if edge.a in first and edge.b in first]
    values = _least(inside, first)
    if any(_chi2(edge, values) > WRONG_CHI2 for edge in inside):
        inside, first = _consistent(inside, first)
        values = _least(inside, first)
    return _placed(_graph(inside, first, robust=True), values, list(first))


def _least(edges: list[Edge], first: Poses) -> gtsam.Values:
    """Where Cauchy weights want the keyframes, from places nearby."""
    graph = _graph(edges, first, robust=True)
    return gtsam.LevenbergMarquardtOptimizer(graph, _values(first), _settings()).optimize()


def _consistent(edges: list[Edge], first: Poses) -> tuple[list[Edge], Poses]:
    """The edges that suit each other, and the places that they lead to; all edges where the rest
    would leave a keyframe without one."""
    params = gtsam.GncLMParams(_settings(GNC_ITERATIONS))
    params.setLossType(gtsam.GncLossType.TLS)
    params.setKnownInliers([0])  # the origin
    params.setMuStep(GNC_STEP)
    search = gtsam.GncLMOptimizer(_graph(edges, first, robust=False), _values(first), params)
    search.setInlierCostThresholds(0.5 * WRONG_CHI2)  # gtsam's cost is half of chi-square
    found = search.optimize()
    weights = search.getWeights()[1:]
    kept = [edge for edge, weight in zip(edges, weights, strict=True) if weight > 0.5]
    if len(components(first, kept)) > 1:
        return edges, first
    return kept, {id: found.atPose3(id).matrix() for id in first}


def _values(places: Poses) -> gtsam.Values:
    values = gtsam.Values()
    for id, pose in places.items():
        values.insert(id, gtsam.Pose3(pose))
    return values


def _chi2(edge: Edge, values: gtsam.Values) -> float:
    a, b = (values.atPose3(id).matrix() for id in (edge.a, edge.b))
    seen = a if edge.kind == "prior" else se3.inverse(a) @ b
    return _misfit(edge, seen)


def _graph(edges: Iterable[Edge], first: Poses, *, robust: bool) -> gtsam.NonlinearFactorGraph:
    """A prior that holds the origin, then a factor an edge."""
    graph = gtsam.NonlinearFactorGraph()
    origin = min(first)
    held = gtsam.noiseModel.Diagonal.Sigmas(np.array([ORIGIN_RAD] * 3 + [ORIGIN_M] * 3))
    graph.add(gtsam.PriorFactorPose3(origin, gtsam.Pose3(first[origin]), held))
    for edge in edges:
        graph.add(_factor(edge, robust=robust))
    return graph


def _settings(iterations: int = MAX_ITERATIONS) -> gtsam.LevenbergMarquardtParams:
    settings = gtsam.LevenbergMarquardtParams()
    settings.setMaxIterations(iterations)
    return settings


def _factor(edge: Edge, *, robust: bool) -> gtsam.NonlinearFactor:
    P = edge.covariance if edge.kind == "prior" else edge.covariance + unmodelled(edge.a_from_b)
    noise = gtsam.noiseModel.Gaussian.Covariance(_theirs(edge.a_from_b, P))
    if robust:
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
    return _misfit(edge, se3.inverse(placed[edge.a][0]) @ placed[edge.b][0])


def _misfit(edge: Edge, a_from_b: FloatArray) -> float:
    d = se3.difference(a_from_b, edge.a_from_b)
    P = edge.covariance if edge.kind == "prior" else edge.covariance + unmodelled(edge.a_from_b)
    return float(d @ np.linalg.solve(P, d))


def bridges(gone: set[int], edges: list[Edge]) -> list[Edge]:
    """Edges that keep the neighbours of keyframes connected that are to be taken away."""
    left = list(edges)
    for id in sorted(gone):
        touching = [outward(e, id) for e in left if id in (e.a, e.b) and e.a != e.b]
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
            kinds = {hub.kind, other.kind}
            kind = hub.kind if len(kinds) == 1 else "motion" if "motion" in kinds else "loop"
            left.append(Edge(hub.b, other.b, se3.compose(back, other.a_from_b), P, kind))
    before = {(e.a, e.b, e.kind) for e in edges}
    return [e for e in left if (e.a, e.b, e.kind) not in before]
