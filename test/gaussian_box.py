"""A wall with a box in front: exact depth and colours of any view, for the tests of Gaussians."""

import math

import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.model import PosedCamera

WIDTH, HEIGHT, VIEWS = 64, 48, 12
K = np.array([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]])


def looking(index, views=VIEWS):
    """world_from_camera: along a shallow arc before a wall at z = 3 with a box in front."""
    pose = np.eye(4)
    share = index / (views - 1) - 0.5
    pose[:3, :3] = Rotation.from_euler("y", -20 * share, degrees=True).as_matrix()
    pose[:3, 3] = 1.2 * share, 0.25 * math.sin(3 * index), 0.0
    return pose


def box_depth(pose):
    """(H, W) exact depth of the wall z = 3 and the square |x|, |y| < 0.5 at z = 2."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T
    world = rays @ pose[:3, :3].T
    wall = (3.0 - pose[2, 3]) / world[..., 2]
    front = (2.0 - pose[2, 3]) / world[..., 2]
    at = pose[:3, 3] + world * front[..., None]
    hit = (np.abs(at[..., :2]) < 0.5).all(-1)
    depth = np.where(hit, front, wall)
    return depth, pose[:3, 3] + world * depth[..., None]


def painted(points):
    """Smooth colours of the place, so that a few Gaussians can show them."""
    waves = [np.sin(3 * points[..., 0] + 2 * k) * np.cos(2 * points[..., 1] - k) for k in range(3)]
    return ((np.stack(waves, -1) * 0.4 + 0.5) * 255).astype(np.uint8)


def view(pose):
    return PosedCamera(Camera(WIDTH, HEIGHT, K), np.linalg.inv(pose))
