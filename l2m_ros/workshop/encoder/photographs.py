"""What the encoder learns from: photographs by name, and rendered frames with their depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.depth import Lifted, from_depth
from l2m_ros.workshop.lifting.photographs import read_photograph


@dataclass(frozen=True, eq=False)
class Photograph:
    """A file, or an image in memory; `name` is what a source of depth knows it by."""

    name: str
    image: Path | ByteArray

    def rgb(self, longest_px: int) -> ByteArray:
        """(h, w, 3), the longest side at most `longest_px`."""
        if isinstance(self.image, Path):
            return read_photograph(self.image, longest_px)
        height, width = self.image.shape[:2]
        scale = min(1.0, longest_px / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small: ByteArray = cv2.resize(self.image, size, interpolation=cv2.INTER_AREA)
        return small


def photographs_of(folder: Path, paths: Sequence[Path]) -> list[Photograph]:
    """Named by their paths under the folder, as `l2m lift` names them."""
    root = folder if folder.is_dir() else folder.parent
    return [Photograph(str(path.relative_to(root)), path) for path in paths]


@dataclass(frozen=True, eq=False)
class KnownDepth:
    """Depth in memory by the photograph's name: of rendered worlds."""

    depths: dict[str, FloatArray]  # (h, w), NaN or 0 = unknown

    def lift(self, rgb: ByteArray, name: str, K: FloatArray, rng: np.random.Generator) -> Lifted:
        if name not in self.depths:
            raise InvalidInput(f"{name}: has no depth")
        depth, size = self.depths[name], rgb.shape[1::-1]
        depth = cv2.resize(depth.astype(np.float32), size, interpolation=cv2.INTER_NEAREST_EXACT)
        return from_depth(np.nan_to_num(depth), name)
