"""What came near in a keyframe's view, where nothing was seen before, is asked whether it moves."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.movers import Movers, View
from l2m_ros.tracking.newcomers import newcomer_moves
from l2m_ros.tracking.pose_checks import PoseChecks
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose

WIDTH, HEIGHT, F = 320, 240, 250.0
WALL_M, PERSON_M = 4.0, 0.9
CAMERA = Camera(WIDTH, HEIGHT, np.array([[F, 0, 159.5], [0, F, 119.5], [0, 0, 1]]))
TENTH_NS = 100_000_000
TURN_RAD, STEP_M = 0.05, 0.025  # of the camera from frame to frame
ENTERS, KEYFRAME, FRAMES = 4, 12, 15  # somebody comes in after the first, and is in the second
COLUMN, ROW = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
RAYS = np.stack([(COLUMN - 159.5) / F, (ROW - 119.5) / F, np.ones(ROW.shape)], -1)


def cloth(seed):
    fine = np.random.default_rng(seed).uniform(0, 255, (800, 1200))
    fine = cv2.GaussianBlur(fine, (0, 0), 2.0)
    return np.clip((fine - fine.mean()) * 5 + 128, 0, 255).astype(np.float32)


WALL, COAT = cloth(0), cloth(1)


def place(number):
    """A camera goes along a wall, and turns away from where it was."""
    T = np.eye(4)
    T[:3, :3] = se3.rotation(np.array([0.0, TURN_RAD * (number - 9), 0.0]))
    T[0, 3] = STEP_M * number
    return T


SIDE_M = place(ENTERS)[0, 3] + PERSON_M * np.tan(TURN_RAD * (ENTERS - 9) + np.arctan(160 / F))


def drawn(cloth, points, px_m):
    u, v = ((points[..., axis] / px_m + 500).astype(np.float32) for axis in (0, 1))
    return cv2.remap(cloth, u, v, cv2.INTER_LINEAR)


@cache
def frame(number, walks):
    """Somebody near comes in from the side to which the camera turns, and walks beside it."""
    T = place(number)
    rays, center = RAYS @ T[:3, :3].T, T[:3, 3]
    depth = WALL_M / rays[..., 2]
    grey = drawn(WALL, center + rays * depth[..., None], 1.5 * WALL_M / F)
    near = PERSON_M / rays[..., 2]
    points = center + rays * near[..., None]
    points[..., 0] -= SIDE_M + (STEP_M * (number - ENTERS) if walks else 0.0)
    shown = (points[..., 0] > 0) & (points[..., 1] > -0.3)
    grey = np.where(shown, drawn(COAT, points, PERSON_M / F), grey)
    depth = np.where(shown, near, depth)
    rng = np.random.default_rng(100 + number)
    grey = np.clip(np.rint(grey + rng.normal(0, 1.5, grey.shape)), 0, 255).astype(np.uint8)
    depth = depth * (1 + 0.005 * rng.standard_normal(depth.shape))
    rgb = np.repeat(grey[..., None], 3, 2)
    return Frame(rgb, CAMERA, depth.astype(np.float32), stamp_ns=number * TENTH_NS)


def run(walks):
    """(posed, wrong, what was said to move)"""
    tracker = Tracker(load_matcher("sift"))
    posed, wrong, said = 0, 0, set()
    for number in range(FRAMES):
        if number == KEYFRAME:
            tracker.set_keyframe()
        result = tracker.process(frame(number, walks))
        said.add(result.remarks.get("moving"))
        if result.pose is None:
            continue
        keyframe = result.keyframe.frame.stamp_ns // TENTH_NS
        truth = se3.inverse(place(keyframe)) @ place(number)
        off = se3.difference(result.pose.keyframe_from_camera, truth)
        posed, wrong = posed + 1, wrong + (np.linalg.norm(off[:3]) > 0.02)
    return posed, wrong, said - {None}


def test_the_pose_is_the_cameras_and_not_that_of_a_person_whom_no_frame_saw_coming(monkeypatch):
    posed, wrong, said = run(walks=True)
    assert (posed, wrong) == (FRAMES - 1, 0)
    assert any("moved into view" in words for words in said)
    monkeypatch.setattr(PoseChecks, "newcomer_moves", lambda *_: False)
    assert run(walks=True)[1] > 0


def test_who_stands_there_is_matched():
    assert run(walks=False) == (FRAMES - 1, 0, set())


ASTRAY, TRULY = se3.transform(np.eye(3), [0.3, 0.0, 0.0]), se3.transform(np.eye(3), [0.0, 0.0, 0.1])


@pytest.mark.parametrize(
    ("expected", "moves"),
    [(None, True), (ASTRAY, True), (TRULY, False)],
    ids=["no", "astray", "true"],
)
def test_what_is_near_stands_if_all_matches_say_so_and_so_does_the_velocity(expected, moves):
    """A bare wall close by, and matches on what was seen before that agree on a wrong pose."""
    u, v = (a.ravel().astype(float) for a in np.meshgrid(range(8, 312, 8), range(8, 232, 8)))
    keyframe_px, new = np.stack([u, v], 1), u > 120
    depth = np.where(COLUMN > 120, 1.0, WALL_M).astype(np.float32)
    at = RAYS[v.astype(int), u.astype(int)] * depth[v.astype(int), u.astype(int)][:, None]
    motions = np.where(new[:, None, None], se3.inverse(TRULY), se3.inverse(ASTRAY))
    seen = np.einsum("nij,nj->ni", motions[:, :3, :3], at) + motions[:, :3, 3]
    query_px = seen[:, :2] / seen[:, 2:] * F + [159.5, 119.5]
    pairs = Correspondences(query_px, keyframe_px, np.ones(len(u)))
    rgb = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    image = Frame(rgb, CAMERA, depth)
    keyframe = SimpleNamespace(frame=image, seen_before=COLUMN <= 120, seen_depth=depth)

    def posed(part):
        T = TRULY if len(part) == len(pairs) else ASTRAY
        return MetricPose(T, 1e-6 * np.eye(6), np.ones(len(part), bool), "depth")

    assert newcomer_moves(pairs, image, keyframe, posed, 0.2, expected) == moves


def view(depth, tenths):
    return View(tenths * TENTH_NS, CAMERA, depth, 1, np.eye(4))


@pytest.mark.parametrize(
    ("tenths", "person_m", "known_to", "new"),
    [
        (5, PERSON_M, 150, True),
        (4, PERSON_M, 150, False),  # no frame that is old enough
        (5, WALL_M, 150, False),  # not near
        (5, PERSON_M, WIDTH, False),  # in space that was seen empty: it moved, and is not asked
        (5, PERSON_M, 20, False),  # too little was seen to tell what is near
    ],
)
def test_what_is_near_where_depth_was_unknown_is_new(tenths, person_m, known_to, new):
    before = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    before[:, :known_to] = WALL_M
    now = np.full((HEIGHT, WIDTH), WALL_M, np.float32)
    now[60:, 200:300] = person_m
    movers = Movers()
    movers.believe(view(before, 0))
    seen_before = movers.stillness(view(now, tenths)).seen_before
    assert (seen_before is not None) is new
    if new:
        assert not seen_before[70:, 205:295].any() and seen_before[:, :190].all()


def with_person(left, right, known_to=WIDTH):
    depth = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    depth[:, :known_to] = WALL_M
    depth[60:, left:right] = PERSON_M
    return depth


def test_what_was_new_a_moment_ago_vouches_for_nothing():
    """Somebody who comes in from the unknown, and half of whom is where they were, moves whole."""

    def found_with(left, right):
        movers = Movers()
        movers.believe(view(with_person(0, 0, 150), 0))
        movers.believe(view(with_person(160, 260, 150), 5))
        return movers.stillness(view(with_person(left, right), 11))

    found = found_with(110, 210)
    assert not found.still[70:, 115:205].any() and found.still[:, :100].all()
    found = found_with(190, 290)  # not before what was seen
    assert found.still is None and not found.seen_before[70:, 195:285].any()
