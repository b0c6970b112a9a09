"""A strong matcher as teacher: which pairs of real photographs it matches, verified."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.images import write_rgb
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.types import Features, Reference
from l2m_ros.workshop.lifting.photographs import read_photograph
from l2m_ros.workshop.training.taught_pairs import LISTING

KEPT = 64  # photographs whose features are remembered
AGREE_PX = 1.5  # from the epipolar line


def pairs_to_try(
    photographs: Sequence[Path], most: int, rng: np.random.Generator
) -> list[tuple[Path, Path]]:
    """At most `most` random pairs of every folder, each place's in the order of the first."""
    places: dict[Path, list[Path]] = {}
    for path in photographs:
        places.setdefault(path.parent, []).append(path)
    chosen = []
    for paths in places.values():
        # Pair number i of all pairs (a, b), a < b: 100,000 photographs have 5 billion.
        total = len(paths) * (len(paths) - 1) // 2
        numbers = np.sort(rng.choice(total, min(most, total), replace=False))
        ends = np.cumsum(np.arange(len(paths) - 1, 0, -1))  # how many pairs begin with 0 .. a
        for number in numbers:
            a = int(np.searchsorted(ends, number, side="right"))
            b = len(paths) - int(ends[a] - number)
            chosen.append((paths[a], paths[b]))
    return chosen


def taught(
    teacher: Matcher,
    pairs: Sequence[tuple[Path, Path]],
    longest_side: int,
    report: Callable[[str], None],
) -> Iterator[npt.NDArray[np.float32]]:
    """Of each pair the matches (N, 4), a's pixel before b's, that one geometry explains; none where
    a photograph is damaged, which is reported: it must not cost the pairs before it.
    """
    damaged: set[str] = set()

    @lru_cache(maxsize=KEPT)
    def encoded(path: Path) -> Features:
        return teacher.encode(read_photograph(path, longest_side))

    @lru_cache(maxsize=KEPT)
    def reference(path: Path) -> Reference:
        return teacher.reference(encoded(path))

    for a, b in pairs:
        try:
            yield agreed(teacher.match(encoded(a), reference(b)))
        except InvalidInput as error:
            if str(error) not in damaged:
                damaged.add(str(error))
                report(f"left out: {error}")
            yield np.zeros((0, 4), np.float32)


def agreed(match: Match) -> npt.NDArray[np.float32]:
    """(N, 4) matches, the query's pixel first, near one epipolar geometry; none under 8."""
    pairs = correspondences(match)
    both = np.hstack([pairs.query_px, pairs.keyframe_px]).astype(np.float32)
    if len(both) < 8:
        return both[:0]
    cv2.setRNGSeed(0)
    F, inlying = cv2.findFundamentalMat(
        both[:, :2], both[:, 2:], cv2.USAC_MAGSAC, AGREE_PX, 0.9999, 10_000
    )
    return both[:0] if F is None else both[inlying.ravel() > 0]


class TaughtWriter:
    """A folder as `TaughtPairs` reads it: images, matches and their listing."""

    def __init__(self, folder: Path, longest_side: int) -> None:
        self.folder, self.longest_side = folder, longest_side
        self._names: dict[Path, str] = {}
        self._pairs: list[dict[str, str]] = []
        for name in ("images", "matches"):
            (folder / name).mkdir(parents=True)

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, a: Path, b: Path, matches: npt.NDArray[np.float32]) -> None:
        name = f"{len(self._pairs):05d}.npy"
        np.save(self.folder / "matches" / name, matches)
        self._pairs.append({"a": self._image(a), "b": self._image(b), "matches": name})

    def finish(self, teacher: str) -> None:
        listing = {"teacher": teacher, "pairs": self._pairs}
        text = json.dumps(listing, indent=1) + "\n"
        (self.folder / LISTING).write_text(text, encoding="utf-8")

    def _image(self, path: Path) -> str:
        if path not in self._names:
            self._names[path] = f"{len(self._names):05d}.png"
            stored = self.folder / "images" / self._names[path]
            write_rgb(stored, read_photograph(path, self.longest_side))
        return self._names[path]
