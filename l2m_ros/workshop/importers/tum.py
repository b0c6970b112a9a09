"""TUM RGB-D: rgb.txt, depth.txt, groundtruth.txt (the colour camera in the world), 16-bit depth.

A recording without groundtruth.txt makes a bag, but no pairs to evaluate.

Intrinsics are those in calibration.txt, as ETH3D and other recordings of this layout have it: one
line `fx fy cx cy`, or `fx fy cx cy k1 k2 p1 p2 [k3]`. Without it they are those that the publishers
give for freiburg1, 2 and 3, chosen by the folder's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text
from l2m_ros.images import read_depth, read_rgb
from l2m_ros.types import Camera, FloatArray, Frame
from l2m_ros.workshop.importers.dataset import Dataset, Path4x4, Shot, needed, pose_from
from l2m_ros.workshop.importers.undistort import undistorted, undistorted_depth

DEPTH_SCALE_M = 1 / 5000
LARGEST_DIFFERENCE_S = 0.02  # between a colour and a depth picture, as the publishers' tool has it
LARGEST_GAP_NS = 100_000_000  # of the ground truth
CALIBRATION, NUMBERS = "calibration.txt", "fx fy cx cy [k1 k2 p1 p2 [k3]]"
CAMERAS = {  # fx fy cx cy, k1 k2 p1 p2 k3
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), (0.0, 0.0, 0.0, 0.0, 0.0)),
}


def shots(folder: Path) -> Iterator[Shot]:
    K, D = _camera(folder)
    truth = _truth(folder)
    depths = _listed(folder, "depth.txt")
    depth_stamps = np.array([stamp for stamp, _ in depths])
    for stamp_s, name in _listed(folder, "rgb.txt"):
        stamp_ns = round(stamp_s * 1e9)
        nearest = int(np.argmin(np.abs(depth_stamps - stamp_s)))
        depth, late_s = None, 0.0
        if abs(depth_stamps[nearest] - stamp_s) <= LARGEST_DIFFERENCE_S:
            depth = read_depth(folder / depths[nearest][1], DEPTH_SCALE_M)
            depth = undistorted_depth(depth, K, D)
            late_s = float(depth_stamps[nearest]) - stamp_s
        rgb = undistorted(read_rgb(folder / name), K, D)
        camera = Camera(rgb.shape[1], rgb.shape[0], K)
        frame = Frame(rgb, camera, depth, stamp_ns=stamp_ns, depth_late_s=late_s)
        yield Shot(f"{stamp_ns}.png", frame, truth.at(stamp_ns))


def _camera(folder: Path) -> tuple[FloatArray, FloatArray]:
    own = folder / CALIBRATION
    if own.is_file():
        numbers = [float(word) for row in _rows(own) for word in row]
        if len(numbers) not in (4, 8, 9):
            raise InvalidInput(f"{own}: expected {NUMBERS}, got {len(numbers)} numbers")
        return _matrix(*numbers[:4]), np.array(numbers[4:] or [0.0] * 5)
    for name, (numbers4, D) in CAMERAS.items():
        if name in folder.resolve().name:
            return _matrix(*numbers4), np.array(D)
    raise InvalidInput(
        f"{folder}: its name holds none of {', '.join(CAMERAS)}, so which camera is it? "
        f"Write {NUMBERS} into {own}"
    )


def _matrix(fx: float, fy: float, cx: float, cy: float) -> FloatArray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _listed(folder: Path, name: str) -> list[tuple[float, str]]:
    rows = _rows(needed(folder / name, "TUM lists a sequence's pictures there"))
    return [(float(stamp), path) for stamp, path, *_ in rows]


def _truth(folder: Path) -> Path4x4:
    """No pose is known without its file: a recording of one's own still makes a bag to replay."""
    path = folder / "groundtruth.txt"
    stamps, poses = [], []
    for stamp, *values in _rows(path) if path.is_file() else []:
        stamps.append(round(float(stamp) * 1e9))
        poses.append(pose_from([float(v) for v in values], where=str(path)))
    return Path4x4(stamps, poses, LARGEST_GAP_NS)


def _rows(path: Path) -> list[list[str]]:
    lines = read_text(path).splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


DATASET = Dataset(
    published_at="https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
    licence="CC BY 4.0",
    shots=shots,
    depth_scale_m=DEPTH_SCALE_M,
)
