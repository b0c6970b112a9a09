"""PCA pictures: equal features, equal colours."""

import numpy as np
import pytest

from l2m_ros.commands.features import feature_maps, principal_colours
from l2m_ros.errors import InvalidInput


def test_colours_follow_the_main_components_over_all_images():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    strength = np.array([9.0, 4.0, 2.0] + [0.01] * 13)
    coordinates = [rng.uniform(-1, 1, (16, 6, 8)) * strength[:, None, None] for _ in range(2)]
    maps = [np.einsum("ij,jhw->ihw", basis, c).astype(np.float32) for c in coordinates]
    colours = principal_colours(maps)
    assert [c.shape for c in colours] == [(6, 8, 3)] * 2
    both = np.concatenate([c.reshape(-1, 3) for c in colours]).astype(float)
    truth = np.concatenate([c[:3].reshape(3, -1).T for c in coordinates])
    for k in range(3):
        assert abs(np.corrcoef(both[:, k], truth[:, k])[0, 1]) > 0.97


def test_the_same_feature_has_the_same_colour_in_both_images():
    rng = np.random.default_rng(1)
    one = rng.standard_normal((8, 5, 7)).astype(np.float32)
    first, second = principal_colours([one, one[:, ::-1]])
    assert np.array_equal(first[::-1], second)


class _Sparse:
    name = "sift"


def test_a_matcher_without_dense_features_is_refused():
    with pytest.raises(InvalidInput, match="no dense features"):
        feature_maps(_Sparse(), [np.zeros((8, 8, 3), np.uint8)], None)
