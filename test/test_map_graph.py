"""Edges of a map: optimised, joined, believed or not; no image is matched."""

import types

import numpy as np
import pytest
from fakes.scenes import HEIGHT, WIDTH, K, pose

pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from l2m_ros.geometry import se3
from l2m_ros.mapping import chaining, graph, joining, verification
from l2m_ros.mapping.alignment import aligned
from l2m_ros.mapping.loop_witness import LoopWitness
from l2m_ros.mapping.options import (
    MapperOptions,
    RelocalizerOptions,
)
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.relocalizer import Relocalizer
from l2m_ros.types import Camera, Frame

CAMERA = Camera(WIDTH, HEIGHT, K)
SIGMA_M, SIGMA_RAD = 0.01, 0.005


@pytest.mark.parametrize(
    "loop_m, sigma_m, counts",
    [(0.8, 0.05, True), (3.0, 0.05, False), (3.0, 1.0, True), (3.0, None, True)],
)
def test_a_keyframe_just_before_is_no_witness_against_the_way(loop_m, sigma_m, counts):
    """Two such loops of a corridor, 3 m off, moved half of its map; wheels knew better."""

    def edge(a, b, x_m, P, kind):
        T = np.eye(4)
        T[0, 3] = x_m
        return Edge(a, b, T, P, kind)

    blank = Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), CAMERA, np.ones((HEIGHT, WIDTH)))
    places = types.SimpleNamespace(poses={}, place=lambda id: types.SimpleNamespace(frame=blank))
    way = []
    if sigma_m is not None:
        P = np.diag([sigma_m**2] * 3 + [1e-4] * 3)
        way = [edge(1, 2, 0.4, P, "motion"), edge(2, 3, 0.4, P, "odometry")]
    loop = edge(1, 3, loop_m, np.eye(6) * 1e-6, "loop")
    witness = LoopWitness(places, MapperOptions())
    assert witness.confirms(loop, blank, [1, 2], way) is counts


def test_what_was_driven_is_chained_in_the_fewest_edges():
    def edge(a, b, x_m, kind="odometry"):
        T = np.eye(4)
        T[0, 3] = x_m
        return Edge(a, b, T, np.eye(6) * 1e-4, kind)

    edges = [edge(1, 2, 1.0), edge(2, 3, 1.0, "motion"), edge(1, 3, 2.1), edge(1, 4, 9.0, "loop")]
    T, P = chaining.driven(edges, 1, 3)
    assert T[0, 3] == 2.1 and np.allclose(P, np.eye(6) * 1e-4)
    T, P = chaining.driven(edges[:2], 1, 3)
    assert T[0, 3] == 2.0 and P[0, 0] == pytest.approx(2e-4)
    assert chaining.driven(edges, 1, 4) is None and chaining.driven(edges, 3, 1) is None


def circle(count, noise, seed=0):
    """Places on a circle, edges around it with noise, and the loop that closes it."""
    rng = np.random.default_rng(seed)
    places = []
    for i in range(count):
        angle = 2 * np.pi * i / count
        turn = se3.rotation(np.array([0, angle, 0]))
        places.append(se3.transform(turn, np.array([2 * np.sin(angle), 0, -2 * np.cos(angle)])))
    P = np.diag([SIGMA_M**2] * 3 + [SIGMA_RAD**2] * 3)
    edges = []
    for i in range(count):
        j = (i + 1) % count
        true = se3.inverse(places[i]) @ places[j]
        delta = noise * rng.multivariate_normal(np.zeros(6), P)
        kind = "odometry" if j else "loop"
        edges.append(Edge(i + 1, j + 1, se3.perturb(true, delta), P, kind))
    return places, edges


def test_graph_is_exact_without_noise():
    places, edges = circle(12, 0.0)
    first = chaining.chained(list(range(1, 13)), edges[:-1], {})
    placed = graph.optimised(edges, first)
    for i, place in enumerate(places, start=1):
        expected = se3.inverse(places[0]) @ place
        np.testing.assert_allclose(placed[i][0], expected, atol=1e-6)


