"""The map's last resorts: an image turned by more than a hand turns it, and a second look."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes.keyframes import map_keyframe, stored_cells
from fakes.scenes import HEIGHT, WIDTH, K, pose, render
from fakes.texture import texture

pytest.importorskip("faiss")

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.mapping.appearance import Confirmation
from l2m_ros.mapping.likeness import from_grid
from l2m_ros.mapping.options import RELOCALIZER, ViewGates
from l2m_ros.mapping.places import Place, Places
from l2m_ros.mapping.queries import Query
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.roll import rolled
from l2m_ros.mapping.store import open_map
from l2m_ros.mapping.verification import View, look, sighted
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.parameters.table import PARAMETERS, map_options
from l2m_ros.timing import StageTimes
from l2m_ros.types import Camera, DenseMatch, Features, Frame, Lost, LostReason, Reference

DEFAULTS = {p.name: p.default for p in PARAMETERS.values()}
CAMERA = Camera(WIDTH, HEIGHT, K)
DEPTH_M = 2.0


# --- turned -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, -90, 180, 135])
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (HEIGHT, WIDTH)])
def test_a_turned_image_is_what_its_camera_would_see(degrees, size):
    rgb, depth = render(pose())
    frame = Frame(rgb, CAMERA, depth=depth)
    turned, camera_from_turned = rolled(frame, np.radians(degrees), size)
    assert turned.camera.size == size and turned.depth.shape == size[::-1]
    px = np.random.default_rng(0).uniform((40, 40), np.array(size) - 40, (200, 2)).round()
    u, v = px.astype(int).T
    points = unproject(turned.camera, px) * turned.depth[v, u][:, None]
    there = project(CAMERA, points @ camera_from_turned[:3, :3].T)
    x, y = np.rint(np.nan_to_num(there, nan=-1.0)).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < WIDTH) & (y < HEIGHT)
    assert inside.mean() > 0.4
    off = np.abs(turned.rgb[v, u].astype(int) - rgb[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)])
    assert np.median(off[inside]) < 8


@pytest.mark.parametrize("degrees, quarters", [(90, 1), (-90, -1), (180, 2)])
def test_quarter_turns_lose_no_pixel(degrees, quarters):
    rgb = texture(WIDTH, HEIGHT, 3)
    size = (HEIGHT, WIDTH) if quarters % 2 else (WIDTH, HEIGHT)
    square = np.array([[260.0, 0, 158.0], [0, 260.0, 121.0], [0, 0, 1]])
    turned, _ = rolled(Frame(rgb, Camera(WIDTH, HEIGHT, square)), np.radians(degrees), size)
    np.testing.assert_allclose(turned.rgb, np.rot90(rgb, -quarters), atol=1)


# --- a second look ----------------------------------------------------------------------------


class OneScale:
    """Knows the similarity between two images by SIFT; where they differ in scale by more than a
    third, most of what it says is noise."""

    name = "one scale"

    def __init__(self):
        self.encoded = 0

    def encode(self, rgb):
        self.encoded += 1
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), rgb)

    def reference(self, features):
        return Reference(self.name, features.image_size, features.data)

    def match(self, query, reference):
        sift = cv2.SIFT_create(800)
        ends = [sift.detectAndCompute(each.data, None) for each in (query, reference)]
        pairs = cv2.BFMatcher(crossCheck=True).match(ends[0][1], ends[1][1])
        one = np.float32([ends[0][0][p.queryIdx].pt for p in pairs])
        other = np.float32([ends[1][0][p.trainIdx].pt for p in pairs])
        affine, _ = cv2.estimateAffinePartial2D(one, other, ransacReprojThreshold=2.0)
        width, height = query.image_size
        shape = (height // 4, width // 4)
        size = (query.image_size, reference.image_size)
        grid = DenseMatch(np.zeros((*shape, 2)), np.zeros(shape), *size).grid_px()
        warp = grid @ affine[:, :2].T + affine[:, 2]
        inside = ((warp >= 0) & (warp <= np.array(reference.image_size) - 1)).all(axis=2)
        rng = np.random.default_rng(0)
        warp += rng.normal(0, 0.3, warp.shape)
        scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
        if not 0.75 < scale < 1.33:
            warp += (rng.uniform(size=(*shape, 1)) < 0.9) * rng.normal(0, 12, warp.shape)
        return DenseMatch(warp, np.where(inside, np.float32(0.8), 0), *size)


def wall_from(forward_m):
    """A wall across the view, from so much nearer."""
    zoom = DEPTH_M / (DEPTH_M - forward_m)
    middle = K[:2, 2]
    affine = np.column_stack([zoom * np.eye(2), middle - zoom * middle])
    rgb = cv2.warpAffine(texture(WIDTH, HEIGHT, 5), affine, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1).normal(0, 0.004, (HEIGHT, WIDTH))
    depth = (DEPTH_M - forward_m + noise).astype(np.float32)
    return Frame(rgb, CAMERA, depth=depth)


def looked(forward_m, *, closer):
    matcher, frame, keyframe = OneScale(), wall_from(forward_m), wall_from(0.0)
    features = matcher.encode(frame.rgb)
    place = Place(7, keyframe, matcher.reference(matcher.encode(keyframe.rgb)))
    gates = ViewGates(max_sigma_m=0.3, max_sigma_rad=0.3)  # a wall alone says little
    view = look(
        matcher, frame, features, place, gates, RELOCALIZER.pose, StageTimes(), closer=closer
    )
    return view, matcher.encoded - 2


def test_a_second_look_sees_what_one_look_does_not():
    lost, encoded = looked(1.0, closer=False)
    assert isinstance(lost, Lost) and encoded == 0
    view, encoded = looked(1.0, closer=True)
    assert isinstance(view, View) and encoded == 2
    assert np.abs(view.keyframe_from_camera[:3, 3] - [0, 0, 1.0]).max() < 0.05


def test_what_one_look_sees_is_not_looked_at_twice():
    (once, _), (twice, encoded) = looked(0.2, closer=False), looked(0.2, closer=True)
    assert isinstance(once, View) and encoded == 0
    np.testing.assert_array_equal(once.keyframe_from_camera, twice.keyframe_from_camera)


# --- when the map does either -----------------------------------------------------------------


@pytest.fixture
def relocalizer(tmp_path):
    store = open_map(str(tmp_path / "map.l2m"), create=True)
    eye = {"map_from_camera": np.eye(4), "covariance": np.eye(6)}
    kept = [stored_cells(i, "sift", "classical") for i in range(4)]
    ids = [store.add(map_keyframe(i, **eye), cells=cells) for i, cells in enumerate(kept)]
    store.put_descriptors(b"", dict(zip(ids, np.eye(4, 8), strict=True)))
    store.vocabulary = lambda: None
    yield Relocalizer(Places(store, load_matcher("sift")))
    store.close()


def turn_of(query):
    degrees = np.degrees(se3.rotation_log(query.camera_from_frame[:3, :3])[2])
    return 180 if round(abs(degrees)) == 180 else -round(degrees)


def asked(relocalizer, monkeypatch, answer, most=0.16):
    """What is asked of the map for one image, (turn in degrees, whether closer, nearest), in order;
    `most`: likeness of keyframe 3, turned by 90 degrees."""
    seen = []

    def retrieved(query, times):
        alike = {1: 0.02, 3: most} if turn_of(query) == 90 else {1: 0.04, 2: 0.01}
        nearest = tuple((id, 0.5) for id in alike)
        cells = from_grid(stored_cells(0).grid)
        return replace(query, cells=cells, nearest=nearest, alike=alike)

    def anywhere(query, times):
        seen.append((turn_of(query), query.closer, query.nearest))
        return answer(query)

    monkeypatch.setattr(relocalizer._queries, "retrieved", retrieved)
    monkeypatch.setattr(relocalizer, "_anywhere", anywhere)
    outcome = relocalizer.localize(map_keyframe(0).frame())
    return outcome, seen


LOST = Lost(LostReason.UNKNOWN_PLACE, "nowhere")


def test_far_turns_and_a_second_look_come_last(relocalizer, monkeypatch):
    outcome, seen = asked(relocalizer, monkeypatch, lambda query: LOST)
    assert outcome is LOST
    turns = [turn for turn, closer, _ in seen if not closer]
    assert (
        turns[0] == 0 and {*turns[1:3]} == {30, -30} and {*turns[3:]} == {90, -90, 135, -135, 180}
    )
    # Upright, then that turn in which a keyframe was most alike; what is not alike is left out.
    closer = [each for each in seen if each[1]]
    assert closer == seen[8:] == [(0, True, ((1, 0.04),)), (90, True, ((3, 0.16),))]
    _, seen = asked(relocalizer, monkeypatch, lambda query: LOST, most=0.06)
    assert seen[8:] == closer[:1]  # as much in one of seven turns is chance


@pytest.mark.parametrize(
    "max_roll_deg, turns", [(0, []), (15, [30, -30]), (100, [30, -30, 90, -90])]
)
def test_no_turn_that_only_another_robot_could_need(relocalizer, monkeypatch, max_roll_deg, turns):
    options = map_options({**DEFAULTS, "map.max_roll_deg": float(max_roll_deg)}).relocalizer
    relocalizer._queries.options = options
    _, seen = asked(relocalizer, monkeypatch, lambda query: LOST)
    assert sorted(turn for turn, closer, _ in seen if not closer) == sorted([0, *turns])


def test_an_image_that_is_found_has_no_second_look(relocalizer, monkeypatch):
    found = Localized(np.eye(4), np.eye(6), (1, 2), 100, False, {})
    outcome, seen = asked(relocalizer, monkeypatch, lambda query: found)
    assert outcome is found and [turn for turn, *_ in seen] == [0]
    upright = lambda query: LOST if turn_of(query) == 0 else found  # noqa: E731
    outcome, seen = asked(relocalizer, monkeypatch, upright)
    assert outcome is found and abs(seen[-1][0]) == 30 and not seen[-1][1]


def test_what_was_refused_for_its_detail_has_no_second_look(relocalizer, monkeypatch):
    def refused(query):
        view = View(1, np.eye(4), np.eye(6) * 1e-6, 100, 0.5, 0.5, 0.8)
        query.tried.update({id: sighted(view, np.eye(4), np.eye(6) * 1e-6) for id in (1, 2)})
        return LOST

    outcome, seen = asked(relocalizer, monkeypatch, refused)
    assert outcome is LOST and [abs(turn) for turn, *_ in seen] == [0, 30, 30]


def test_views_of_a_first_look_count_in_the_second(relocalizer):
    view = View(2, np.eye(4), np.eye(6) * 1e-6, 100, 0.5, 0.5, 0.8)
    kept = sighted(view, np.eye(4), np.eye(6))
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, from_grid(stored_cells(0).grid))
    unsure = Lost(LostReason.NOT_CONFIDENT, "no match at all")
    tried = {2: kept, 3: LOST, 4: unsure, 5: unsure}
    alike = {2: 0.01, 3: 0.06, 4: 0.09, 5: 0.05}
    query = replace(query, nearest=((1, 0.5),), tried=tried, alike=alike)
    query.unlike.add(5)  # not even matched, so it may be
    (closer,) = relocalizer._queries.closer([query], StageTimes())
    assert [id for id, _ in closer.nearest] == [2, 1, 3, 5] and closer.closer
    assert closer.tried == {2: kept}  # and 3 is matched again


def seen_from(id, x_m, confidence, share=0.5, sigma=0.001):
    view = View(id, se3.transform(np.eye(3), np.array([x_m, 0.0, 0.0])), np.eye(6) * 1e-6, 100,
                share, 0.5, confidence)  # fmt: skip
    return sighted(view, np.eye(4), np.eye(6) * sigma**2)


@pytest.mark.parametrize(
    "views, reason",
    [
        ([seen_from(1, 0.0, 0.8), seen_from(2, 0.0, 0.4)], None),
        ([seen_from(1, 0.0, 0.45), seen_from(2, 0.0, 0.4)], LostReason.NOT_CONFIDENT),
        (
            [seen_from(1, 0.0, 0.8, sigma=0.026), seen_from(2, 0.0, 0.8, sigma=0.026)],
            LostReason.UNCERTAIN,
        ),
        # Two agree, and a third one that shows more of the image says otherwise.
        (
            [seen_from(1, 0.0, 0.8), seen_from(2, 0.0, 0.8), seen_from(3, 0.5, 0.8, 0.9)],
            LostReason.AMBIGUOUS,
        ),
        ([seen_from(1, 0.0, 0.8), seen_from(2, 0.0, 0.8), seen_from(3, 0.5, 0.8, 0.3)], None),
    ],
)
def test_more_is_asked_of_a_second_look(relocalizer, monkeypatch, views, reason):
    sightings = {each.view.keyframe: each for each in views}
    nearest = tuple((id, 0.5) for id in sightings)
    query = Query(map_keyframe(0).frame(), None, np.eye(4), None, nearest=nearest)
    query = replace(query, tried=sightings)
    nothing = Confirmation(1.0, 0.0)
    monkeypatch.setattr(relocalizer, "_detail", lambda query, sightings: nothing)
    monkeypatch.setattr(relocalizer, "_suffice", lambda best: False)
    monkeypatch.setattr(relocalizer.places, "near", lambda pose, count: list(sightings)[:count])
    assert isinstance(relocalizer._anywhere(query, StageTimes()), Localized)
    outcome = relocalizer._anywhere(replace(query, closer=True), StageTimes())
    assert getattr(outcome, "reason", None) is reason
