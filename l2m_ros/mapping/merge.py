"""Two maps into one: B's keyframes beside A's, joined where both show the same place."""

from __future__ import annotations

from dataclasses import dataclass

from l2m_ros.mapping.mapper import Mapper
from l2m_ros.mapping.meta import LOOK_ALIKES, WORLD
from l2m_ros.mapping.options import MAPPER, MapperOptions
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.store import MapStore
from l2m_ros.matching.matcher import Matcher


@dataclass(frozen=True)
class Merged:
    """What came of it; without joins B's keyframes have no place in A's map."""

    keyframes: int
    placed: int
    joins: int


def merge(
    a: MapStore,
    b: MapStore,
    out: MapStore,
    matcher: Matcher,
    options: MapperOptions = MAPPER,
) -> Merged:
    """Copies both into an empty store; `map` stays A's. Loops between the two, then the graph."""
    of_a, of_b = copy(a, out), copy(b, out, placed=False)
    if WORLD in a.meta():
        out.set_meta({WORLD: a.meta()[WORLD]})
    mapper = Mapper(out, matcher, options)
    mapper.drive.learn_vocabulary()
    inside = set(of_a.values())
    joins = 0
    for id in of_b.values():
        joins += sum(edge.a in inside or edge.b in inside for edge in mapper.close_loops(id))
    mapper.optimise(keep=inside)
    out.set_meta({LOOK_ALIKES: str(sum(int(m.meta().get(LOOK_ALIKES, "0")) for m in (a, b)))})
    mapper.describe_detail()
    info = out.info()
    return Merged(info.keyframes, info.placed, joins)


def copy(source: MapStore, out: MapStore, *, placed: bool = True) -> dict[int, int]:
    """All keyframes and edges; new ids by old ones."""
    new_id = {}
    first_run = 1 + max(out.runs().values(), default=-1)
    for id in source.ids():
        keyframe = source.keyframe(id)
        values = {**keyframe.__dict__, "id": 0, "run": first_run + keyframe.run}
        if not placed:
            values.update(map_from_camera=None, covariance=None)
        new_id[id] = out.add(type(keyframe)(**values))
    out.add_edges(
        Edge(new_id[e.a], new_id[e.b], e.a_from_b, e.covariance, e.kind) for e in source.edges()
    )
    return new_id
