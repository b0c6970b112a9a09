"""A map of a rendered wall with a panel, by SIFT: built, searched, merged, thinned, repaired."""

import json
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes.keyframes import map_keyframe, stored_cells
from fakes.scenes import HEIGHT, WIDTH, K, pose, render, write_relief
from fakes.texture import texture

pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from l2m_ros.bags.mapping import BuildOptions, build_map
from l2m_ros.bags.recording import open_recording
from l2m_ros.cli import main
from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.mapping import chaining, codec, graph, joining, triangulation, verification
from l2m_ros.mapping.alignment import aligned, world_from_map
from l2m_ros.mapping.appearance import Confirmation, confirmation
from l2m_ros.mapping.descriptor import Vocabulary, learn
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.mapping.likeness import STORED_ERROR, cells, from_grid, likeness
from l2m_ros.mapping.loop_witness import LoopWitness
from l2m_ros.mapping.mapper import Mapper
from l2m_ros.mapping.online import OnlineMap
from l2m_ros.mapping.options import (
    BUILD,
    Hint,
    MapperOptions,
    OnlineOptions,
    PickerOptions,
    RelocalizerOptions,
)
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.queries import Query
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.repair import describe_anew
from l2m_ros.mapping.retrieval import PlaceIndex
from l2m_ros.mapping.roll import rolled
from l2m_ros.mapping.steady import SteadyDetail
from l2m_ros.mapping.store import open_map
from l2m_ros.mapping.surfaces import smoothed_inverse
from l2m_ros.mapping.tracked_mapper import TrackedMapper
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Camera, Frame, Lost, LostReason
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

CAMERA = Camera(WIDTH, HEIGHT, K)
PATH = [pose(x=0.12 * i, y=0.03 * i, z=0.02 * i, turn_deg=-1.5 * i) for i in range(-2, 3)]
NEAR = pose(x=0.1, y=-0.05, z=0.1, turn_deg=2)
SIGMA_M, SIGMA_RAD = 0.01, 0.005


def frame_at(world_from_camera, *, with_depth=True):
    rgb, depth = render(world_from_camera)
    return Frame(rgb, CAMERA, depth if with_depth else None)


def elsewhere(seed=9):
    return Frame(texture(WIDTH, HEIGHT, seed), CAMERA)


