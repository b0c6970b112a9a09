"""Which loops may join parts of a drive: those that agree with each other about how the parts lie.

Within a part tracking and the keyframes just before hold every keyframe in its place. Between parts
there is nothing but loops, and one place that looks like another makes a wrong one, which would
move a whole part. So parts are joined by several loops that say the same, else by odometry, else
not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.geometry import se3
from l2m_ros.mapping import chaining
from l2m_ros.mapping.chaining import Poses
from l2m_ros.mapping.options import ViewGates
from l2m_ros.mapping.records import Edge, outward
from l2m_ros.types import FloatArray

JOINING = 3  # loops that agree, and as many keyframes of either part, if it has them
WAY_PER_M = 0.03  # that a part may be bent


def believed(
    run_of: Mapping[int, int], edges: Sequence[Edge], recent: int, gates: ViewGates
) -> list[Edge]:
    """The edges that may have a say. `run_of`: the drive that each keyframe is of."""
    ids = sorted(run_of)
    number = _numbers(run_of)
    near = [edge for edge in edges if _is_near(edge, number, recent)]
    seen = [edge for edge in edges if edge.kind != "motion"]
    groups = chaining.components(ids, near)
    if len(groups) > 1:
        seen = _joined(groups, near, seen, gates)
    return chaining.without_idle_motion(ids, [*seen, *(e for e in edges if e.kind == "motion")])


def _numbers(run_of: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """By keyframe: its drive, and the how manieth of that drive it is."""
    counts: Counter[int] = Counter()
    numbers = {}
    for id in sorted(run_of):
        run = run_of[id]
        numbers[id] = run, counts[run]
        counts[run] += 1
    return numbers


def _is_near(edge: Edge, number: Mapping[int, tuple[int, int]], recent: int) -> bool:
    """Whether tracking saw it, or it leads to a keyframe just before, of the same drive."""
    if edge.kind != "loop":
        return edge.kind != "motion"
    (run_a, a), (run_b, b) = number[edge.a], number[edge.b]
    return run_a == run_b and abs(a - b) <= recent


def _joined(
    groups: list[list[int]], near: Sequence[Edge], seen: Sequence[Edge], gates: ViewGates
) -> list[Edge]:
    """What was seen, without the loops between parts that too few others agree with."""
    poses: Poses = {}
    part: dict[int, int] = {}
    for number, ids in enumerate(groups):
        poses |= chaining.chained(ids, near, {})
        part.update(dict.fromkeys(ids, number))
    good = [*near, *(e for e in seen if e.kind == "loop" and part[e.a] == part[e.b])]
    far = [edge for edge in seen if edge.kind == "loop" and part[edge.a] != part[edge.b]]
    while joint := _largest_joint(far, part, poses, gates):
        good += joint
        into, part_from_other = part[joint[0].a], _way(joint[0], poses)
        gone = part[joint[0].b]
        for id in [id for id, number in part.items() if number == gone]:
            poses[id] = part_from_other @ poses[id]
            part[id] = into
        far = [edge for edge in far if part[edge.a] != part[edge.b]]
    return list(dict.fromkeys(good))


def _way(edge: Edge, poses: Poses) -> FloatArray:
    """What takes places of the part of b into those of the part of a."""
    return se3.compose(poses[edge.a] @ edge.a_from_b @ se3.inverse(poses[edge.b]))


def _largest_joint(
    far: Sequence[Edge], part: dict[int, int], poses: Poses, gates: ViewGates
) -> list[Edge]:
    """The largest set of loops between two parts that agree; empty where all are too small."""
    between: dict[tuple[int, int], list[Edge]] = {}
    for edge in far:
        turned = outward(edge, edge.a if part[edge.a] < part[edge.b] else edge.b)
        between.setdefault((part[turned.a], part[turned.b]), []).append(turned)
    sizes = Counter(part.values())
    joints = [
        _agreeing(loops, poses, gates, (sizes[a], sizes[b])) for (a, b), loops in between.items()
    ]
    return max(joints, key=len, default=[])


def _agreeing(
    loops: list[Edge], poses: Poses, gates: ViewGates, sizes: tuple[int, int]
) -> list[Edge]:
    """The most of them that say the same as one of them, if that are enough. `sizes` of the parts:
    one keyframe that looks like another place sees all of it wrong."""
    least = [min(JOINING, size) for size in sizes]
    a, b = (np.stack([poses[id] for id in ids]) for ids in _ends(loops))
    straight = a @ np.stack([edge.a_from_b for edge in loops])
    best: list[Edge] = []
    for i, loop in enumerate(loops):
        predicted = _way(loop, poses) @ b
        off_m = np.linalg.norm((predicted - straight)[:, :3, 3], axis=1)
        turn = Rotation.from_matrix(predicted[:, :3, :3].swapaxes(1, 2) @ straight[:, :3, :3])
        way_m = sum(np.linalg.norm((side - side[i])[:, :3, 3], axis=1) for side in (a, b))
        agree = (off_m < gates.agree_most_m + WAY_PER_M * way_m) & (
            turn.magnitude() < gates.agree_most_rad
        )
        some = [loop, *(loops[j] for j in np.flatnonzero(agree) if j != i)]
        seen = [len(set(ids)) for ids in _ends(some)]
        if len(some) >= max(JOINING, len(best) + 1) and seen[0] >= least[0] and seen[1] >= least[1]:
            best = some
    return best


def _ends(loops: Sequence[Edge]) -> tuple[list[int], list[int]]:
    return [edge.a for edge in loops], [edge.b for edge in loops]
