"""7-Scenes: seq-NN/frame-000000.color.png, .depth.png (mm, 65535 = unknown), .pose.txt.

Poses are those of the depth camera (KinectFusion), and no calibration between colour and depth is
published with them. Both are taken as one camera here: colour with a focal length of 525 px, the
depth resampled from its 585 px. The cameras are 2.5 cm apart, so errors below that mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.images import read_grey16, read_rgb
from l2m_ros.types import Camera, FloatArray, Frame
from l2m_ros.workshop.importers.dataset import Dataset, Shot, needed

COLOUR_K = np.array([[525.0, 0, 320.0], [0, 525.0, 240.0], [0, 0, 1]])
DEPTH_FOCAL_PX = 585.0
UNKNOWN = 65535
PERIOD_NS = 33_333_333
DEPTH_SCALE_M = 0.001


def shots(folder: Path) -> Iterator[Shot]:
    pictures = sorted(folder.glob("frame-*.color.png"))
    if not pictures:
        raise InvalidInput(f"{folder}: no frame-*.color.png: name one sequence, as chess/seq-01")
    for number, path in enumerate(pictures):
        stem = path.name.removesuffix(".color.png")
        pose = np.loadtxt(needed(folder / f"{stem}.pose.txt", "the camera in the world, 4x4"))
        rgb = read_rgb(path)
        depth_path = folder / f"{stem}.depth.png"
        depth = _depth(depth_path) if depth_path.is_file() else None
        camera = Camera(rgb.shape[1], rgb.shape[0], COLOUR_K)
        frame = Frame(rgb, camera, depth, stamp_ns=(number + 1) * PERIOD_NS)
        yield Shot(f"{stem}.png", frame, se3.compose(pose))


def _depth(path: Path) -> FloatArray:
    """The depth picture at the colour camera's focal length, about the same centre."""
    raw = read_grey16(path)
    known = (raw != 0) & (raw != UNKNOWN)
    depth = np.where(known, raw * np.float32(DEPTH_SCALE_M), np.nan).astype(np.float32)
    rows, columns = np.indices(depth.shape)
    scale = DEPTH_FOCAL_PX / COLOUR_K[0, 0]
    u = np.rint((columns - COLOUR_K[0, 2]) * scale + COLOUR_K[0, 2]).astype(int)
    v = np.rint((rows - COLOUR_K[1, 2]) * scale + COLOUR_K[1, 2]).astype(int)
    inside = (u >= 0) & (v >= 0) & (u < depth.shape[1]) & (v < depth.shape[0])
    out = np.full(depth.shape, np.nan, np.float32)
    out[inside] = depth[v[inside], u[inside]]
    return out


DATASET = Dataset(
    published_at="https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    licence="non-commercial research (Microsoft)",
    shots=shots,
    depth_scale_m=DEPTH_SCALE_M,
    notes="colour and depth are taken as one camera: 2.5 cm apart in truth",
)
