"""TinyRoMa v1: the coarse position against loops, batches, sizes."""

import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.networks.shared.xfeat import floored, standardised_grey
from l2m_ros.networks.tinyroma import network as tinyroma
from l2m_ros.workshop.parity.published_schedule import match_tiny


@pytest.fixture(scope="module")
def network():
    return fill(build("tinyroma"), "a test's draw: ")


def place(index, rows, columns):
    row, column = divmod(index, columns)
    return np.array([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1])


def test_nearly_best_position_by_loops():
    rows, columns, cells = 8, 12, 30
    logits = 3.0 * torch.randn(1, cells, rows * columns, generator=torch.Generator().manual_seed(1))
    logits[0, 0, 0] = 40.0  # the very first cell is best: its index 0 hardly weighs
    ours = tinyroma.nearly_best_position(logits, rows, columns)[0].numpy()
    for cell in range(cells):
        line = logits[0, cell].double().numpy()
        best = int(line.argmax())
        low = [(r, c) for r in range(0, rows, 4) for c in range(0, columns, 4)]
        entries = np.array([line[r * columns + c] for r, c in low] + [float(best)])
        share = np.exp(entries - entries.max())
        share /= share.sum()
        blocks = [place(i, rows // 4, columns // 4) for i in range(len(low))]
        places = np.array([*blocks, place(best, rows, columns)])
        assert np.allclose(ours[cell], share @ places, atol=1e-5)


def test_expected_position_by_loops():
    logits = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(2))
    ours = tinyroma.expected_position(logits, 3, 4)[0].numpy()
    for cell in range(5):
        share = logits[0, cell].double().softmax(0).numpy()
        assert np.allclose(ours[cell], sum(share[j] * place(j, 3, 4) for j in range(12)), atol=1e-6)


def test_grey_has_no_mean_and_unit_deviation():
    grey = standardised_grey(torch.rand(2, 3, 40, 50))
    assert grey.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    assert torch.allclose(grey.std(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-3)


def test_a_batch_is_its_images_one_by_one(network):
    """Here the published code mixes the images of a batch."""
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 2, 3, 64, 96, generator=generator)
    together = network.match(network.encode(a), network.reference(network.encode(b)))
    for i in range(2):
        alone = network.match(network.encode(a[i : i + 1]), network.encode(b[i : i + 1]))
        assert (together["warp"][i] - alone["warp"][0]).abs().max() < 1e-4


def test_images_of_two_sizes_match(network):
    out = network.match(
        network.encode(torch.rand(1, 3, 64, 96)), network.encode(torch.rand(1, 3, 128, 64))
    )
    assert out["warp"].shape == (1, 2, 16, 24)
    assert out["certainty"].shape == (1, 1, 16, 24)


def test_the_published_match_keeps_the_images_own_size(network):
    image = torch.rand(1, 3, 70, 101)
    warp, certainty = match_tiny(network, image, torch.rand(1, 3, 66, 64))
    assert warp.shape == (70, 101, 4)
    assert certainty.shape == (70, 101)
    assert warp[0, 0, :2].tolist() == pytest.approx([1 / 101 - 1, 1 / 70 - 1], abs=1e-6)
    assert floored(image).shape[-2:] == (64, 96)


def test_sizes_that_are_no_multiples_are_refused(network):
    with pytest.raises(InvalidInput, match="multiples of 32, got 70x64"):
        network.encode(torch.zeros(1, 3, 64, 70))
