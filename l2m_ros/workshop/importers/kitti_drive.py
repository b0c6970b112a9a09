"""A drive of KITTI as recorded (DATE_drive_N_sync): image_00, image_01, oxts, and calib_*.txt.

The pose is that of the GPS and IMU (oxts), carried into the rectified left grey camera:

    world_from_camera = world_from_imu @ imu_from_velo @ velo_from_cam @ cam_from_rect

Its position jumps by up to 0.25 m where GPS corrects it, and the calibration between IMU and camera
is good to about half a degree: compare steps, and expect centimetres a metre.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text
from l2m_ros.geometry import se3
from l2m_ros.images import read_rgb
from l2m_ros.types import Camera, FloatArray, Frame
from l2m_ros.workshop.importers.dataset import Shot, needed

LEFT, RIGHT = "image_00", "image_01"
EARTH_RADIUS_M = 6378137.0


def shots(folder: Path) -> Iterator[Shot]:
    cameras = _numbers(_calibration(folder, "calib_cam_to_cam.txt"))
    P = [cameras[name].reshape(3, 4) for name in ("P_rect_00", "P_rect_01")]
    K, right_from_left = P[0][:, :3], np.eye(4)
    right_from_left[0, 3] = P[1][0, 3] / P[1][0, 0]
    rect_from_imu = (
        se3.transform(cameras["R_rect_00"].reshape(3, 3), np.zeros(3))
        @ _rigid(_calibration(folder, "calib_velo_to_cam.txt"))
        @ _rigid(_calibration(folder, "calib_imu_to_velo.txt"))
    )
    imu_from_rect = se3.inverse(se3.compose(rect_from_imu))
    stamps = read_text(needed(folder / LEFT / "timestamps.txt", "KITTI's stamps")).split("\n")
    first: FloatArray | None = None  # latitude, longitude, altitude
    for number, stamp in enumerate(line for line in stamps if line.strip()):
        name = f"{number:010d}"
        path = folder / LEFT / "data" / f"{name}.png"
        if not path.is_file():  # published drives have gaps
            continue
        rgb = read_rgb(path)
        camera = Camera(rgb.shape[1], rgb.shape[0], K)
        other, right = folder / RIGHT / "data" / f"{name}.png", {}
        if other.is_file():
            right = {
                "right_rgb": read_rgb(other),
                "right_camera": camera,
                "right_from_camera": right_from_left,
            }
        frame = Frame(rgb, camera, stamp_ns=_stamp_ns(stamp), **right)
        oxts, pose = folder / "oxts" / "data" / f"{name}.txt", None
        if oxts.is_file():
            world_from_imu, first = _imu(oxts, first)
            pose = se3.compose(world_from_imu, imu_from_rect)
        yield Shot(f"{name}.png", frame, pose)


def _calibration(folder: Path, name: str) -> Path:
    """Published apart from the drive, and unpacked into the folder of its date."""
    here = folder.resolve()
    for place in (here.parent, here):
        if (place / name).is_file():
            return place / name
    raise InvalidInput(f"{here.parent / name} is missing: KITTI publishes the calibration by date")


def _numbers(path: Path) -> dict[str, FloatArray]:
    """Lines `name: numbers`."""
    rows = (line.partition(":") for line in read_text(path).splitlines())
    return {
        name.strip(): np.array(values.split(), float)
        for name, _, values in rows
        if values.strip() and name.strip() != "calib_time"
    }


def _rigid(path: Path) -> FloatArray:
    rows = _numbers(path)
    return se3.transform(rows["R"].reshape(3, 3), rows["T"])


def _imu(path: Path, first: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """4x4 world_from_imu, x east, y north, z up from the first place; and that place."""
    row = np.array(read_text(path).split()[:6], float)
    first = row[:3] if first is None else first
    roll, pitch, yaw = row[3:]
    R = se3.rotation(np.array([0, 0, yaw])) @ se3.rotation(np.array([0, pitch, 0]))
    R = R @ se3.rotation(np.array([roll, 0, 0]))
    return se3.transform(R, _mercator_m(row[:3], first[0]) - _mercator_m(first, first[0])), first


def _mercator_m(place: FloatArray, latitude_of_scale: float) -> FloatArray:
    """Of latitude and longitude (degrees) and altitude, as KITTI's own tools have it."""
    latitude, longitude = np.radians(place[:2])
    scale_m = np.cos(np.radians(latitude_of_scale)) * EARTH_RADIUS_M
    north = np.log(np.tan(np.pi / 4 + latitude / 2))
    return np.array([scale_m * longitude, scale_m * north, place[2]])


def _stamp_ns(text: str) -> int:
    """Nanoseconds since 1970 of `2011-09-26 14:05:35.500923136`."""
    seconds, _, fraction = text.strip().partition(".")
    whole = np.datetime64(seconds.replace(" ", "T"), "s").astype(np.int64)
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))
