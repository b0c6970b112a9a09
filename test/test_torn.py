"""Images of two moments: rows of the image before, and a camera that moved meanwhile."""

import cv2
import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.seam import seam
from l2m_ros.tracking.torn import (
    Sign,
    repeated_rows,
    two_moments,
    two_poses,
    unsupported_part,
)
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import (
    Camera,
    Correspondences,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

WIDTH, HEIGHT = 320, 240
CAMERA = Camera(WIDTH, HEIGHT, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))


@pytest.fixture(scope="module")
def wall():
    """A textured picture, wider than the camera sees."""
    rng = np.random.default_rng(0)
    fine = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, WIDTH + 60)), (0, 0), 2.0)
    return np.clip((fine - fine.mean()) * 5 + 128, 0, 255)


def picture(wall, shift_px, seed):
    """What a camera sees that moved along the wall, with its own noise."""
    noise = np.random.default_rng(seed).normal(0, 1.5, (HEIGHT, WIDTH))
    grey = wall[:, shift_px : shift_px + WIDTH] + noise
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def frame(rgb, number):
    noise_m = np.random.default_rng(number).normal(0, 0.002, (HEIGHT, WIDTH))
    depth = (2.0 + noise_m).astype(np.float32)  # the wall is square on
    return Frame(rgb, CAMERA, depth, stamp_ns=10**9 + number * 10**8)


def torn_picture(upper, lower, at=HEIGHT // 2):
    return np.concatenate([upper[:at], lower[at:]])


def test_repeated_rows_are_those_with_texture(wall):
    before, now = picture(wall, 0, 0), picture(wall, 0, 1)
    assert repeated_rows(now, before) is None
    rows = repeated_rows(torn_picture(now, before), before)
    assert rows.sum() == HEIGHT // 2 and rows[HEIGHT // 2 :].all()
    before[:100] = now[:100] = 0  # a black bar is no repeated row
    assert repeated_rows(now, before) is None


@pytest.mark.parametrize("at", [90, 150])
def test_an_image_of_two_moments_has_no_pose(wall, at):
    """Whichever moment has more of the image."""
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    before = picture(wall, 10, 1)
    assert tracker.process(frame(before, 1)).pose is not None
    result = tracker.process(frame(torn_picture(picture(wall, 40, 2), before, at), 2))
    assert result.outcome.reason is LostReason.REPEATED_IMAGE
    assert f"{HEIGHT - at} of 240 rows" in result.reason
    assert tracker.process(frame(picture(wall, 42, 3), 3)).pose is not None


def test_an_image_of_two_moments_is_no_keyframe(wall):
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    tracker.set_keyframe()
    torn = torn_picture(picture(wall, 40, 2), picture(wall, 0, 0))
    assert not tracker.process(frame(torn, 1)).new_keyframe
    assert not tracker.process(frame(picture(wall, 42, 3), 2)).new_keyframe
    assert tracker.process(frame(picture(wall, 44, 4), 3)).new_keyframe


def test_rows_that_repeat_while_the_camera_stands_do_no_harm(wall):
    """As a video codec sends them of a scene that rests."""
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    before = picture(wall, 10, 1)
    assert tracker.process(frame(before, 1)).pose is not None
    result = tracker.process(frame(torn_picture(picture(wall, 10, 2), before), 2))
    assert result.pose is not None


@pytest.mark.parametrize("shift_px, moved", [(0, False), (1, True), (4, True), (30, True)])
@pytest.mark.parametrize("lower_only", [True, False])
def test_the_rest_of_a_torn_image_shows_whether_the_camera_moved(wall, shift_px, moved, lower_only):
    before, now = picture(wall, 0, 0), picture(wall, shift_px, 1)
    at = 60 if lower_only else HEIGHT // 2
    now[:at] = before[:at]
    rows = np.arange(HEIGHT) < at
    found = two_moments(now, before, rows)
    assert (found is not None) is moved
    if moved:
        assert f"{at} of 240 rows" in found.detail and "the camera moved: 100 %" in found.detail


def test_somebody_who_walks_past_does_not_move_the_camera(wall):
    before, now = picture(wall, 0, 0), picture(wall, 0, 1)
    now[:120, 100:160] = picture(wall, 30, 2)[:120, 100:160]
    now[120:] = before[120:]
    assert two_moments(now, before, np.arange(HEIGHT) >= 120) is None


@pytest.mark.parametrize("odometry_moves", [True, False])
def test_odometry_that_stands_clears_repeated_rows(wall, odometry_moves):
    tracker = Tracker(load_matcher("sift"))

    def wheels(x_m, stamp_ns):
        return OdometrySample(stamp_ns, se3.transform(np.eye(3), [x_m, 0, 0]), np.eye(6) * 1e-4)

    first = frame(picture(wall, 0, 0), 0)
    second = frame(torn_picture(picture(wall, 1, 1), first.rgb), 1)
    tracker.process(first, wheels(0.0, first.stamp_ns))
    x_m = 0.008 if odometry_moves else 0.0
    result = tracker.process(second, wheels(x_m, second.stamp_ns))
    repeated = isinstance(result.outcome, Lost)
    assert repeated is odometry_moves


def pairs_shifted(by_px):
    """Exact matches of two pictures of the wall, of the second `by_px` further along it."""
    x, y = np.meshgrid(np.arange(70.0, WIDTH - 70, 16), np.arange(8.0, HEIGHT, 16))
    query = np.column_stack([x.ravel(), y.ravel()])
    return Correspondences(query, query + [by_px, 0.0], np.ones(len(query)))


def test_a_seam_is_found_where_two_moments_meet(wall):
    keyframe, whole, other = picture(wall, 0, 0), picture(wall, 10, 1), picture(wall, 35, 2)
    assert seam(whole, keyframe, pairs_shifted(10)) is None
    rows = seam(torn_picture(whole, other, 100), keyframe, pairs_shifted(10))
    assert rows is not None and not rows[:100].any() and rows[100:].all()
    assert seam(whole[:20], keyframe, pairs_shifted(10)) is None


@pytest.mark.parametrize("torn_at", [None, 160])
def test_a_line_of_the_scene_is_in_the_keyframe_too(wall, torn_at):
    shelf = wall.copy()
    shelf[100:] *= 0.5
    keyframe, now = picture(shelf, 0, 0), picture(shelf, 25, 1)
    if torn_at is not None:
        now = torn_picture(now, picture(shelf, 50, 2), torn_at)
    rows = seam(now, keyframe, pairs_shifted(25))
    assert (rows is None) if torn_at is None else (rows.argmax() == torn_at)
    rows = seam(now, keyframe, pairs_shifted(1000))  # no column has a place in the keyframe
    assert rows.argmax() == 100


def test_a_line_of_the_scene_costs_no_second_pose(wall, monkeypatch):
    shelf = wall.copy()
    shelf[100:] *= 0.6
    looked = []
    monkeypatch.setattr(
        "l2m_ros.tracking.torn_check.two_poses", lambda *args, **kwargs: looked.append(args)
    )
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(shelf, 0, 0), 0))
    assert tracker.process(frame(picture(shelf, 10, 1), 1)).pose is not None and not looked
    torn = torn_picture(picture(wall, 40, 2), picture(wall, 10, 1))
    tracker.process(frame(torn, 2))
    assert looked


