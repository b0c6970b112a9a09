"""The compiled patches against those of NumPy and cv2.remap."""

import cv2
import numpy as np
import pytest

from l2m_ros import compiled
from l2m_ros.matching.subpixel import SubpixelOptions, refined
from l2m_ros.types import Correspondences

pytest.importorskip("numba")


def picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_pairs_are_refined_as_by_numpy(scale):
    rng = np.random.default_rng(1)
    query = picture(0)
    matrix = scale * np.array([[0.98, 0.1], [-0.08, 1.02]])
    affine = np.column_stack([matrix, [1.3, -0.4]])
    keyframe = cv2.warpAffine(query, affine, (int(120 * scale), int(90 * scale)))
    at = rng.uniform(-3, [123, 93], (300, 2))  # those off the image and on its border, too
    there = at @ matrix.T + affine[:, 2] + rng.normal(0, 0.7, at.shape)
    pairs = Correspondences(at, there, np.ones(300), np.tile(np.eye(2), (300, 1, 1)))
    jacobian = np.tile(matrix, (300, 1, 1))
    jacobian[:10] = np.eye(2)
    fast, _ = refined(pairs, jacobian, query, keyframe)
    with compiled.left_out():
        slow, confirmed = refined(pairs, jacobian, query, keyframe)
    moved = np.abs(slow.keyframe_px - pairs.keyframe_px).max(axis=1) > 1e-4
    assert confirmed.mean() > 0.5 and not moved[~confirmed].any()
    # A rounding of 1e-7 may put a sample on the next 1/32 of a pixel, or a pair over a bound.
    off = np.abs(fast.keyframe_px - slow.keyframe_px).max(axis=1)
    assert np.quantile(off, 0.98) < 2e-3
    same = off < 2e-3
    size = np.abs(slow.precision[same]).max(axis=(1, 2), keepdims=True)
    assert np.quantile(np.abs(fast.precision[same] - slow.precision[same]) / size, 0.98) < 2e-3


def test_one_compiled_version_serves_every_layout():
    kernel = compiled.kernel("subpixel")
    pairs = Correspondences(np.full((3, 2), 30.0), np.full((3, 2), 30.0), np.ones(3))
    jacobian = np.tile(np.eye(2), (3, 1, 1))
    for rgb in (picture(0), np.asfortranarray(picture(0)), picture(0)[:, ::-1]):
        refined(pairs, jacobian.transpose(0, 2, 1), rgb, rgb, SubpixelOptions(radius=3))
    assert len(kernel.align.signatures) == 1
