"""Labels between two views, and the errors of chains of them, against closed forms."""

import numpy as np
import pytest
from gaussian_box import HEIGHT, WIDTH, K, box_depth, looking, view

from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.check import ReadOff, _chained, symmetric_epipolar
from l2m_ros.workshop.gaussians.labels import at_jump, depth_at, label_between, seen_by


def test_labels_of_exact_depth_are_exact():
    """Warp against the closed form; nothing hidden is called visible."""
    pose_a, pose_b = looking(1), looking(9)
    depth_a, points = box_depth(pose_a)
    depth_b, _ = box_depth(pose_b)
    labels = label_between(depth_a, view(pose_a), depth_b, view(pose_b))
    in_b = (points - pose_b[:3, 3]) @ pose_b[:3, :3]
    want = (in_b / in_b[..., 2:]) @ K.T
    assert labels.visible.mean() > 0.3
    off = np.abs(labels.warp_px - want[..., :2])[labels.visible]
    assert off.max() < 1e-3
    # Ray from b: visible points are the first thing on it.
    centre, direction = pose_b[:3, 3], points - pose_b[:3, 3]
    at_front = centre + direction * ((2.0 - centre[2]) / direction[..., 2])[..., None]
    behind = (np.abs(at_front[..., :2]) < 0.49).all(-1) & (points[..., 2] > 2.5)
    assert behind.any()
    assert not (labels.visible & behind).any()
    sure = behind & ~labels.unknown & ~labels.visible
    assert sure.sum() > 0.3 * behind.sum()


def test_what_others_see_is_in_their_frame_and_not_behind_something():
    poses = looking(6), looking(0), looking(11)
    depths, views = [box_depth(pose)[0] for pose in poses], [view(pose) for pose in poses]
    points = box_depth(poses[0])[1]
    wants, clear = [], np.ones(depths[0].shape, bool)
    for pose in poses[1:]:
        in_b = (points - pose[:3, 3]) @ pose[:3, :3]
        px = (in_b / in_b[..., 2:] @ K.T)[..., :2]
        inside = (px >= 0).all(-1) & (px <= (WIDTH - 1, HEIGHT - 1)).all(-1)
        ahead = points - pose[:3, 3]
        on_square = pose[:3, 3] + ahead * ((2.0 - pose[2, 3]) / ahead[..., 2])[..., None]
        beside = np.abs(on_square[..., :2]).max(-1) - 0.5
        wants.append(inside & ~((points[..., 2] > 2.5) & (beside < 0)))
        clear &= np.abs(beside) > 0.1  # two pixels: between the two surfaces there is no depth
    for which in ([0], [1], [0, 1]):
        others = [(depths[i + 1], views[i + 1]) for i in which]
        seen = seen_by(depths[0], views[0], others)
        want = np.logical_or.reduce([wants[i] for i in which])
        assert np.array_equal(seen[clear], want[clear])
        assert 0.3 < seen[clear].mean() < 1
    hole = np.where(np.arange(WIDTH) < 20, np.nan, depths[0])
    assert not seen_by(hole, views[0], others)[:, :20].any()
    assert not seen_by(depths[0], views[0], []).any()


def test_depth_between_pixels_is_exact_on_planes_and_absent_at_jumps():
    pose = looking(3)
    depth, _ = box_depth(pose)
    px = np.array([[3.3, 4.7], [60.2, 40.1]])
    rays = np.c_[px, np.ones(2)] @ np.linalg.inv(K).T @ pose[:3, :3].T
    assert np.allclose(depth_at(depth, px), (3.0 - pose[2, 3]) / rays[:, 2], rtol=1e-9)
    edge = np.argwhere(np.abs(np.diff(depth, axis=1)) > 0.5)[0]
    assert depth_at(depth, np.array([[edge[1] + 0.5, edge[0]]]))[0] == 0
    assert at_jump(depth)[edge[0], edge[1]]
    assert at_jump(depth).mean() < 0.3


def test_epipolar_error_is_that_of_the_closed_form():
    """One pixel off the line of a pure sideways motion: 2 (1/f)^2 both ways together."""
    a, other = view(np.eye(4)), np.eye(4)
    other[0, 3] = 1.0
    ray = np.array([[0.1, 0.2, 1.0]])
    on_line, off = ray - [[0.4, 0, 0]], ray - [[0.4, 0.02, 0]]
    assert symmetric_epipolar(ray, on_line, a, view(other))[0] < 1e-20
    assert symmetric_epipolar(ray, off, a, view(other))[0] == pytest.approx(2 * 0.02**2)


def test_cameras_on_a_line_hide_wrong_depth_from_the_epipolar_error_not_from_the_cycle_error():
    """A wall at 3; the middle one of three cameras in a row takes it for 0.5 % farther."""
    poses = [np.eye(4) for _ in range(3)]
    for i, pose in enumerate(poses):
        pose[0, 3] = 0.3 * i
    a, middle, c = (Capture("", np.zeros(0), view(pose), None) for pose in poses)
    wall = np.full((HEIGHT, WIDTH), 3.0)
    depths = [ReadOff(depth, wall > 0) for depth in (1.005 * wall, wall, wall)]
    to_middle = label_between(wall, a.view, 1.005 * wall, middle.view)
    epipolar, cycle = _chained(to_middle, depths, 0, a, middle, c)
    assert len(cycle) > 1000 and epipolar.max() < 1e-18
    assert np.allclose(cycle, (0.3 * (1 / 3 - 1 / 3.015)) ** 2)
