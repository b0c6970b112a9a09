"""KITTI, rectified grey stereo: a sequence of the odometry benchmark, or a drive as recorded.

    sequences/NN            image_0, image_1, calib.txt, times.txt; poses in ../../poses/NN.txt
    DATE/DATE_drive_N_sync  image_00, image_01, oxts; ../calib_*.txt (`kitti_drive.py`)

poses/NN.txt holds the left grey camera (P0) in the world.
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
from l2m_ros.workshop.importers import kitti_drive
from l2m_ros.workshop.importers.dataset import Dataset, Shot, needed


def shots(folder: Path) -> Iterator[Shot]:
    if (folder / kitti_drive.LEFT).is_dir():
        return kitti_drive.shots(folder)
    return _of_sequence(folder)


def _of_sequence(folder: Path) -> Iterator[Shot]:
    P = _projections(needed(folder / "calib.txt", "KITTI's projection matrices"))
    times = np.atleast_1d(np.loadtxt(needed(folder / "times.txt", "KITTI's stamps, seconds")))
    poses = _poses(folder)
    K = P["P0"][:, :3]
    right_from_left = np.eye(4)
    right_from_left[0, 3] = P["P1"][0, 3] / P["P1"][0, 0]
    for number, seconds in enumerate(times):
        name = f"{number:06d}.png"
        rgb = read_rgb(needed(folder / "image_0" / name, "the left grey picture"))
        camera = Camera(rgb.shape[1], rgb.shape[0], K)
        right_path, right = folder / "image_1" / name, {}
        if right_path.is_file():
            right = {
                "right_rgb": read_rgb(right_path),
                "right_camera": camera,
                "right_from_camera": right_from_left,
            }
        frame = Frame(rgb, camera, stamp_ns=1 + round(float(seconds) * 1e9), **right)
        yield Shot(name, frame, poses[number] if poses is not None else None)


def _projections(path: Path) -> dict[str, FloatArray]:
    """3x4 by name."""
    found = {}
    for line in read_text(path).splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() in ("P0", "P1"):
            found[name.strip()] = np.array(numbers.split(), float).reshape(3, 4)
    if set(found) != {"P0", "P1"}:
        raise InvalidInput(f"{path}: no lines P0: and P1: of 12 numbers each")
    return found


def _poses(folder: Path) -> FloatArray | None:
    """(N, 4, 4), or None for the sequences whose truth is not published (11 to 21)."""
    here = folder.resolve()
    path = here.parent.parent / "poses" / f"{here.name}.txt"
    if not path.is_file():
        return None
    rows = np.loadtxt(path).reshape(-1, 3, 4)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows
    # Written with about seven digits: made orthogonal again.
    return np.stack([se3.compose(T) for T in poses])


DATASET = Dataset(
    published_at="https://www.cvlibs.net/datasets/kitti/eval_odometry.php",
    licence="CC BY-NC-SA 3.0",
    shots=shots,
    gaps=(1, 2, 5),
)