def test_an_image_of_two_moments_is_that_by_any_keyframe(wall, monkeypatch):
    verdicts = [Lost(LostReason.REPEATED_IMAGE, "torn"), None]
    monkeypatch.setattr(
        "l2m_ros.tracking.torn_check.two_poses", lambda *args, **kwargs: verdicts.pop(0)
    )
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    tracker.set_keyframe()
    assert tracker.process(frame(picture(wall, 5, 1), 1)).new_keyframe
    torn = torn_picture(picture(wall, 40, 2), picture(wall, 10, 3))
    result = tracker.process(frame(torn, 2))
    assert result.outcome.reason is LostReason.REPEATED_IMAGE
    assert verdicts == [None]


@pytest.mark.parametrize(
    "turned_deg, other, lost",
    [(0.2, "depth", False), (2.0, "depth", True), (2.0, "odometry", False), (2.0, None, False)],
)
def test_a_part_without_metres_is_compared_by_its_turn(turned_deg, other, lost):
    """As of a sky, whose depth nothing measures; with one whose turn depth shows."""
    turn = se3.transform(se3.rotation(np.radians([0.0, turned_deg, 0.0])), np.zeros(3))
    variance = np.diag([1e-4] * 3 + [np.radians(0.2) ** 2] * 3)
    turned = []

    def posed(part):
        agree = np.ones(len(part), dtype=bool)
        turned.append(part)
        if len(turned) == 1 or other is None:
            return RelativePose(turn, agree, "rotation", np.diag([0.0] * 3 + [1e-5] * 3))
        return MetricPose(np.eye(4), variance, agree, other)

    rows = np.arange(HEIGHT) >= HEIGHT // 2
    found = two_poses(pairs_shifted(10), rows, Sign.SEAM, min_support=0.5, posed=posed)
    assert (found is not None) is lost
    if lost:
        assert "the two parts differ by 2.00 degrees" in found.detail


