"""EuRoC MAV (ASL layout): mav0/cam0, mav0/cam1, mav0/state_groundtruth_estimate0.

With cam1 there, both pictures are rectified as a stereo pair and poses are the rectified left
camera's. Without it, cam0 is undistorted to its own K.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text
from l2m_ros.geometry import se3
from l2m_ros.geometry.rectification import rectifying_maps
from l2m_ros.images import read_rgb
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame
from l2m_ros.workshop.importers.dataset import Dataset, Path4x4, Shot, needed, pose_from
from l2m_ros.workshop.importers.undistort import undistorted

LARGEST_GAP_NS = 50_000_000


@dataclass(frozen=True, eq=False)
class Sensor:
    """One camera's sensor.yaml."""

    camera: Camera
    body_from_camera: FloatArray  # 4x4


@dataclass(frozen=True, eq=False)
class Pair:
    """How two cameras become one rectified pair."""

    left: Sensor
    right: Sensor
    turns: tuple[FloatArray, FloatArray]  # 3x3: rectified camera <- camera
    camera: Camera  # both, rectified
    right_from_left: FloatArray  # 4x4, rectified

    def images(self, left: ByteArray, right: ByteArray) -> tuple[ByteArray, ByteArray]:
        return self._turned(left, self.left, 0), self._turned(right, self.right, 1)

    def body_from_camera(self) -> FloatArray:
        """Of the rectified left camera."""
        turned: FloatArray = self.left.body_from_camera.copy()
        turned[:3, :3] = turned[:3, :3] @ self.turns[0].T
        return turned

    def _turned(self, image: ByteArray, sensor: Sensor, side: int) -> ByteArray:
        maps = rectifying_maps(sensor.camera, self.turns[side], self.camera)
        return np.asarray(cv2.remap(image, *maps, cv2.INTER_LINEAR), np.uint8)


def shots(folder: Path) -> Iterator[Shot]:
    root = folder / "mav0" if (folder / "mav0").is_dir() else folder
    left = _sensor(root / "cam0" / "sensor.yaml")
    right_file = root / "cam1" / "sensor.yaml"
    pair = _rectified(left, _sensor(right_file)) if right_file.is_file() else None
    body_from_camera = left.body_from_camera if pair is None else pair.body_from_camera()
    truth = _truth(root / "state_groundtruth_estimate0" / "data.csv")
    for stamp, name in _rows(root / "cam0" / "data.csv"):
        rgb = read_rgb(root / "cam0" / "data" / name.strip())
        right = root / "cam1" / "data" / name.strip()
        body = truth.at(int(stamp))
        pose = None if body is None else body @ body_from_camera
        yield Shot(f"{stamp}.png", _frame(int(stamp), rgb, left, pair, right), pose)


def _frame(stamp_ns: int, rgb: ByteArray, left: Sensor, pair: Pair | None, right: Path) -> Frame:
    if pair is None:
        camera = left.camera
        return Frame(undistorted(rgb, camera.K, camera.D), camera.pinhole(), stamp_ns=stamp_ns)
    if not right.is_file():  # the left one as it is beside the others
        return Frame(pair.images(rgb, rgb)[0], pair.camera, stamp_ns=stamp_ns)
    images = pair.images(rgb, read_rgb(right))
    return Frame(
        images[0],
        pair.camera,
        stamp_ns=stamp_ns,
        right_rgb=images[1],
        right_camera=pair.camera,
        right_from_camera=pair.right_from_left,
    )


def _rectified(left: Sensor, right: Sensor) -> Pair:
    right_from_left = se3.inverse(right.body_from_camera) @ left.body_from_camera
    R0, R1, P0, P1, *_ = cv2.stereoRectify(
        left.camera.K, left.camera.D, right.camera.K, right.camera.D, left.camera.size,
        right_from_left[:3, :3], right_from_left[:3, 3], flags=cv2.CALIB_ZERO_DISPARITY, alpha=0,
    )  # fmt: skip
    camera = Camera(left.camera.width, left.camera.height, P0[:, :3])
    baseline = np.eye(4)
    baseline[0, 3] = P1[0, 3] / P1[0, 0]
    if not baseline[0, 3] < 0:
        raise InvalidInput("cam1 is not to the right of cam0: take mav0/cam1 away to import cam0")
    return Pair(left, right, (R0, R1), camera, baseline)


def _sensor(path: Path) -> Sensor:
    import yaml

    text = read_text(needed(path, "EuRoC's calibration"))
    if text.startswith("%YAML:"):  # as OpenCV writes it; YAML itself has no colon there
        text = text.partition("\n")[2]
    try:
        sensor: dict[str, Any] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path} is no YAML: {error}") from error
    if sensor.get("distortion_model") not in ("radial-tangential", "radtan"):
        raise InvalidInput(f"{path}: distortion {sensor.get('distortion_model')!r} is not known")
    fu, fv, cu, cv = sensor["intrinsics"]
    K = np.array([[fu, 0, cu], [0, fv, cv], [0, 0, 1]])
    D = np.array(sensor["distortion_coefficients"], float)
    width, height = sensor["resolution"]
    body_from_camera = np.array(sensor["T_BS"]["data"], float).reshape(4, 4)
    return Sensor(Camera(width, height, K, "plumb_bob", D), se3.compose(body_from_camera))


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