def test_graph_spreads_drift_and_its_covariances_are_honest(monkeypatch):
    """Errors in units of their covariance: the mean over seeds is 6 within sampling error."""
    names = ("FLOOR_M", "FLOOR_RAD", "FLOOR_PER_M", "FLOOR_RAD_PER_M2")
    for name in names:  # these edges err as they say, and no more
        monkeypatch.setattr(verification, name, 0.0)
    nees = []
    for seed in range(20):
        places, edges = circle(12, 1.0, seed)
        placed = graph.optimised(edges, chaining.chained(list(range(1, 13)), edges[:-1], {}))
        for i in (4, 7, 10):
            T, P = placed[i]
            d = se3.difference(T, se3.inverse(places[0]) @ places[i - 1])
            nees.append(d @ np.linalg.solve(P, d))
    assert 4.0 < np.mean(nees) < 7.5


def test_wrong_loop_has_no_say():
    places, edges = circle(12, 0.0)
    wrong = se3.transform(np.eye(3), np.array([0.0, 0.0, 1.5]))
    edges.append(Edge(1, 7, wrong, edges[0].covariance, "loop"))
    placed = graph.optimised(edges, chaining.chained(list(range(1, 13)), edges[:11], {}))
    expected = se3.inverse(places[0]) @ places[6]
    assert np.linalg.norm(placed[7][0][:3, 3] - expected[:3, 3]) < 0.01
    assert graph.misfit(edges[-1], placed) > 1000


@pytest.mark.parametrize("seed", range(4))
def test_wrong_loops_that_mislead_the_start_have_no_say(seed):
    """A quarter of the edges, three of them agreeing with each other; the first places go through
    them. Cauchy weights alone end up to 2.4 m off."""
    places, edges = circle(24, 1.0, seed)
    rng = np.random.default_rng(seed)
    P = edges[0].covariance
    for i in range(0, 24, 2):  # right loops, across
        j = (i + 9) % 24
        true = se3.inverse(places[i]) @ places[j]
        edges.append(Edge(i + 1, j + 1, se3.perturb(true, rng.multivariate_normal(np.zeros(6), P)),
                          P, "loop"))  # fmt: skip
    offs = [se3.exp(rng.normal(size=6) * [1, 1, 1, 0.3, 0.3, 0.3]) for _ in range(9)]
    wrong = [(2 * k, 2 * k + 5, off) for k, off in enumerate(offs)]
    wrong += [(2 + k, 14 + k, offs[0]) for k in range(3)]
    for i, j, off in wrong:
        i, j = i % 24, j % 24
        T = se3.inverse(places[i]) @ off @ places[j]
        edges.append(Edge(i + 1, j + 1, T, 0.5 * P, "loop"))
    placed = graph.optimised(edges, chaining.chained(list(range(1, 25)), edges, {}))
    off_m = [np.linalg.norm(placed[i + 1][0][:3, 3] - (se3.inverse(places[0]) @ place)[:3, 3])
             for i, place in enumerate(places)]  # fmt: skip
    assert max(off_m) < 0.15  # noise of the right edges alone: up to 0.1 m


def test_components_and_bridges():
    T, P = np.eye(4), np.eye(6)
    edges = [Edge(1, 2, T, P), Edge(2, 3, T, P), Edge(7, 8, T, P, "loop")]
    assert chaining.components([1, 2, 3, 7, 8, 9], edges) == [[1, 2, 3], [7, 8], [9]]
    (bridge,) = graph.bridges({2}, edges)
    assert {bridge.a, bridge.b} == {1, 3} and bridge.kind == "odometry"
    np.testing.assert_allclose(np.diag(bridge.covariance), 2.0)


def two_parts(loops):
    """Ids and edges of two straight drives, and loops (a, b, offset) from the first to the second,
    which begins 3 m to the right."""
    P = np.diag([SIGMA_M**2] * 3 + [SIGMA_RAD**2] * 3)
    step = pose(z=0.3)
    edges = [Edge(i, i + 1, step, P) for i in (1, 2, 3, 4, 5, 11, 12, 13, 14, 15)]
    truth = {i: pose(z=0.3 * i) for i in range(1, 7)}
    truth |= {i: pose(x=3.0, z=0.3 * (i - 10)) for i in range(11, 17)}
    for a, b, off in loops:
        T = se3.inverse(truth[a]) @ truth[b] @ off
        edges.append(Edge(a, b, T, P, "loop"))
    return list(truth), edges


