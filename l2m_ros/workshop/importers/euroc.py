"""EuRoC MAV (ASL layout): mav0/cam0, mav0/cam1, mav0/state_groundtruth_estimate0.

The two cameras are undistorted to their own K, not rectified as a pair: the right image is left
out of the frames, and each camera's pictures may be imported by themselves.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text
from l2m_ros.images import read_rgb
from l2m_ros.types import Camera, Frame
from l2m_ros.workshop.importers.dataset import Dataset, Path4x4, Shot, needed, pose_from
from l2m_ros.workshop.importers.undistort import undistorted

LARGEST_GAP_NS = 50_000_000


def shots(folder: Path) -> Iterator[Shot]:
    root = folder / "mav0" if (folder / "mav0").is_dir() else folder
    sensor = _sensor(root / "cam0" / "sensor.yaml")
    fu, fv, cu, cv = sensor["intrinsics"]
    K = np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]])
    D = np.array(sensor["distortion_coefficients"], float)
    body_from_camera = np.array(sensor["T_BS"]["data"], float).reshape(4, 4)
    truth = _truth(root / "state_groundtruth_estimate0" / "data.csv")
    for stamp, name in _rows(root / "cam0" / "data.csv"):
        rgb = undistorted(read_rgb(root / "cam0" / "data" / name.strip()), K, D)
        camera = Camera(rgb.shape[1], rgb.shape[0], K)
        body = truth.at(int(stamp))
        pose = None if body is None else body @ body_from_camera
        yield Shot(f"{stamp}.png", Frame(rgb, camera, stamp_ns=int(stamp)), pose)


def _sensor(path: Path) -> dict[str, Any]:
    import yaml

    sensor: dict[str, Any] = yaml.safe_load(read_text(needed(path, "EuRoC's calibration")))
    if sensor.get("distortion_model") not in ("radial-tangential", "radtan"):
        raise InvalidInput(f"{path}: distortion {sensor.get('distortion_model')!r} is not known")
    return sensor


def _truth(path: Path) -> Path4x4:
    """The body in the world: stamp, p x y z, q w x y z, ..."""
    stamps, poses = [], []
    for stamp, *values in _rows(path):
        x, y, z, qw, qx, qy, qz = (float(value) for value in values[:7])
        stamps.append(int(stamp))
        poses.append(pose_from([x, y, z, qx, qy, qz, qw], where=str(path)))
    return Path4x4(stamps, poses, LARGEST_GAP_NS)


def _rows(path: Path) -> list[list[str]]:
    lines = read_text(needed(path, "EuRoC has a CSV there")).splitlines()
    return [row for row in csv.reader(lines) if row and not row[0].startswith("#")]


DATASET = Dataset(
    published_at="https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets",
    licence="research use, ASL ETH Zurich",
    shots=shots,
)
