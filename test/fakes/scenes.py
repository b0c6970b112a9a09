"""Little evaluation scenes on disk whose truth is known in closed form."""

import functools
import json

import cv2
import numpy as np

from fakes.texture import texture, turned_view

WIDTH, HEIGHT = 320, 240
K = np.array([[260.0, 0, 158.0], [0, 262.0, 121.0], [0, 0, 1]])
DEPTH_SCALE = 0.0001
# A wall across the view at z = 4 and a panel in front of it: z = 2.5 for x < PANEL_EDGE.
WALL_M, PANEL_M, PANEL_EDGE_M = 4.0, 2.5, -0.1
PX_PER_M = 150.0


def pose(x=0.0, y=0.0, z=0.0, turn_deg=0.0):
    """world_from_camera: a turn about y, then a step."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.radians([0.0, turn_deg, 0.0]))[0]
    T[:3, 3] = x, y, z
    return T


PATH = [pose(), pose(0.2, 0.05, 0.1, 2), pose(-0.15, 0.1, -0.1, -3), pose(0.3, -0.1, 0.05, -4)]


def world_point(world_from_camera, px):
    """Where the rays of pixels meet the world, (N, 3) metres."""
    rays = np.column_stack([px, np.ones(len(px))]) @ np.linalg.inv(K).T
    rays = rays @ world_from_camera[:3, :3].T
    centre = world_from_camera[:3, 3]
    on_panel = centre + rays * ((PANEL_M - centre[2]) / rays[:, 2:])
    on_wall = centre + rays * ((WALL_M - centre[2]) / rays[:, 2:])
    return np.where(on_panel[:, :1] < PANEL_EDGE_M, on_panel, on_wall)


def seen(world_from_camera, points):
    """Pixels (N, 2) and depths (N,) of world points."""
    local = (points - world_from_camera[:3, 3]) @ world_from_camera[:3, :3]
    homogeneous = local @ K.T
    return homogeneous[:, :2] / homogeneous[:, 2:], local[:, 2]


@functools.lru_cache
def poster(seed):
    return texture(1000, 700, seed)


def render(world_from_camera):
    """(rgb, depth) of the wall and the panel, each with its own texture."""
    u, v = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    px = np.column_stack([u.ravel(), v.ravel()])
    points = world_point(world_from_camera, px)
    depth = seen(world_from_camera, points)[1].reshape(HEIGHT, WIDTH)
    place = (points[:, :2] * PX_PER_M + (500, 350)).astype(np.float32).reshape(HEIGHT, WIDTH, 2)
    wall, panel = (cv2.remap(poster(seed), place, None, cv2.INTER_LINEAR) for seed in (1, 2))
    in_front = (points[:, 2] < (WALL_M + PANEL_M) / 2).reshape(HEIGHT, WIDTH, 1)
    return np.where(in_front, panel, wall), depth


def write_relief(folder, path=PATH, with_depth=True):
    """Every pair of consecutive views of the path, and the first with the last."""
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    cameras = {}
    for i, world_from_camera in enumerate(path):
        rgb, depth = render(world_from_camera)
        name = f"{i:03d}.png"
        cv2.imwrite(str(folder / "images" / name), rgb[..., ::-1])
        if with_depth:
            value = np.rint(depth / DEPTH_SCALE).astype(np.uint16)
            cv2.imwrite(str(folder / "depth" / name), value)
        cameras[name] = {
            "width": WIDTH,
            "height": HEIGHT,
            "world_from_camera": world_from_camera.tolist(),
        }
    n = len(path)
    pairs = [
        {
            "a": f"{a:03d}.png",
            "b": f"{b:03d}.png",
            "T_b_a": (np.linalg.inv(path[b]) @ path[a]).tolist(),
            "metric": True,
        }
        for a, b in [*((i, i + 1) for i in range(n - 1)), (0, n - 1)]
    ]
    meta = {"K": K.tolist(), "cameras": cameras, "metric": True, "depth_scale": DEPTH_SCALE}
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return folder


def write_planar(folder):
    """Two views of a picture and the homographies back into it."""
    (folder / "images").mkdir(parents=True)
    picture = texture(400, 300)
    pairs = []
    cv2.imwrite(str(folder / "images/whole.png"), picture[..., ::-1])
    for degrees in (8, 20):
        view, whole_from_view = turned_view(picture, degrees)
        cv2.imwrite(str(folder / f"images/{degrees}.png"), view[..., ::-1])
        pairs.append({"a": f"{degrees}.png", "b": "whole.png", "H_b_a": whole_from_view.tolist()})
    (folder / "meta.json").write_text(json.dumps({"cameras": {}}))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return folder
