"""ScanNet-1500 and MegaDepth-1500: pictures, and a list of 1,500 pairs with their truth.

pairs_calibrated.txt, a pair a line: name_a name_b, K_a and K_b (9 numbers each, by rows), then the
pose b_from_a as 12 numbers (R by rows, t) or 16 (4x4). ScanNet's may also be in the layout of its
first publication: test.npz, intrinsics.npz, and scene*/color, scene*/pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_file, read_text
from l2m_ros.geometry import se3
from l2m_ros.images import read_arrays
from l2m_ros.types import FloatArray
from l2m_ros.workshop.importers.dataset import Dataset, TruePair, needed

LIST = "pairs_calibrated.txt"


def listed_pairs(folder: Path) -> Iterator[TruePair]:
    path = needed(folder / LIST, "a list of pairs with cameras and poses")
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in (32, 36):
            raise InvalidInput(f"{path}:{number}: 2 names and 30 or 34 numbers, not {len(fields)}")
        numbers = np.array(fields[2:], float)
        yield TruePair(
            _picture(folder, fields[0]),
            _picture(folder, fields[1]),
            numbers[:9].reshape(3, 3),
            numbers[9:18].reshape(3, 3),
            _pose(numbers[18:]),
        )


def scannet_pairs(folder: Path) -> Iterator[TruePair]:
    if (folder / LIST).is_file():
        yield from listed_pairs(folder)
        return
    names = _arrays(needed(folder / "test.npz", f"the list of pairs (or {LIST})"))["name"]
    intrinsics = _arrays(needed(folder / "intrinsics.npz", "K of every scene"))
    root = next((f for f in (folder / "scannet_test_1500", folder) if any(f.glob("scene*"))), None)
    if root is None:
        raise InvalidInput(f"{folder}: no folders scene*: unpack scannet_test_1500 there")
    for scene, part, a, b in names:
        name = f"scene{scene:04d}_{part:02d}"
        K = intrinsics[name].reshape(3, 3)
        pose_a, pose_b = (np.loadtxt(root / name / "pose" / f"{i}.txt") for i in (a, b))
        pictures = (root / name / "color" / f"{i}.jpg" for i in (a, b))
        world_from = se3.compose(pose_a), se3.compose(pose_b)
        yield TruePair(*pictures, K, K, se3.inverse(world_from[1]) @ world_from[0])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    return read_arrays(read_file(path))


def _picture(folder: Path, name: str) -> Path:
    for path in (folder / "images" / name, folder / name):
        if path.is_file():
            return path
    raise InvalidInput(f"{folder}: neither images/{name} nor {name} is there")


def _pose(numbers: FloatArray) -> FloatArray:
    if len(numbers) == 16:
        return se3.compose(numbers.reshape(4, 4))
    return se3.compose(se3.transform(numbers[:9].reshape(3, 3), numbers[9:]))


SCANNET = Dataset(
    published_at="http://www.scan-net.org (terms of use to be signed); the pairs: SuperGlue's",
    licence="ScanNet terms of use, research only",
    pairs=scannet_pairs,
)
MEGADEPTH = Dataset(
    published_at="https://www.cs.cornell.edu/projects/megadepth; the pairs: LoFTR's",
    licence="photographs of many owners, CC and others; research use",
    pairs=listed_pairs,
    metric=False,
)
