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
from l2m_ros.workshop.training.bank_data import (
    LEAST_OVERLAP,
    BankBatches,
    BankPairs,
    InBlocks,
    MixedBatches,
    part_of_batch,
)
from l2m_ros.workshop.training.data import SizeShare
from l2m_ros.workshop.training.device_data import DeviceBatches, LiftedViews

SIZE = SizeShare(96, 64, 4, 1.0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(scene):
    return view_bank([scene], BankOptions(views=10, width=96, height=64, seed=2))


def view_of(bank, index):
    K = bank.K[index].double().numpy()
    return PosedCamera(Camera(*bank.size, K), bank.camera_from_world[index].double().numpy())


def test_labels_are_those_of_the_slow_path(bank):
    drawn = BankPairs(bank).draw(Draws(CPU, 0), 12, 1.0)
    for way, (first, second) in zip(
        drawn.ways, ((drawn.a, drawn.b), (drawn.b, drawn.a)), strict=True
    ):
        for k, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
            want = label_between(
                bank.depth[i].numpy(), view_of(bank, i), bank.depth[j].numpy(), view_of(bank, j)
            )
            warp, visible, unknown = (part[k].numpy() for part in way)
            # Single precision decides a few pixels at a threshold the other way.
            assert (visible != want.visible).mean() < 0.005
            assert (unknown != want.unknown).mean() < 0.005
            both = visible & want.visible
            assert both.mean() > 0.05
            assert np.abs(warp - want.warp_px)[both].max() < 0.01


def test_pairs_overlap_and_hard_ones_come_with_difficulty(bank):
    pairs = BankPairs(bank)
    assert len(pairs) > 10 and float(pairs.overlap.min()) >= LEAST_OVERLAP
    seen = {}
    for difficulty in (0.0, 1.0):
        drawn = pairs.draw(Draws(CPU, 1), 60, difficulty, both_ways=False)
        seen[difficulty] = pairs.labels(drawn.a, drawn.b)[1].float().mean(dim=(1, 2))
    assert seen[1.0].quantile(0.1) < seen[0.0].quantile(0.1) - 0.1
    again = pairs.draw(Draws(CPU, 1), 60, 1.0, both_ways=False)
    assert torch.equal(again.a, drawn.a) and torch.equal(again.images_b, drawn.images_b)
    turned_away = replace(bank, camera_from_world=bank.camera_from_world.clone())
    turned_away.camera_from_world[:, 0, 3] += 100.0 * torch.arange(10)
    with pytest.raises(InvalidInput, match="render more"):
        BankPairs(turned_away)


def test_two_scenes_are_equally_likely_and_never_make_a_pair(bank):
    scene = (torch.arange(10) >= 6).long()
    pairs = BankPairs(replace(bank, scene=scene))
    drawn = pairs.draw(Draws(CPU, 1), 80, 1.0, both_ways=False)
    assert torch.equal(scene[drawn.a], scene[drawn.b])
    assert 0.3 < scene[drawn.a].float().mean() < 0.7


def test_mixed_batches_hold_the_parts_both_ways(bank):
    half = replace(SIZE, batch=2)
    photographs = [texture(96, 64, seed) for seed in range(3)]
    one = DeviceBatches({LiftedViews(photographs, "cpu"): 1.0}, (half,), 7, True, "cpu")
    other = BankBatches(bank, (half,), 7)
    mixed = MixedBatches([one, other])
    assert mixed.sizes == (SIZE,)
    how = {"rank": 0, "count": 1, "difficulty": 0.8}
    batch, first, second = (s.batch(5, **how) for s in (mixed, one, other))
    assert len(batch.query) == 4 and len(batch.warp_px) == 8
    for k, want in ((0, first), (1, second)):
        rows = [2 * k, 2 * k + 1, 4 + 2 * k, 5 + 2 * k]
        assert torch.equal(batch.query[rows[:2]], want.query)
        assert torch.equal(batch.warp_px[rows], want.warp_px)
        assert torch.equal(batch.visible[rows], want.visible)
    with pytest.raises(InvalidInput, match="one seed"):
        MixedBatches([one, BankBatches(bank, (half,), 8)])


def test_blocks_give_every_pair_of_a_draw_once(bank):
    whole = BankBatches(bank, (SIZE,), 3)
    blocks = InBlocks(whole, 2)
    assert blocks.sizes[0].batch == 2
    how = {"rank": 0, "count": 1, "difficulty": 0.8}
    want = whole.batch(1, **how)
    for step in (2, 3):
        got, part = blocks.batch(step, **how), part_of_batch(want, 2 * (step - 2), 2)
        assert torch.equal(got.keyframe, part.keyframe) and torch.equal(got.warp_px, part.warp_px)
        assert torch.equal(got.query, want.query[2 * (step - 2) : 2 * (step - 1)])
        back = want.warp_px[4 + 2 * (step - 2) : 4 + 2 * (step - 1)]
        assert torch.equal(got.warp_px[2:], back)
    with pytest.raises(InvalidInput, match="equal steps"):
        InBlocks(whole, 3)


def test_a_bank_of_another_size_is_stretched(bank):
    batch = BankBatches(bank, (SizeShare(64, 64, 2, 1.0),), 0).batch(
        0, rank=0, count=1, difficulty=0.5
    )
    assert batch.query.shape == (2, 3, 64, 64) and batch.warp_px.shape == (4, 2, 64, 64)
    assert batch.visible.float().mean() > 0.05
