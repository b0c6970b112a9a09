"""Which keyframes edges connect, and first places along the edges that can be trusted most.

chained(group, edges) -> map_from_camera by keyframe, where `graph.optimised` starts
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.verification import unmodelled
from l2m_ros.types import FloatArray

Poses = dict[int, FloatArray]

# A start at a wrong edge is where robust weights would stay, so doubtful edges count as this much
# less certain there: those of tracking (loops are verified from either side) ...
UNVERIFIED = 25.0
UNCONFIRMED = 25.0  # ... and those that no triangle of edges confirms


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


def without_idle_motion(ids: Iterable[int], edges: Sequence[Edge]) -> list[Edge]:
    """The edges that cameras saw, and of the others the most certain that join their groups."""
    seen = [edge for edge in edges if edge.kind != "motion"]
    group = {}
    for number, members in enumerate(components(ids, seen)):
        group.update(dict.fromkeys(members, number))
    guessed = [e for e in edges if e.kind == "motion" and e.a in group and e.b in group]
    for edge in sorted(guessed, key=lambda e: float(np.trace(e.covariance))):
        a, b = group[edge.a], group[edge.b]
        if a != b:
            seen.append(edge)
            group = {id: a if number == b else number for id, number in group.items()}
    return seen


def driven(edges: Iterable[Edge], a: int, b: int) -> tuple[FloatArray, FloatArray] | None:
    """(a_from_b, covariance) along what was tracked, or driven, from keyframe a on to b, in the
    fewest edges; None where no such edges lead there."""
    steps: dict[int, list[Edge]] = {}
    for edge in edges:
        if edge.kind in ("odometry", "motion") and a <= edge.a < edge.b <= b:
            steps.setdefault(edge.a, []).append(edge)
    ways = {a: (np.eye(4), np.zeros((6, 6)))}
    for _ in range(b - a):
        if b in ways or not ways:
            break
        ends = [(way, edge) for id, way in ways.items() for edge in steps.get(id, ())]
        ways = {
            edge.b: (
                T @ edge.a_from_b,
                se3.compose_covariance(T, P, edge.a_from_b, edge.covariance),
            )
            for (T, P), edge in ends
        }
    return ways.get(b)


def chained(ids: list[int], edges: Sequence[Edge], known: Mapping[int, FloatArray]) -> Poses:
    """First places of a connected group, along its most certain edges (a minimum spanning tree).

    From the oldest keyframe that is known, or from the priors. Edges that no triangle of edges
    confirms, and edges of tracking, come late: loops are verified from either side, and a start at
    a wrong edge is where robust weights would stay.
    """
    neighbours: dict[int, list[tuple[float, int, FloatArray]]] = {id: [] for id in ids}
    for edge, confirmed in zip(edges, in_triangles(edges), strict=True):
        if edge.a in neighbours and edge.b in neighbours and edge.a != edge.b:
            variance = float(np.trace(edge.covariance + unmodelled(edge.a_from_b)))
            cost = variance * (1.0 if edge.kind == "loop" else UNVERIFIED)
            cost *= 1.0 if confirmed else UNCONFIRMED
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


def in_triangles(edges: Sequence[Edge]) -> npt.NDArray[np.bool_]:
    """(E,) whether two other edges, by way of a third keyframe, say the same as this one."""
    sides = _triangles(edges)
    confirmed = np.zeros(len(edges), bool)
    if not len(sides):
        return confirmed
    T, P = (np.stack(kind) for kind in zip(*map(_both_ways, edges), strict=True))
    number, way = sides[..., 0], sides[..., 1]  # (triangles, 3); way 1: from b to a
    around = T[number[:, 1], way[:, 1]] @ T[number[:, 2], way[:, 2]]
    straight = T[number[:, 0], way[:, 0]]
    d = np.concatenate([(straight - around)[:, :3, 3], _turned(around, straight)], axis=1)
    total = P[number, way].sum(axis=1)
    chi2 = np.einsum("ni,ni->n", d, np.linalg.solve(total, d[..., None])[..., 0])
    confirmed[number[chi2 < CHI2_999_6]] = True
    return confirmed


def _triangles(edges: Sequence[Edge]) -> npt.NDArray[np.intp]:
    """(triangles, 3, 2): numbers of edges a -> b, a -> c, c -> b and which way each is taken."""
    beside: dict[int, dict[int, tuple[int, int]]] = {}
    for number, edge in enumerate(edges):
        if edge.a != edge.b:
            beside.setdefault(edge.a, {})[edge.b] = (number, 0)
            beside.setdefault(edge.b, {})[edge.a] = (number, 1)
    found = [
        ((number, 0), beside[edge.a][c], beside[c][edge.b])
        for number, edge in enumerate(edges)
        for c in beside.get(edge.a, {}).keys() & beside.get(edge.b, {}).keys()
    ]
    return np.array(found, np.intp).reshape(-1, 3, 2)


def _both_ways(edge: Edge) -> tuple[FloatArray, FloatArray]:
    """(2, 4, 4) a_from_b and b_from_a; (2, 6, 6) what each may err by.

    Covariances are compared without turning them into one frame: of a triangle's sides they are
    about as wide in every direction, and this is asked for thousands of triangles.
    """
    P = edge.covariance + unmodelled(edge.a_from_b)
    back = se3.inverse_covariance(edge.a_from_b, P)
    return np.stack([edge.a_from_b, se3.inverse(edge.a_from_b)]), np.stack([P, back])


def _turned(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, 3) rotation vectors from rotations of a to those of b."""
    return Rotation.from_matrix(b[:, :3, :3] @ a[:, :3, :3].swapaxes(1, 2)).as_rotvec()
