"""The matcher over a network: pixels in, the right pixels out, whatever the image's size."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes.toy_network import ToyNetwork, ramp

from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.engines.torch import TorchBackend
from l2m_ros.errors import InvalidInput
from l2m_ros.matching.network_matcher import (
    NetworkMatcher,
    precision_matrix,
    sigmoid,
    to_pixels,
)
from l2m_ros.matching.preprocess import bicubic_like_pil, content_size, network_input
from l2m_ros.types import Features

SPEC = InputSpec(width=160, height=128, multiple=8)
CARD = ModelCard(name="toy", architecture="toy", input=SPEC)


def matcher(**changes):
    card = replace(CARD, input=replace(SPEC, **changes))
    return NetworkMatcher(card, TorchBackend(ToyNetwork().eval()))


def matched(m, query, keyframe):
    return m.match(m.encode(query), m.reference(m.encode(keyframe)))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize(
    ("size_a", "size_b"), [((160, 128), (160, 128)), ((320, 200), (250, 220)), ((123, 177),) * 2]
)
def test_a_known_offset_comes_back_in_pixels(resize, size_a, size_b):
    """Query = the ramp's window at (7, -3): its pixel u lies at u + 7 of the keyframe."""
    match = matched(matcher(resize=resize), ramp(*size_a, x=7, y=-3), ramp(*size_b))
    truth = match.grid_px() + np.float32([7, -3])
    assert match.query_size == size_a and match.keyframe_size == size_b
    # away from the borders, where the regression extrapolates
    margin = 20
    good = (truth > margin).all(2) & (truth < np.float32(size_b) - margin).all(2)
    good[:2] = good[-2:] = good[:, :2] = good[:, -2:] = False
    assert good.mean() > 0.2
    error = np.linalg.norm(match.warp_px - truth, axis=2)[good]
    # one step of an 8-bit ramp is 1.6 px
    assert np.median(error) < 0.5 and np.percentile(error, 99) < 1.5
    assert np.median(match.certainty[good]) > 0.9


def test_letterbox_grid_covers_the_image_and_nothing_else():
    m = matcher(resize="letterbox")
    match = matched(m, ramp(300, 100), ramp(100, 200))
    # 300x100 into 160x128: content 160x56 of stride 8, grid of stride 4
    assert content_size(m.card.input, (300, 100)) == (160, 56)
    assert match.certainty.shape == (56 // 4, 160 // 4)


def test_outside_the_keyframe_is_not_certain():
    match = matched(matcher(), ramp(160, 128, x=100), ramp(160, 128))
    u = match.warp_px[..., 0]
    outside = u > 159.5
    assert outside.any() and (match.certainty[outside] == 0).all()
    assert (match.certainty[u < 150] > 0).any()


def test_normalised_edges_are_half_pixels():
    corners = np.float32([[[-1, 1]], [[-1, 1]]])  # (2, 1, 2)
    pixels = to_pixels(corners, (160, 128), (160, 128), (640, 480))
    assert np.allclose(pixels[0], [[-0.5, -0.5], [639.5, 479.5]])
    letterboxed = to_pixels(np.float32([[[0.0]], [[0.0]]]), (160, 128), (160, 64), (640, 256))
    assert np.allclose(letterboxed[0, 0], [319.5, 255.5])  # the middle of the input


def test_undefined_warp_has_no_certainty():
    class Broken(ToyNetwork):
        def match(self, features, reference):
            out = super().match(features, reference)
            out["warp"][:, :, :3] = float("nan")
            out["certainty"][:, :, 3:5] = float("inf")
            out["certainty"][:, :, 5:6] = float("nan")
            return out

    m = NetworkMatcher(CARD, TorchBackend(Broken().eval()))
    match = matched(m, ramp(160, 128), ramp(160, 128))
    assert np.isnan(match.warp_px[:3]).all() and (match.certainty[:3] == 0).all()
    assert (match.certainty[5] == 0).all()


def test_precision_is_per_square_pixel_of_the_image():
    """Scaling the image by s divides the information by s^2 along that axis."""
    L = np.array([[2.0, 0.0], [0.5, 1.0]])
    factors = np.float32([2.0, 0.5, 1.0]).reshape(3, 1, 1)
    S = np.diag([4.0, 2.0])
    expected = np.linalg.inv(S) @ L @ L.T @ np.linalg.inv(S)
    assert np.allclose(precision_matrix(factors, (4.0, 2.0))[0, 0], expected)
    match = matched(matcher(), ramp(160, 128), ramp(640, 256))
    assert np.allclose(match.precision[3, 3], expected, rtol=1e-5)


def test_sigmoid_agrees_and_never_overflows():
    x = np.float32([-500, -20, -1, 0, 2, 500])
    with np.errstate(over="raise"):
        got = sigmoid(x)
    assert np.allclose(got, 1 / (1 + np.exp(-x.astype(np.float64))), atol=1e-6)
    assert got.dtype == np.float32


def test_input_is_normalised_as_the_card_says():
    rgb = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    spec = replace(SPEC, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    expected = (rgb / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(network_input(spec, rgb)[0].transpose(1, 2, 0), expected, atol=1e-5)
    assert network_input(SPEC, rgb).dtype == np.float32


@pytest.mark.parametrize("size", [(56, 70), (300, 200), (161, 128), (97, 401)])
def test_bicubic_is_pils_bit_for_bit(size):
    """In sizes where every release of Pillow resizes along x first."""
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(1).integers(0, 256, (128, 160, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    for rgb in (noise, smooth):
        pil = np.asarray(image.fromarray(rgb).resize(size, image.BICUBIC))
        assert np.array_equal(bicubic_like_pil(rgb, *size), pil)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((9, 9), np.uint8), "grey"),
        (np.zeros((9, 9, 1), np.uint8), "grey"),
        (np.zeros((9, 9, 4), np.uint8), "alpha"),
        (np.zeros((9, 9, 3), np.uint16), "uint8"),
        (np.zeros((9, 9, 3), np.float32), "uint8"),
        (np.zeros((0, 9, 3), np.uint8), "empty"),
        (np.zeros((9, 9, 2), np.uint8), "RGB"),
    ],
)
def test_bad_images_are_refused_in_one_line_with_a_remedy(image, words):
    with pytest.raises(InvalidInput, match=words) as refusal:
        matcher().encode(image)
    assert "\n" not in str(refusal.value)


def test_features_of_another_matcher_are_refused():
    m = matcher()
    mine = m.encode(ramp(160, 128))
    with pytest.raises(InvalidInput, match="other"):
        m.reference(Features("other", (160, 128), {}))
    with pytest.raises(InvalidInput, match="Reference second"):
        m.match(mine, mine)
