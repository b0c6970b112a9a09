"""A contact sheet of lifted pairs for people: two views, lines between visible pixels, masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.types import ByteArray
from l2m_ros.workshop.lifting.shards import Sample, pixels, read_shard

LINES = 14
HIDDEN_TINT = np.array([40, 40, 40])  # of b: not visible
UNKNOWN_TINT = np.array([220, 60, 220])  # of b: without a verdict


def samples_of(folder: Path) -> Iterator[Sample]:
    """Every sample of a folder of shards, in order."""
    for path in sorted(folder.glob("shard-*.tar")):
        yield from read_shard(path)


def contact_sheet(samples: Iterable[Sample], count: int = 12, columns: int = 2) -> ByteArray:
    """The first `count` pairs; each is view 0, view 1, and view 1 warped onto view 0."""
    tiles = [pair_picture(sample) for sample in islice(samples, count)]
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], 255))
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


def pair_picture(sample: Sample) -> ByteArray:
    """(H, 3 W, 3): lines join a spread of visible pixels with their places in the other view."""
    a, b = sample.images["view0"], sample.images["view1"]
    warp, visible = pixels(sample.arrays["warp_0_1"]), sample.arrays["visible_0_1"]
    warped = cv2.remap(b, warp, None, cv2.INTER_LINEAR)
    warped[~visible] = HIDDEN_TINT
    warped[sample.arrays["unknown_0_1"]] = UNKNOWN_TINT
    picture = np.ascontiguousarray(np.hstack([a, b, warped]))
    v, u = np.nonzero(visible)
    rng = np.random.default_rng(len(u))
    for k in rng.permutation(len(u))[:LINES]:
        start, end = (int(u[k]), int(v[k])), warp[v[k], u[k]] + [a.shape[1], 0]
        colour = [int(c) for c in rng.integers(60, 256, 3)]
        end_px = (round(float(end[0])), round(float(end[1])))
        cv2.line(picture, start, end_px, colour, 1, cv2.LINE_AA)
        for point in (start, end_px):
            cv2.circle(picture, point, 2, colour, -1, cv2.LINE_AA)
    return picture
