"""Small map keyframes for tests of the store."""

import numpy as np

from l2m_ros.mapping import codec
from l2m_ros.mapping.records import MapKeyframe, StoredCells, StoredFeatures
from l2m_ros.types import Camera

WIDTH, HEIGHT = 64, 48
CAMERA = Camera(WIDTH, HEIGHT, np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]))


def map_keyframe(seed=0, **values):
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    depth = rng.uniform(0.5, 3.0, (HEIGHT, WIDTH)).astype(np.float32)
    depth[:5] = np.nan
    given = {"image": codec.encode_image(rgb), "depth": codec.encode_depth(depth, 0.001)}
    return MapKeyframe(0, 10 + seed, CAMERA, **{**given, **values})


def features(seed=0, model="toy", checksum="abc"):
    rng = np.random.default_rng(seed)
    arrays = {"coarse": rng.normal(size=(1, 8, 6, 8)).astype(np.float32)}
    return StoredFeatures(model, checksum, (WIDTH, HEIGHT), arrays)


def stored_cells(seed=0, model="toy", checksum="abc"):
    grid = np.random.default_rng(seed).normal(size=(6, 8, 16)).astype(np.float32)
    return StoredCells(model, checksum, grid / np.linalg.norm(grid, axis=2, keepdims=True))