def test_a_torn_image_whose_rows_were_never_sent_has_no_pose(wall):
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    torn = torn_picture(picture(wall, 40, 2), picture(wall, 10, 1))
    result = tracker.process(frame(torn, 1))
    assert result.outcome.reason is LostReason.REPEATED_IMAGE
    assert "a seam runs across the image at row 120" in result.reason
    still = tracker.process(frame(torn_picture(picture(wall, 12, 3), picture(wall, 12, 4)), 2))
    assert still.pose is not None


def test_after_a_torn_image_the_rows_that_it_lacked_may_fill_the_next(wall):
    """They were never sent, so that none repeats; a blurred seam is none."""
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    before = picture(wall, 10, 1)
    assert tracker.process(frame(before, 1)).pose is not None
    lost = tracker.process(frame(torn_picture(picture(wall, 20, 2), before), 2))
    assert lost.outcome.reason is LostReason.REPEATED_IMAGE
    torn = torn_picture(picture(wall, 24, 3), picture(wall, 20, 4))
    torn[110:130] = cv2.blur(torn, (1, 15))[110:130]
    result = tracker.process(frame(torn, 3))
    assert result.outcome.reason is LostReason.REPEATED_IMAGE
    assert "the image before was torn" in result.reason
    whole = tracker.process(frame(picture(wall, 26, 5), 4))
    assert whole.pose is not None
    tracker.set_keyframe()
    assert tracker.process(frame(picture(wall, 28, 6), 5)).new_keyframe


def test_an_image_after_a_torn_one_is_no_keyframe_and_finds_no_older_one(wall, monkeypatch):
    tracker = Tracker(load_matcher("sift"))
    tracker.process(frame(picture(wall, 0, 0), 0))
    before = picture(wall, 10, 1)
    tracker.process(frame(before, 1))
    tracker.process(frame(torn_picture(picture(wall, 20, 2), before), 2))
    tracker.set_keyframe()
    recovered = []
    monkeypatch.setattr(tracker, "_recover", lambda now, failed: recovered.append(now) or failed)
    assert not tracker.process(frame(picture(wall, 22, 3), 3)).new_keyframe
    assert tracker.process(frame(picture(wall, 24, 4), 4)).new_keyframe
    tracker.process(frame(torn_picture(picture(wall, 34, 5), picture(wall, 24, 4)), 5))
    elsewhere = np.flip(picture(wall, 0, 6), axis=1)
    tracker.process(frame(np.ascontiguousarray(elsewhere), 6))
    assert not recovered
    for number in range(7, 11):  # what matches alone suspect ends
        noise = np.random.default_rng(number).integers(0, 255, elsewhere.shape, np.uint8)
        tracker.process(frame(noise, number))
    assert recovered


def supported(above, below, seed):
    """A pose, and matches of which these shares agree in the upper and in the lower half."""
    rng = np.random.default_rng(seed)
    px = rng.uniform(0, (WIDTH - 1, HEIGHT - 1), (400, 2))
    agrees = rng.random(400) < np.where(px[:, 1] < HEIGHT / 2, above, below)
    pairs = Correspondences(px, px, np.ones(400))
    return MetricPose(np.eye(4), 1e-4 * np.eye(6), agrees, "depth"), pairs


@pytest.mark.parametrize(
    ("then", "now", "torn"),
    [((0.8, 0.8), (0.8, 0.3), True),  # what lies there was matched well until now
     ((0.8, 0.35), (0.8, 0.3), False),  # a desk whose depth errs: as before
     ((0.8, 0.35), (0.8, 0.05), True),
     (None, (0.8, 0.3), True), (None, (0.8, 0.7), False)],
)  # fmt: skip
def test_a_part_that_never_agreed_much_does_not_show_that_an_image_is_torn(then, now, torn):
    rows = np.arange(HEIGHT) >= HEIGHT // 2
    whole = None if then is None else supported(*then, seed=0)
    lost = unsupported_part(*supported(*now, seed=1), rows, 0.45, whole)
    assert (lost is not None) == torn
