"""Banked views: labels like the slow ones, pairs of what overlaps, batches mixed and in blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.texture import texture
from test_gaussians_pairs import scene as scene  # the fixture: a square before a wall

from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.bank import BankOptions, view_bank
from l2m_ros.workshop.gaussians.labels import label_between
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.data import SizeShare
from l2m_ros.workshop.training.device_bank import LEAST_OVERLAP, BankViews
from l2m_ros.workshop.training.device_data import DeviceBatches, InBlocks, LiftedViews

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(scene):
    return view_bank([scene], BankOptions(views=10, width=96, height=64, seed=2))


def view_of(bank, index):
    K = bank.K[index].double().numpy()
    return PosedCamera(Camera(*bank.size, K), bank.camera_from_world[index].double().numpy())


def test_labels_are_those_of_the_slow_path(bank):
    views = BankViews(bank)
    a, b = views.draw(Draws(CPU, 0), 12, 1.0)
    for first, second in ((a, b), (b, a)):
        way = views.labels(first, second)
        for k, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            want = label_between(
                bank.depth[i].numpy(), view_of(bank, i), bank.depth[j].numpy(), view_of(bank, j),
                bank.sure[i].numpy(), bank.sure[j].numpy(),
            )  # fmt: skip
            warp, visible, unknown = (part[k].numpy() for part in way)
            # Single precision decides a few pixels at a threshold the other way.
            assert (visible != want.visible).mean() < 0.005
            assert (unknown != want.unknown).mean() < 0.005
            both = visible & want.visible
            assert both.mean() > 0.01
            assert np.abs(warp - want.warp_px)[both].max() < 0.01


def test_at_another_size_the_same_points_meet(bank):
    """A pixel's centre of a half as large image lies between four of the whole one."""
    views = BankViews(bank)
    a, b = views.draw(Draws(CPU, 0), 12, 1.0)
    warp, visible, _ = views.labels(a, b)
    small, seen, _ = views.labels(a, b, (48, 32))
    corners = torch.stack([warp[:, y::2, x::2] for y in (0, 1) for x in (0, 1)])
    all_seen = torch.stack([visible[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]).all(0) & seen
    assert all_seen.float().mean() > 0.1
    off = ((corners.mean(0) + 0.5) / 2 - 0.5 - small)[all_seen].abs().amax(-1)
    assert off.quantile(0.95) < 0.1  # what is left: a homography is not quite linear, and edges
    pairs = views.sample(3, (48, 32), 0.5, Draws(CPU, 1))
    assert pairs.rgb_a.shape == (3, 3, 32, 48) and pairs.warp_ba.shape == (3, 32, 48, 2)


def test_pairs_overlap_and_hard_ones_come_with_difficulty(bank):
    views = BankViews(bank)
    assert len(views) > 10 and float(views.overlap.min()) >= LEAST_OVERLAP
    seen = {}
    for difficulty in (0.0, 1.0):
        drawn = views.draw(Draws(CPU, 1), 40, difficulty)
        seen[difficulty] = views.labels(*drawn)[1].float().mean(dim=(1, 2))
    assert seen[1.0].quantile(0.1) < seen[0.0].quantile(0.1) - 0.1
    turned_away = replace(bank, camera_from_world=bank.camera_from_world.clone())
    turned_away.camera_from_world[:, 0, 3] += 100.0 * torch.arange(10)
    with pytest.raises(InvalidInput, match="render more"):
        BankViews(turned_away)


def test_two_scenes_are_equally_likely_and_never_make_a_pair(bank):
    scene = (torch.arange(10) >= 6).long()
    a, b = BankViews(replace(bank, scene=scene)).draw(Draws(CPU, 1), 80, 1.0)
    assert torch.equal(scene[a], scene[b])
    assert 0.3 < scene[a].float().mean() < 0.7


def test_blocks_give_every_pair_of_a_draw_once_and_of_every_source_some(bank):
    photographs = LiftedViews([texture(96, 64, seed) for seed in range(3)], "cpu")
    sources = {photographs: 1.0, BankViews(bank): 1.0}
    whole = DeviceBatches(sources, (SizeShare(96, 64, 6, 1.0),), 3, True, "cpu")
    blocks = InBlocks(whole, 2)
    assert blocks.sizes[0].batch == 3
    how = {"rank": 0, "count": 1, "difficulty": 0.8}
    want = whole.batch(1, **how)
    for step in (2, 3):
        got, rows = blocks.batch(step, **how), torch.arange(step - 2, 6, 2)
        assert torch.equal(got.query, want.query[rows])
        assert torch.equal(got.warp_px, want.warp_px[torch.cat([rows, rows + 6])])
        assert torch.equal(got.visible, want.visible[torch.cat([rows, rows + 6])])
    with pytest.raises(InvalidInput, match="equal steps"):
        InBlocks(whole, 4)


def test_a_block_has_one_of_several_sizes(bank):
    sizes = (SizeShare(96, 64, 4, 0.5), SizeShare(64, 96, 2, 0.5))
    blocks = InBlocks(DeviceBatches({BankViews(bank): 1.0}, sizes, 3, True, "cpu"), 2)
    how, shapes = {"rank": 0, "count": 1, "difficulty": 0.8}, set()
    for step in range(0, 12, 2):
        one, other = (blocks.batch(s, **how) for s in (step, step + 1))
        size = blocks.size_of(step)
        assert size == blocks.size_of(step + 1)
        assert one.query.shape == other.query.shape == (size.batch, 3, size.height, size.width)
        shapes.add((size.width, size.batch))
    assert shapes == {(96, 2), (64, 1)}