@pytest.fixture(scope="module")
def matcher():
    return load_matcher("sift", max_points=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_relief(tmp_path_factory.mktemp("office") / "wall", PATH)


@pytest.fixture(scope="module")
def built(folder, matcher, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "wall.l2m"
    store = open_map(str(path), create=True)
    with open_recording(folder) as recording:
        result = build_map(recording, store, matcher, BuildOptions(picker=PickerOptions(0.05)))
    store.close()
    assert result.frames == len(PATH) and result.placed == result.keyframes >= 4
    return path


@pytest.fixture
def store(built):
    opened = open_map(str(built))
    yield opened
    opened.close()


def test_map_is_as_the_world_is(store):
    align = world_from_map(store)
    for id, (placed, P) in store.poses().items():
        d = se3.difference(align @ placed, store.keyframe(id).truth)
        assert np.linalg.norm(d[:3]) < 0.01 and np.linalg.norm(d[3:]) < 0.005
        assert np.linalg.eigvalsh(P)[0] > 0
    assert store.info().edges["loop"] >= 2


@pytest.mark.parametrize("with_depth", [True, False])
def test_camera_finds_itself(store, matcher, with_depth):
    found = Relocalizer(Places(store, matcher)).localize(frame_at(NEAR, with_depth=with_depth))
    assert isinstance(found, Localized) and len(found.keyframes) >= 2 and not found.hinted
    d = se3.difference(world_from_map(store) @ found.map_from_camera, NEAR)
    assert np.linalg.norm(d[:3]) < 0.02 and np.linalg.norm(d[3:]) < 0.01
    assert set(found.stages_ms) >= {"encode", "retrieve", "match", "pose", "combine"}


def test_a_map_at_its_bound_keeps_what_tracking_refers_to(matcher, tmp_path):
    """A robot that stays in one place: its keyframe was thinned, and no other could be added."""
    options = OnlineOptions(
        path=str(tmp_path / "bound.l2m"),
        mode=BUILD,
        mapper=MapperOptions(max_keyframes=8, first_vocabulary=10**6),
    )
    online = OnlineMap(matcher, options)
    online.open()
    for k, x in enumerate([0.0, *np.linspace(0.3, 0.33, 11)]):
        T, parent = pose(x=x), min(k - 1, 1)  # all in the second one
        rgb, depth = render(T)
        motion = OdometrySample(k + 1, T, 1e-6 * np.eye(6))
        known = (
            (se3.inverse(pose(x=[0.0, 0.3][parent])) @ T, 1e-6 * np.eye(6)) if k else (None,) * 2
        )
        edge = (parent + 1 if k else None, "depth", T, *known, motion, np.eye(4))
        online.add(Picked(Frame(rgb, CAMERA, depth, stamp_ns=k + 1), 1, *edge))
    assert len(online.poses()) == len(online._store.ids()) == 8
    assert online.fix.stamp_ns == 12
    online.save()
    online.close()


def test_edges_of_wheels_lead_where_the_camera_went(tmp_path, capsys):
    run = SimulationOptions(frames=6, width=320, height=240, stereo=False, path="drive", rate_hz=5)
    write_bag(tmp_path / "drive.mcap", simulate(run))
    out = str(tmp_path / "drive.l2m")
    command = ["map", "build", str(tmp_path / "drive.mcap"), "--out", out, "--model", "sift"]
    assert main([*command, "--every-m", "0.05", "-p", "map.mode:=build"]) == 2
    assert "map.mode" in capsys.readouterr().err
    assert main([*command, "--every-m", "0.05"]) == 0
    store = open_map(out)
    edges = [e for e in store.edges() if e.kind == "motion"]
    for e in edges:
        true = se3.inverse(store.keyframe(e.a).truth) @ store.keyframe(e.b).truth
        away_m = np.linalg.norm(e.a_from_b[:3, 3] - true[:3, 3])
        assert away_m < 0.2 * np.linalg.norm(true[:3, 3]) + 0.005
    assert len(edges) >= 3
    store.close()


@pytest.mark.parametrize("seed", range(5, 10))
def test_elsewhere_is_lost_in_words(store, matcher, seed):
    found = Relocalizer(Places(store, matcher)).localize(elsewhere(seed))
    assert isinstance(found, Lost) and found.reason is LostReason.UNKNOWN_PLACE
    assert "two must agree" in found.detail


def test_blank_image_is_lost(store, matcher):
    blank = Frame(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), CAMERA)
    assert isinstance(Relocalizer(Places(store, matcher)).localize(blank), Lost)


def test_hint_is_the_second_witness_but_cannot_lie(store, matcher):
    relocalizer = Relocalizer(Places(store, matcher))
    place = np.linalg.inv(world_from_map(store)) @ NEAR
    near = Hint(place, np.diag([0.1**2] * 3 + [0.1**2] * 3))
    found = relocalizer.localize(frame_at(NEAR), near)
    assert isinstance(found, Localized) and found.hinted and len(found.keyframes) == 1
    away = place.copy()
    away[0, 3] += 3.0
    false = Hint(away, np.diag([0.1**2] * 3 + [0.1**2] * 3))
    found = relocalizer.localize(frame_at(NEAR), false)
    assert isinstance(found, Localized) and not found.hinted  # searched everywhere instead
    assert np.linalg.norm(found.map_from_camera[:3, 3] - place[:3, 3]) < 0.02
    assert isinstance(relocalizer.localize(elsewhere(), near), Lost)


def test_two_places_that_look_alike_are_no_answer(built, matcher, tmp_path):
    """The same keyframes again, 5 m away: nothing in the image tells which."""
    twin = open_map(str(tmp_path / "twin.l2m"), create=True)
    source = open_map(str(built))
    ids, vectors = source.descriptors()
    by_id = {}
    for shift_m in (0.0, 5.0):
        for id, vector in zip(ids, vectors, strict=True):
            keyframe = source.keyframe(id)
            moved = keyframe.map_from_camera.copy()
            moved[0, 3] += shift_m
            new = type(keyframe)(**{**keyframe.__dict__, "map_from_camera": moved})
            by_id[twin.add(new)] = vector
    twin.put_descriptors(source.vocabulary(), by_id)
    found = Relocalizer(Places(twin, matcher)).localize(frame_at(NEAR))
    assert isinstance(found, Lost) and found.reason is LostReason.AMBIGUOUS
    assert "look alike" in found.detail
    twin.close(), source.close()


def test_the_end_of_another_drive_is_no_witness(matcher, tmp_path, monkeypatch):
    """What was taken just before needs no second witness, so it must be of the same drive."""
    store = open_map(str(tmp_path / "two.l2m"), create=True)
    for drive in range(2):
        mapper = Mapper(store, matcher)
        for number in range(2):
            mapper.drive.add(replace(elsewhere(drive), stamp_ns=10 * drive + number))
    asked = {}
    monkeypatch.setattr(mapper.loops, "close", lambda id, before: asked.update({id: before}))
    mapper.finish()
    assert asked == {1: [], 2: [1], 3: [], 4: [3]}
    store.close()


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


def test_a_map_described_anew_keeps_the_new_features(built, tmp_path):
    path = tmp_path / "map.l2m"
    path.write_bytes(built.read_bytes())
    orb = load_matcher("orb")
    describe_anew(str(path), lambda meta: orb)
    store = open_map(str(path))
    first = store.ids()[0]
    assert store.features(first, "orb", Places(store, orb).checksum) is not None
    assert store.info().with_features["orb"] == len(store.ids())
    store.close()


def test_map_of_another_matcher_is_refused_with_the_remedy(store):
    with pytest.raises(MapError, match="--model orb"):
        Relocalizer(Places(store, load_matcher("orb"))).localize(frame_at(NEAR))


def test_turned_frame_is_what_the_turned_camera_would_see():
    frame = frame_at(NEAR)
    turned, camera_from_turned = rolled(frame, 0.5)
    rgb, depth = render(NEAR @ camera_from_turned)
    middle = np.s_[HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4]
    off = lambda a: np.median(np.abs(a[middle].astype(int) - rgb[middle].astype(int)))  # noqa: E731
    assert off(turned.rgb) < 6 < 20 < off(rolled(frame, -0.5)[0].rgb)
    assert np.mean(np.abs(turned.depth[middle] - depth[middle]) < 0.05) > 0.99  # edges of the panel
    assert np.isnan(turned.depth[0, 0])  # nobody saw the corner


def test_image_found_only_turned_has_the_pose_of_the_image_as_it_came(store, matcher, monkeypatch):
    options = RelocalizerOptions(turns_deg=(25.0,))
    relocalizer = Relocalizer(Places(store, matcher), options)
    anywhere = relocalizer._anywhere
    upright = lambda query: np.array_equal(query.camera_from_frame, np.eye(4))  # noqa: E731
    unknown = Lost(LostReason.UNKNOWN_PLACE, "upright")
    blind = lambda q, times: unknown if upright(q) else anywhere(q, times)  # noqa: E731
    monkeypatch.setattr(relocalizer, "_anywhere", blind)
    found = relocalizer.localize(frame_at(NEAR))
    assert isinstance(found, Localized)
    d = se3.difference(world_from_map(store) @ found.map_from_camera, NEAR)
    assert np.linalg.norm(d[:3]) < 0.02 and np.linalg.norm(d[3:]) < 0.01
    relocalizer._queries.options = RelocalizerOptions(turns_deg=(), far_turns_deg=())
    relocalizer.options = relocalizer._queries.options
    assert relocalizer.localize(frame_at(NEAR)) is unknown


# --- commands --------------------------------------------------------------------------------


def test_localize_prints_the_figures(built, folder, capsys, tmp_path):
    out = tmp_path / "poses.tum"
    assert main(["localize", str(built), str(folder), "--json", "--out", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    keys = {"frames", "localized", "median_m", "median_deg", "within", "wrong", "ms"}
    assert set(figures) == keys
    assert figures["frames"] == figures["localized"] == len(PATH) and figures["wrong"] == 0
    assert figures["median_m"] < 0.01 and figures["median_deg"] < 0.2
    assert figures["within"] == {"5cm_5deg": 100.0, "10cm_5deg": 100.0}
    assert len(out.read_text().splitlines()) == len(PATH)


def test_queries_of_another_world_have_no_errors(built, folder, capsys, tmp_path):
    other = tmp_path / "other"
    write_relief(other, PATH[:2])
    assert main(["localize", str(built), str(other), "--json", "--world", "elsewhere"]) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert "'elsewhere'" in err and "--world wall" in err
    errors = ("median_m", "median_deg", "within", "wrong")
    assert all(figures[key] is None for key in errors) and figures["localized"] == 2


def test_query_folder_may_name_the_world_of_the_map(built, folder, capsys, tmp_path):
    other = write_relief(tmp_path / "later", PATH[:2])
    meta = json.loads((other / "meta.json").read_text())
    (other / "meta.json").write_text(json.dumps({**meta, "scene": "later", "world_of": "wall"}))
    main(["localize", str(built), str(other), "--json"])
    assert json.loads(capsys.readouterr().out)["median_m"] < 0.01


def test_build_info_check_thin_and_export(folder, capsys, tmp_path):
    path = str(tmp_path / "wall.l2m")
    build = ["map", "build", str(folder), "--out", path, "--model", "sift", "--every-m", "0.05"]
    assert main(build) == 0
    assert main(build) == 2 and "--force" in capsys.readouterr().err
    assert main(["map", "info", path, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["meta"]["model"] == "sift" and before["meta"]["world"] == "wall"
    assert main(["map", "check", path]) == 0
    assert main(["map", "thin", path, "--keep", "3"]) == 0
    capsys.readouterr()
    main(["map", "info", path, "--json"])
    after = json.loads(capsys.readouterr().out)
    assert after["keyframes"] == after["placed"] == 3
    assert sum(after["edges"].values()) >= 2  # still connected
    folders = [tmp_path / "colmap", tmp_path / "points.ply", tmp_path / "ns"]
    options = zip(("--colmap", "--ply", "--nerfstudio"), folders, strict=True)
    assert main(["map", "export", path, *(str(x) for o in options for x in o)]) == 0
    images = (folders[0] / "sparse/0/images.txt").read_text().split("\n")
    assert len([line for line in images if line.endswith(".jpg")]) == 3
    transforms = json.loads((folders[2] / "transforms.json").read_text())
    assert len(transforms["frames"]) == 3
    assert folders[1].read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\n")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["merge", "MAP", "MAP", "--out", "NEW"], "is both maps"),
        (["merge", "MAP", "NEW", "--out", "MAP"], "overwrite the input"),
        (["view", "MAP", "--save", "NEW"], "ends in .rrd"),
        (["export", "MAP", "--ply", "NEW"], "ends in .ply"),
        (["export", "MAP"], "say what to write"),
        (["view", "NEW"], "there is no such map"),
    ],
)
def test_maps_that_cannot_be_are_refused_in_a_line(built, tmp_path, capsys, words, remedy):
    names = {"MAP": str(built), "NEW": str(tmp_path / "new.l2m")}
    assert main(["map", *(names.get(word, word) for word in words)]) == 2
    said = capsys.readouterr().err
    assert remedy in said and said.count("\n") == 1
    assert not (tmp_path / "new.l2m").exists()


@pytest.mark.slow
def test_merged_maps_share_one_frame(tmp_path):
    paths = []
    for name, part in (("a", PATH[:3]), ("b", PATH[2:])):
        source = write_relief(tmp_path / name, part)
        paths.append(str(tmp_path / f"{name}.l2m"))
        main(["map", "build", str(source), "--out", paths[-1], "--model", "sift",
              "--every-m", "0.05", "--world", "wall"])  # fmt: skip
    out = str(tmp_path / "both.l2m")
    assert main(["map", "merge", *paths, "--out", out]) == 0
    store = open_map(out)
    assert len(store.poses()) == len(store.ids()) == 6
    align = world_from_map(store)
    for id, (placed, _) in store.poses().items():
        d = se3.difference(align @ placed, store.keyframe(id).truth)
        assert np.linalg.norm(d[:3]) < 0.02
    store.close()


def test_damaged_map_is_repaired_and_used(built, folder, tmp_path, capsys):
    path = tmp_path / "cut.l2m"
    content = built.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    assert main(["map", "check", str(path)]) == 2
    assert "--repair" in capsys.readouterr().err
    assert main(["map", "check", str(path), "--repair"]) == 0
    assert (tmp_path / "cut.l2m.broken").exists()
    assert main(["map", "check", str(path)]) == 0
    assert main(["map", "check", str(path), "--repair"]) == 0  # for another --model, say
    assert (tmp_path / "cut.l2m.broken").read_bytes() == content[: int(0.7 * len(content))]
    assert (tmp_path / "cut.l2m.broken1").exists()
    assert main(["localize", str(path), str(folder), "--json"]) == 0


@pytest.mark.slow
def test_map_without_depth_is_triangulated(tmp_path, matcher):
    """Depth of the folder is taken away after the poses are known: they give the scale."""
    path = str(tmp_path / "mono.l2m")
    store = open_map(path, create=True)
    with open_recording(write_relief(tmp_path / "w", PATH)) as recording:
        build_map(recording, store, matcher, BuildOptions(picker=PickerOptions(0.05)))
    with store.transaction(write=True) as cursor:
        cursor.execute("UPDATE keyframe SET depth = NULL")
    assert triangulation.triangulate(DriveRecorder(store, matcher)) >= 4
    assert store.keyframe(store.ids()[2]).depth_source == "triangulated"
    found = Relocalizer(Places(store, matcher)).localize(frame_at(NEAR, with_depth=False))
    assert isinstance(found, Localized)
    d = se3.difference(world_from_map(store) @ found.map_from_camera, NEAR)
    assert np.linalg.norm(d[:3]) < 0.05
    store.close()


# --- parts -----------------------------------------------------------------------------------


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


def test_map_knows_how_well_its_own_views_agree(store, matcher):
    places = Places(store, matcher)
    assert 0.9 < places.own_detail <= 1.0 and places.look_alikes == 0


def test_detail_must_agree_as_the_map_agrees_with_itself(store, matcher):
    """Another poster on a part of the wall: a twin, or the room has changed since."""
    frame = frame_at(NEAR)
    rgb = frame.rgb.copy()
    rgb[:, 230:] = texture(WIDTH, HEIGHT, 33)[:, 230:]
    changed = replace(frame, rgb=rgb)
    places = Places(store, matcher)
    relocalizer = Relocalizer(places)
    lost = relocalizer.localize(changed)
    assert isinstance(lost, Lost) and "looks alike" in lost.detail
    assert isinstance(relocalizer.localize(frame), Localized)
    places.own_detail = 0.75  # a map whose views differ, as where screens change
    assert isinstance(relocalizer.localize(changed), Localized)


def test_a_hint_allows_changes_but_not_where_places_look_alike(store, matcher):
    rgb = frame_at(NEAR).rgb.copy()
    rgb[:, 230:] = texture(WIDTH, HEIGHT, 33)[:, 230:]
    changed = replace(frame_at(NEAR), rgb=rgb)
    hint = Hint(np.linalg.inv(world_from_map(store)) @ NEAR, 0.01 * np.eye(6))
    places = Places(store, matcher)
    relocalizer = Relocalizer(places)
    found = relocalizer.localize(changed, hint)
    assert isinstance(found, Localized) and found.hinted
    places.look_alikes = 3
    assert isinstance(relocalizer.localize(changed, hint), Lost)


def test_plain_views_are_no_answer_where_places_look_alike(store, matcher, monkeypatch):
    """A door and a bare wall are the same in every corridor."""
    places = Places(store, matcher)
    relocalizer = Relocalizer(places)
    monkeypatch.setattr(relocalizer, "_detail", lambda *_: Confirmation(1.0, 0.004))
    assert isinstance(relocalizer.localize(frame_at(NEAR)), Localized)
    places.look_alikes = 3
    lost = relocalizer.localize(frame_at(NEAR))
    assert isinstance(lost, Lost) and lost.reason is LostReason.AMBIGUOUS


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


def test_picture_confirms_its_place_and_no_look_alike():
    """The same wall and panel with other posters on them: the geometry is right, the detail not."""
    here, there = pose(x=0.1, turn_deg=2), pose(x=-0.1, z=0.1)
    a, b = frame_at(here), frame_at(there)
    a_from_b = se3.inverse(here) @ there
    dark = replace(b, rgb=(0.5 * b.rgb + 20).astype(np.uint8))
    for query in (b, dark):
        seen = confirmation(query, a, a_from_b)
        assert seen.share > 0.98 and seen.area > 0.5
    twin = replace(b, rgb=texture(WIDTH, HEIGHT, 5))
    assert confirmation(twin, a, a_from_b).share < 0.2
    assert confirmation(b, a, a_from_b @ pose(x=0.3)).share < 0.6
    assert confirmation(b, replace(a, depth=None), a_from_b).area == 0.0


def with_screen(world_from_camera, content):
    """The wall with a screen on it that shows something else each time."""
    frame = frame_at(world_from_camera)
    rgb = frame.rgb.copy()
    rgb[:, : WIDTH // 2] = texture(WIDTH, HEIGHT, content)[:, : WIDTH // 2]
    return replace(frame, rgb=rgb)


def test_what_the_maps_own_views_differ_in_says_nothing():
    poses = {id: (pose(x=0.03 * id), np.eye(6)) for id in range(4)}
    frames = {id: with_screen(place, 40 + id) for id, (place, _) in poses.items()}
    kept = {id: types.SimpleNamespace(frame=lambda f=f: f) for id, f in frames.items()}
    places = types.SimpleNamespace(
        poses=poses,
        place=lambda id: types.SimpleNamespace(frame=frames[id]),
        near=lambda pose, count: list(poses)[:count],
        store=types.SimpleNamespace(keyframe=kept.get),
    )
    steady = SteadyDetail(places)
    here = pose(x=0.05, y=0.02)
    kept_from_camera = se3.inverse(poses[1][0]) @ here
    changed = with_screen(here, 50)
    assert confirmation(changed, frames[1], kept_from_camera).share < 0.7
    seen = steady.confirmation(changed, 1, kept_from_camera)
    assert seen.share > 0.95 and seen.area > 0.2
    elsewhere = replace(changed, rgb=texture(WIDTH, HEIGHT, 51))
    seen = steady.confirmation(elsewhere, 1, kept_from_camera)
    assert seen.share < 0.2 and seen.area > 0.2


def test_steady_detail_has_a_say_where_all_of_it_contradicts(store, matcher, monkeypatch):
    """And never where places look alike, nor where little of it is steady."""
    said = {}
    steady = lambda self, *given: Confirmation(*said["is"])  # noqa: E731
    monkeypatch.setattr(SteadyDetail, "confirmation", steady)
    monkeypatch.setattr(Relocalizer, "_detail", lambda *given: Confirmation(0.45, 0.1))
    places = Places(store, matcher)
    relocalizer, frame = Relocalizer(places), frame_at(NEAR)
    view = types.SimpleNamespace(keyframe=1, keyframe_from_camera=np.eye(4))
    query, seen = Query(frame, None, np.eye(4), frame), [types.SimpleNamespace(view=view)]
    for own, look_alikes, said["is"], confirms in (
        (0.4, 0, (0.6, 0.1), True),
        (0.4, 0, (0.49, 0.1), False),
        (0.4, 0, (0.6, 0.004), False),
        (0.95, 0, (0.7, 0.1), False),
        (0.4, 100, (0.99, 0.1), False),
    ):
        places.own_detail, places.look_alikes = own, look_alikes
        assert relocalizer._steady_detail_confirms(query, seen) == confirms, (own, said)
    places.own_detail, places.look_alikes, said["is"] = 0.4, 0, (0.6, 0.1)
    assert isinstance(relocalizer.localize(frame), Localized)
    said["is"] = (0.49, 0.1)
    assert isinstance(relocalizer.localize(frame), Lost)


def test_picture_in_motion_is_compared_with_the_keyframe_as_blurred():
    here, there = pose(x=0.1), pose(x=0.05, z=0.05)
    a, b = frame_at(here), frame_at(there)
    blurred = replace(b, rgb=cv2.blur(b.rgb, (7, 1)))
    seen = confirmation(blurred, a, se3.inverse(here) @ there)
    assert seen.share > 0.9 and seen.area > 0.02


def test_holes_of_depth_are_filled_along_planes_and_not_across_edges():
    u, v = np.meshgrid(np.arange(80.0), np.arange(60.0))
    inverse = (0.3 + 0.002 * u - 0.001 * v).astype(np.float32)
    depth = 1.0 / inverse
    depth[20:28, 30:40] = np.nan
    np.testing.assert_allclose(smoothed_inverse(depth), inverse, rtol=2e-3)
    step = np.where(u < 40, 1.0, 3.0).astype(np.float32)
    step[:, 36:44] = np.nan
    found = smoothed_inverse(step)
    assert np.isnan(found[:, 38:42]).all()
    np.testing.assert_allclose(1.0 / found[:, [2, 77]], [[1.0, 3.0]] * 60, rtol=1e-3)


def test_pixels_of_points_are_stored_to_a_hundredth():
    px = np.array([[639.37, 2.12], [1919.06, 1079.91]])
    kept = codec.decode_arrays(codec.encode_arrays({"px": px}))["px"]
    np.testing.assert_allclose(kept, px, atol=0.01)


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


def test_keyframe_that_no_camera_connects_is_placed_by_odometry(matcher, tmp_path):
    store = open_map(str(tmp_path / "blind.l2m"), create=True)
    tracked = TrackedMapper(Mapper(store, matcher))
    way = pose(x=0.5, z=0.2, turn_deg=20)
    for stamp_ns, base in ((1, np.eye(4)), (2, way)):
        sample = OdometrySample(stamp_ns, base, np.zeros((6, 6)))
        frame = replace(elsewhere(stamp_ns), stamp_ns=stamp_ns)
        tracked.add(Picked(frame, chain=stamp_ns, odometry=sample))
    tracked.mapper.settle()
    T, P = store.poses()[2]
    np.testing.assert_allclose(T, way, atol=1e-6)
    assert 0.02 < np.sqrt(P[0, 0]) < 0.1  # a twentieth of the way, and of the turn
    assert [edge.kind for edge in store.edges()] == ["motion"]
    store.close()


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


def test_vocabulary_tells_images_apart_and_survives_storing():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(6, 40, 16)).astype(np.float32)
    see = lambda i: kinds[i] + 0.05 * rng.normal(size=(40, 16)).astype(np.float32)  # noqa: E731
    words = learn([see(i) for i in range(6) for _ in range(2)], "toy", "abc")
    words = Vocabulary.from_bytes(words.to_bytes())
    assert (words.model, words.checksum) == ("toy", "abc")
    index = PlaceIndex(list(range(6)), np.stack([words.describe(see(i)) for i in range(6)]))
    assert [index.nearest(words.describe(see(i)), 1)[0][0] for i in range(6)] == list(range(6))
    index.add(9, words.describe(see(2)))
    assert {id for id, _ in index.nearest(words.describe(see(2)), 2)} == {2, 9}


def test_a_keyframe_that_looks_otherwise_is_not_even_loaded(tmp_path, matcher):
    same, other = (stored_cells(i, "sift", "classical") for i in (0, 1))
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    a, b, c = (store.add(map_keyframe(i), cells=kept) for i, kept in enumerate((same, other, None)))
    seen = from_grid(same.grid)
    places = Places(store, matcher)
    for id, kept in ((a, same), (b, other)):
        exact = likeness(seen, from_grid(kept.grid))
        assert exact <= places.most_alike(seen, id) <= exact + 2 * STORED_ERROR
    assert places.most_alike(seen, c) == places.most_alike(None, a) == np.inf
    assert places.most_alike(seen, b) < 0.09 < places.most_alike(seen, a)
    loaded = []
    places.place = loaded.append
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, seen)
    lost = Relocalizer(places)._sighting(query, b, StageTimes())
    assert lost.reason is LostReason.NOT_CONFIDENT and not loaded
    store.close()


def test_words_are_learnt_from_stored_cells(tmp_path, matcher):
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    kept = [stored_cells(i, "sift", "classical") for i in range(12)]
    ids = [store.add(map_keyframe(i), cells=cells) for i, cells in enumerate(kept)]
    drive = DriveRecorder(store, matcher)
    drive.arrays.get = None  # no image is encoded again
    drive.learn_vocabulary()
    exact = drive.places.vocabulary.describe(from_grid(kept[3].grid).descriptors)
    (found, cosine), *_ = drive.places.index.nearest(exact, 3)
    assert found == ids[3] and cosine > 0.99
    store.close()


def test_what_the_descriptors_rank_badly_is_found_by_its_cells(tmp_path, matcher):
    kept = [stored_cells(i, "sift", "classical") for i in range(4)]
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    eye = {"map_from_camera": np.eye(4), "covariance": np.eye(6)}
    ids = [store.add(map_keyframe(i, **eye), cells=cells) for i, cells in enumerate(kept)]
    bare = store.add(map_keyframe(5, **eye))
    vectors = np.eye(5, 8)[[0, 1, 2, 3, 4]] + 0.1
    store.put_descriptors(b"", dict(zip([*ids, bare], vectors, strict=True)))
    store.vocabulary = lambda: None
    relocalizer = Relocalizer(Places(store, matcher))
    lost = {ids[0]: Lost(LostReason.NOT_CONFIDENT, "tried before")}
    seen = 2 * kept[2].grid + kept[0].grid  # most like the third, which the descriptor ranks last
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, from_grid(seen))
    query = replace(query, tried=lost, descriptor=np.array([5.0, 4, 1, 3, 2, 0, 0, 0]))
    wider = relocalizer._queries.wider(query, StageTimes())
    assert wider.nearest[0][0] == ids[2] and wider.nearest[0][1] > 0.5
    assert not {ids[0], bare} & {id for id, _ in wider.nearest}
    blind = replace(query, cells=None)
    assert relocalizer._queries.wider(blind, StageTimes()).nearest == ()
    store.close()


def test_likeness_knows_the_same_view_shifted_and_no_other():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(1, 16, 12, 16)).astype(np.float32)
    other = rng.normal(size=(1, 16, 12, 16)).astype(np.float32)
    seen = {"coarse": grid, "fine": rng.normal(size=(1, 4, 48, 64)).astype(np.float32)}
    here = cells(seen)
    assert here.shape == (12, 16) and here.descriptors.shape == (192, 16)
    assert likeness(here, here) == (11 * 16 + 12 * 15) / 192
    shifted = np.roll(grid, 3, axis=3)
    assert likeness(cells({"coarse": shifted}), here) > 1.5
    assert likeness(cells({"coarse": other}), here) < 0.1
    assert cells({"px": np.zeros((5, 2)), "descriptors": np.eye(5)}) is None


