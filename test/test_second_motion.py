"""Things in view that move otherwise than the scene, and the mask of the robot's own parts."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.images import write_rgb
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.mask import of_size, only_used, read_mask, without
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import tracker_options
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.second_motion import LATELY_NS, TwoMotions, second_motion
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Correspondences, DenseMatch, Frame, LostReason, MetricPose

OTHER = (-0.15, 0.1, 0.05, -0.04, 0.12, 0.0)
WIDTH, HEIGHT = 320, 240
CAMERA = Camera(WIDTH, HEIGHT, np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]]))


def joined(*matches):
    return Correspondences(
        np.concatenate([m.query_px for m in matches]),
        np.concatenate([m.keyframe_px for m in matches]),
        np.concatenate([m.confidence for m in matches]),
    )


@pytest.mark.parametrize("depth", [True, False])
@pytest.mark.parametrize(
    "moving, outliers, share", [(0, 0.0, 0.0), (0, 0.3, 0.0), (60, 0.0, 0.0), (400, 0.1, 0.44)]
)
def test_a_second_motion_is_told_from_bad_matches(depth, moving, outliers, share):
    scene = trial(World("scene", matches=1000, outliers=outliers, keyframe_depth=depth), 0)
    thing = trial(World("thing", motion=OTHER, matches=max(moving, 1)), 1)
    matches = joined(scene.matches, thing.matches.select(np.arange(moving)))
    views = scene.query, scene.keyframe
    pose = estimate_pose(matches, *views)
    assert isinstance(pose, MetricPose) is depth

    def posed(part):
        return estimate_pose(part, *views)

    found = second_motion(pose, matches, *views, posed, 0.15)
    assert found == pytest.approx(share, abs=0.05)
    lost = TwoMotions().against(pose, matches, scene.query, found, 0.2)
    assert (lost is not None) is (share > 0.2)
    if lost is not None:
        assert lost.reason is LostReason.TWO_MOTIONS and "max_second_motion" in lost.detail


def test_what_noise_moves_aside_is_no_second_motion():
    """A wall whose matches on one side are off by a few pixels."""
    scene = trial(World("scene", matches=1000), 0)
    off = scene.matches.keyframe_px.copy()
    off[scene.matches.query_px[:, 0] > 460] += 3.0
    matches = replace(scene.matches, keyframe_px=np.clip(off, 0, 479))
    pose = estimate_pose(matches, scene.query, scene.keyframe)
    part = lambda some: estimate_pose(some, scene.query, scene.keyframe)  # noqa: E731
    assert second_motion(pose, matches, scene.query, scene.keyframe, part, 0.15) == 0.0


def test_where_two_motions_were_seen_a_pose_between_them_is_not_believed():
    still = trial(World("still", motion=(0.01, 0, 0, 0, 0, 0)), 0)
    moves = trial(World("moves"), 0)
    motions = TwoMotions()

    def against(seen, share, at_ns):
        pose = estimate_pose(seen.matches, seen.query, seen.keyframe)
        frame = replace(seen.query, stamp_ns=at_ns)
        return motions.against(pose, seen.matches, frame, share, 0.2)

    assert against(still, 0.0, 0) is None
    assert against(moves, 0.5, 1) is not None
    assert "between them" in against(still, 0.0, LATELY_NS // 2).detail
    assert against(moves, 0.0, LATELY_NS // 2) is None
    assert against(still, 0.0, LATELY_NS + 2) is None


# ------------------------------------------------------------------------ a part of the robot


@pytest.fixture(scope="module")
def wall():
    rng = np.random.default_rng(0)
    fine = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, WIDTH + 60)), (0, 0), 2.0)
    return np.clip((fine - fine.mean()) * 5 + 128, 0, 255)


PART = np.zeros((HEIGHT, WIDTH), bool)
PART[150:, 40:280] = True


def view(wall, shift_px, number):
    """Of a camera that moves along the wall, with a part of the robot that stays in view."""
    rng = np.random.default_rng(number)
    part = cv2.GaussianBlur(np.random.default_rng(9).uniform(0, 255, (HEIGHT, WIDTH)), (0, 0), 2.0)
    part = np.clip((part - part.mean()) * 5 + 100, 0, 255)
    grey = np.where(PART, part, wall[:, shift_px : shift_px + WIDTH])
    grey = np.clip(np.rint(grey + rng.normal(0, 1.5, grey.shape)), 0, 255).astype(np.uint8)
    depth = np.where(PART, 0.5, 2.0).astype(np.float32)
    depth *= 1 + 0.002 * rng.standard_normal(depth.shape)
    return Frame(np.repeat(grey[..., None], 3, 2), CAMERA, depth, stamp_ns=number * 100_000_000)


def tracked(wall, options):
    tracker = Tracker(load_matcher("sift"), options)
    tracker.process(view(wall, 0, 0))
    return tracker.process(view(wall, 20, 1))


def test_beside_a_part_of_the_robot_there_is_no_pose(wall):
    result = tracked(wall, TrackerOptions())
    assert result.outcome.reason is LostReason.TWO_MOTIONS
    unchecked = TrackerOptions(trust=replace(TrackerOptions().trust, max_second_motion=1e9))
    assert tracked(wall, unchecked).pose is not None


def test_the_mask_leaves_the_part_out(wall, tmp_path):
    write_rgb(
        tmp_path / "mask.png", np.repeat(np.where(PART, 0, 255)[..., None], 3, 2).astype(np.uint8)
    )
    values = parameter_values(None, {"tracking.mask": str(tmp_path / "mask.png")})
    result = tracked(wall, tracker_options(values))
    moved_m = result.pose.keyframe_from_camera[:3, 3]
    assert np.allclose(moved_m, [20 / 250 * 2.0, 0, 0], atol=0.01)
    assert result.keyframe is not None and len(result.pose.inliers) > 100


def test_a_mask_is_of_both_images():
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, :100] = False
    pairs = Correspondences(
        np.array([[50.0, 9], [150, 9], [150, 9]]),
        np.array([[150.0, 9], [50, 9], [150, 9]]),
        np.ones(3),
    )
    assert len(only_used(pairs, mask, mask)) == 1
    warp = np.stack(np.meshgrid(np.arange(160.0), np.arange(120.0)), -1) * 2 + 40
    dense = DenseMatch(warp, np.ones((120, 160)), (WIDTH, HEIGHT), (WIDTH, HEIGHT))
    used = only_used(dense, mask, mask).certainty
    assert not used[:, :50].any() and used[:60, 50:].all()
    half = of_size(mask[::2, ::2], (WIDTH, HEIGHT))  # of binned images
    assert np.array_equal(half, mask)


def test_a_picture_without_a_part_has_nothing_there_to_match(wall):
    frame = view(wall, 0, 0)
    plain = without(frame, ~PART)
    assert np.array_equal(plain.rgb[~PART], frame.rgb[~PART])
    assert np.isnan(plain.depth[PART]).all() and not np.isnan(plain.depth[~PART]).any()
    inside = cv2.erode(PART.astype(np.uint8), np.ones((21, 21))) > 0
    steps = np.abs(np.diff(plain.rgb[..., 0].astype(int), axis=1))
    before = np.abs(np.diff(frame.rgb[..., 0].astype(int), axis=1))
    assert 5 * steps[inside[:, 1:]].mean() < before[inside[:, 1:]].mean()
    assert without(frame, np.ones_like(PART)) is frame


def test_masks_that_cannot_be_used_are_refused(tmp_path):
    write_rgb(tmp_path / "black.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    with pytest.raises(InvalidInput, match="black everywhere"):
        read_mask(tmp_path / "black.png")
    with pytest.raises(InvalidInput, match=r"tracking\.mask is 100x100, but images are 320x240"):
        of_size(np.ones((100, 100), bool), (WIDTH, HEIGHT))
    with pytest.raises(InvalidInput, match=r"tracking\.mask: .*absent\.png"):
        tracker_options(parameter_values(None, {"tracking.mask": str(tmp_path / "absent.png")}))
