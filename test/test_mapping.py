"""A map of a rendered wall with a panel, by SIFT: built, searched, merged, thinned, repaired."""

import json
import types
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes.keyframes import map_keyframe
from fakes.scenes import HEIGHT, WIDTH, K, pose, render, write_relief
from fakes.texture import texture

pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from l2m_ros.bags.mapping import BuildOptions, build_map
from l2m_ros.bags.recording import open_recording
from l2m_ros.cli import main
from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.mapping import codec, triangulation
from l2m_ros.mapping.alignment import world_from_map
from l2m_ros.mapping.appearance import Confirmation, confirmation
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.keyframe_picker import Picked
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
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.repair import describe_anew
from l2m_ros.mapping.roll import rolled
from l2m_ros.mapping.steady import SteadyDetail
from l2m_ros.mapping.store import open_map
from l2m_ros.mapping.surfaces import smoothed_inverse
from l2m_ros.mapping.tracked_mapper import TrackedMapper
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Camera, Frame, Lost, LostReason
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

CAMERA = Camera(WIDTH, HEIGHT, K)
PATH = [pose(x=0.12 * i, y=0.03 * i, z=0.02 * i, turn_deg=-1.5 * i) for i in range(-2, 3)]
NEAR = pose(x=0.1, y=-0.05, z=0.1, turn_deg=2)


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


@pytest.mark.parametrize(
    "seed", [5, 6, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (7, 8, 9))]
)
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


# --- detail -----------------------------------------------------------------------------------


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
