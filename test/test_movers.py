"""What moved into a keyframe's view is not matched, where depth shows it."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.mask import only_used
from l2m_ros.tracking.movers import LONGEST_UNSEEN_NS, REMEMBERED_NS, Movers, View
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import PoseChecks
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Correspondences, Frame

WIDTH, HEIGHT, F, WALL_M, PERSON_M = 320, 240, 250.0, 3.0, 1.0
CAMERA = Camera(WIDTH, HEIGHT, np.array([[F, 0, 159.5], [0, F, 119.5], [0, 0, 1]]))
TENTH_NS = 100_000_000


def depth_with(left=None, right=None, person_m=PERSON_M, seed=0):
    depth = np.full((HEIGHT, WIDTH), WALL_M, np.float32)
    if left is not None:
        depth[60:, left:right] = person_m
    return depth * (1 + 0.005 * np.random.default_rng(seed).standard_normal(depth.shape))


def view(depth, tenths=0, at_m=(0.0, 0.0, 0.0), unseen_ns=0, chain=1):
    place = np.eye(4)
    place[:3, 3] = at_m
    return View(tenths * TENTH_NS, CAMERA, depth, chain, place, unseen_ns)


def after(*views):
    movers = Movers()
    for each in views:
        movers.believe(each)
    return movers


def share(still, rows, columns):
    return 1.0 - still[rows, columns].mean()


BODY = slice(70, HEIGHT)


def test_what_stands_in_space_that_was_seen_empty_is_left_out():
    movers = after(view(depth_with()))
    still = movers.stillness(view(depth_with(100, 200), 3)).still
    assert share(still, BODY, slice(104, 196)) == 1.0
    assert share(still, slice(0, HEIGHT), slice(0, 80)) == 0.0
    assert share(still, slice(0, HEIGHT), slice(220, WIDTH)) == 0.0


def test_seen_from_another_place():
    movers = after(view(depth_with()))
    still = movers.stillness(view(depth_with(100, 200), 3, at_m=(0.3, 0.05, 0.4))).still
    assert share(still, BODY, slice(104, 196)) == 1.0


@pytest.mark.parametrize(
    ("seen", "now"),
    [
        (depth_with(), depth_with(seed=1)),  # nothing is new
        (depth_with(100, 200), depth_with()),  # a person went: the wall is farther
        (depth_with(100, 200), depth_with(100, 200, seed=1)),  # was there from the first frame on
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), depth_with(100, 200)),  # nothing was seen
        (depth_with(), depth_with(100, 200, person_m=2.7)),  # a tenth nearer: noise, or a shelf
        (depth_with(), np.full((HEIGHT, WIDTH), np.nan, np.float32)),
    ],
)
def test_what_is_not_known_to_have_moved_is_matched(seen, now):
    assert after(view(seen)).stillness(view(now, 3)).still is None


def test_a_part_that_was_out_of_sight_goes_with_the_rest():
    seen = depth_with()
    seen[:, 150:] = np.nan
    still = after(view(seen)).stillness(view(depth_with(100, 200), 3)).still
    assert share(still, BODY, slice(104, 196)) == 1.0


def test_a_thing_that_goes_on_hides_nothing_by_where_it_was():
    """A moment ago the person was there, too; that view does not vouch for it."""
    movers = after(view(depth_with()), view(depth_with(60, 160), 5), view(depth_with(90, 190), 10))
    still = movers.stillness(view(depth_with(100, 200), 12)).still
    assert share(still, BODY, slice(104, 196)) == 1.0


def test_what_has_stood_still_for_long_belongs_to_the_scene():
    views = [view(depth_with(100, 200, seed=t), t) for t in range(5, 40, 5)]
    movers = after(view(depth_with()), *views)
    late = REMEMBERED_NS // TENTH_NS + 40
    assert movers.stillness(view(depth_with(100, 200), late)).still is None


def test_without_a_pose_more_of_an_image_is_looked_at():
    near = depth_with()
    near[:, 205:] = 0.95  # a cupboard beside the gap
    now = near.copy()
    now[60:, 150:204] = PERSON_M
    exact = after(view(near)).stillness(view(now, 3)).still
    unsure = after(view(near)).stillness(view(now, 3, unseen_ns=3 * TENTH_NS)).still
    assert share(exact, BODY, slice(154, 190)) == 1.0
    assert unsure is None or share(unsure, BODY, slice(190, 204)) < 1.0
    assert after(view(near)).stillness(view(now, 3, unseen_ns=LONGEST_UNSEEN_NS + 1)).still is None


@pytest.mark.parametrize(
    ("moved", "tenths", "unsure"), [(True, 6, True), (False, 6, False), (True, 20, False)]
)
def test_what_moved_lately_may_fill_a_view_that_nothing_can_be_held_against(moved, tenths, unsure):
    """A hand before the lens: so near that a place that is unsure by centimetres tells nothing."""
    before = depth_with(100, 200) if moved else depth_with()
    movers = after(view(depth_with()), view(before, 5))
    covered = view(depth_with(0, 320, person_m=0.2), tenths, unseen_ns=3 * TENTH_NS)
    assert movers.stillness(covered).unsure is unsure


def test_another_chain_is_another_place():
    assert (
        after(view(depth_with(), chain=1)).stillness(view(depth_with(100, 200), 3, chain=2)).still
        is None
    )


def test_matches_of_it_are_dropped():
    still = np.ones((HEIGHT, WIDTH), bool)
    still[:, :100] = False
    px = np.array([[50.0, 9], [150, 9]])
    pairs = Correspondences(px[::-1].copy(), px, np.ones(2))
    assert only_used(pairs, None, still).keyframe_px.tolist() == [[150, 9]]
    assert only_used(pairs, None, None) is pairs


# ------------------------------------------------------------------------------------- a tracker


def cloth(seed, width):
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, width)), (0, 0), 2.0)
    return np.clip((fine - fine.mean()) * 5 + 128, 0, 255)


WALL, COAT = cloth(0, WIDTH + 200), cloth(1, 600)


def frame(number):
    """A camera walks along a wall, 2 px a frame; from frame 4 on somebody walks past, 8 px a frame,
    in front of all but a strip of it."""
    grey = WALL[:, 2 * number : 2 * number + WIDTH].copy()
    depth = depth_with(seed=number)
    if number >= 4:
        grey[40:, 70:] = COAT[40:, 8 * number : 8 * number + WIDTH - 70]
        depth[40:, 70:] = PERSON_M
    noise = np.random.default_rng(100 + number).normal(0, 1.5, grey.shape)
    grey = np.clip(np.rint(grey + noise), 0, 255).astype(np.uint8)
    return Frame(
        np.repeat(grey[..., None], 3, 2),
        CAMERA,
        depth.astype(np.float32),
        stamp_ns=number * TENTH_NS,
    )


def wrong_poses(leave_out_movers):
    tracker = Tracker(load_matcher("sift"), TrackerOptions(leave_out_movers=leave_out_movers))
    number_of = {}
    wrong, posed, said = 0, 0, set()
    for number in range(10):
        if number in (5, 7):  # as when the matches with the old keyframe run short
            tracker.set_keyframe()
        result = tracker.process(frame(number))
        number_of[number * TENTH_NS] = number
        said.add(result.remarks.get("moving"))
        if result.pose is None:
            continue
        apart = number - number_of[result.keyframe.frame.stamp_ns]
        truth_m = apart * 2 / F * WALL_M
        off = result.pose.keyframe_from_camera[:3, 3] - [truth_m, 0, 0]
        posed, wrong = posed + 1, wrong + (np.linalg.norm(off) > 0.02)
    return posed, wrong, said


def test_the_pose_is_the_cameras_and_not_that_of_a_person_close_by():
    posed, wrong, said = wrong_poses(leave_out_movers=True)
    assert wrong == 0 and posed >= 8
    assert any("moved into view" in words for words in said - {None})
    assert wrong_poses(leave_out_movers=False)[1] > 0


def test_depth_that_was_contradicted_is_not_asked_what_moves(monkeypatch):
    """Depth of another camera is nearer here and there in every keyframe."""
    monkeypatch.setattr(PoseChecks, "depth_doubted", property(lambda self: True))
    assert wrong_poses(leave_out_movers=True)[2] == {None}


def test_a_keyframe_without_depth_is_matched_whole():
    tracker = Tracker(load_matcher("sift"))
    tracker.process(replace(frame(0), depth=None))
    assert tracker.keyframe.still is None