def test_index_of_nothing():
    index = PlaceIndex([], np.zeros((0, 0), np.float32))
    assert index.nearest(np.ones(4, np.float32), 5) == []
    index.add(3, np.ones(4, np.float32))
    assert index.nearest(np.ones(4, np.float32), 5)[0][0] == 3


@pytest.mark.parametrize("meta", ["", "[]", '{"cameras": {}}', '{"cameras": {"x.jpg": {}}}'])
def test_folders_that_are_no_recording_are_refused_in_words(tmp_path, meta, capsys):
    folder = tmp_path / "recording"
    (folder / "images").mkdir(parents=True)
    (folder / "meta.json").write_text(meta)
    assert main(["map", "build", str(folder), "--out", str(tmp_path / "x.l2m")]) == 2
    assert "meta.json" in capsys.readouterr().err
    assert not (tmp_path / "x.l2m").exists()


def test_unplaced_keyframes_are_not_answers(store):
    assert map_keyframe(1).map_from_camera is None
    assert set(store.poses()) <= set(store.ids())


def test_stereo_folder_gives_a_right_image(tmp_path):
    write_relief(tmp_path / "s", PATH[:1])
    images = tmp_path / "s/images"
    for side in "LR":
        cv2.imwrite(str(images / f"{side}_0.png"), cv2.imread(str(images / "000.png")))
    meta = json.loads((tmp_path / "s/meta.json").read_text())
    entry = next(iter(meta["cameras"].values()))
    meta |= {"cameras": {"L_0.png": entry, "R_0.png": entry}, "stereo_baseline_m": 0.1}
    (tmp_path / "s/meta.json").write_text(json.dumps(meta))
    with open_recording(tmp_path / "s") as recording:
        (shot,) = recording.shots()
    assert shot.frame.right_rgb is not None and shot.frame.right_from_camera[0, 3] == -0.1