def test_parts_are_joined_by_loops_that_agree_and_by_no_others():
    exact, wrong, other = np.eye(4), pose(x=2.0), pose(z=1.5, turn_deg=180)
    right = [(1, 11, exact), (3, 12, exact), (5, 16, pose(x=0.05))]
    misled = [(2, 13, wrong), (6, 14, wrong), (4, 15, other)]
    for loops, believed in (
        (right[:2], []),
        (misled, []),
        ([(1, 11, exact), (1, 12, exact), (1, 13, exact)], []),  # by one keyframe
        ([(2, 11, exact), (1, 12, exact), (1, 13, exact)], []),  # by two
        ([(2, 13, wrong), *right, (4, 15, other)], right),
    ):
        ids, edges = two_parts(loops)
        used = joining.believed(dict.fromkeys(ids, 0), edges, 2, RelocalizerOptions().gates)
        assert {(e.a, e.b) for e in used if e.kind == "loop"} == {(a, b) for a, b, _ in believed}
        assert len(chaining.components(ids, used)) == (1 if believed else 2)


def test_loops_within_a_part_are_left_to_the_graph():
    ids, edges = two_parts([])
    across = Edge(1, 6, pose(x=4.0), edges[0].covariance, "loop")
    one = dict.fromkeys(ids, 0)
    assert across in joining.believed(one, [*edges, across], 2, RelocalizerOptions().gates)


def test_neighbours_by_number_are_near_only_on_one_drive():
    """The last keyframe of a drive and the first of the next one are joined by loops that agree."""
    ids, edges = two_parts([(6, 11, np.eye(4))])
    for runs, joined in (([0] * 6 + [1] * 6, False), ([0] * 12, True)):
        run_of = dict(zip(ids, runs, strict=True))
        used = joining.believed(run_of, edges, 2, RelocalizerOptions().gates)
        assert any(e.kind == "loop" for e in used) == joined


def test_odometry_joins_only_what_no_camera_joins():
    T, P = np.eye(4), np.eye(6)
    seen = [Edge(1, 2, T, P), Edge(3, 4, T, P, "loop")]
    idle, best, worse = (
        Edge(1, 2, T, 0.1 * P, "motion"),
        Edge(2, 3, T, P, "motion"),
        Edge(1, 4, T, 2 * P, "motion"),
    )
    used = chaining.without_idle_motion([1, 2, 3, 4, 5], [idle, *seen, worse, best])
    assert used == [*seen, best]
    assert chaining.components([1, 2, 3, 4, 5], used) == [[1, 2, 3, 4], [5]]


def test_combined_sightings_do_not_pretend_to_be_independent():
    P = np.diag([0.01**2] * 3 + [0.01**2] * 3)
    view = verification.View(1, np.eye(4), P, 100, 0.8, 0.9, 0.9)
    same = [verification.Sighting(view, np.eye(4), P) for _ in range(3)]
    pose_, covariance = verification.combined(same)
    np.testing.assert_allclose(pose_, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(covariance, P, rtol=1e-3)
    apart = np.eye(4)
    apart[0, 3] = 0.1
    _, wider = verification.combined([same[0], verification.Sighting(view, apart, P)])
    assert wider[0, 0] > 2 * P[0, 0]


def test_views_that_contradict_do_not_agree():
    P = np.diag([0.01**2] * 3 + [0.01**2] * 3)
    view = verification.View(1, np.eye(4), P, 100, 0.8, 0.9, 0.9)
    gates = Relocalizer.__init__.__defaults__[0].gates
    here = verification.Sighting(view, np.eye(4), P)
    for axis, away, expected in ((0, 0.03, True), (0, 0.14, False), (2, 1.0, False)):
        T = np.eye(4)
        T[axis, 3] = away
        assert verification.agree(here, verification.Sighting(view, T, P), gates) is expected
    loose = verification.Sighting(view, T, np.eye(6))
    assert not verification.agree(here, loose, gates)  # a wide covariance is no excuse


def test_alignment_needs_no_spread_of_positions():
    rng = np.random.default_rng(0)
    poses = np.stack([se3.exp(np.r_[0, 0, 0, rng.normal(size=3)]) for _ in range(4)])
    world = se3.exp(np.array([1.0, 2, 3, 0.3, 0.2, 0.1]))
    np.testing.assert_allclose(aligned(world @ poses, poses), world, atol=1e-9)


def test_alignment_is_not_bent_by_one_keyframe_far_off():
    rng = np.random.default_rng(0)
    poses = np.stack([se3.exp(rng.normal(size=6)) for _ in range(20)])
    world = se3.exp(np.array([1.0, 2, 3, 0.3, 0.2, 0.1]))
    truth = world @ poses
    poses[3, :3, 3] += 1.5
    d = se3.difference(aligned(truth, poses), world)
    assert np.linalg.norm(d[:3]) < 0.005
