"""Rolled cameras in training: the truth turns with the query, and only what is asked for turns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.texture import texture

from l2m_ros.commands.train_input import config_folder, settings_of
from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.training.data import Batch, Schedule, SizeShare
from l2m_ros.workshop.training.decoder import DecoderOptions, options_from
from l2m_ros.workshop.training.rolled import (
    TORN_PX,
    RolledBatches,
    RollShare,
    covering,
    rolled,
)

WIDTH, HEIGHT = 96, 64


def still(pairs: int = 1, width: int = WIDTH, height: int = HEIGHT) -> Batch:
    """Both images the same, all of it seen, both ways."""
    images = np.stack([texture(width, height, seed) for seed in range(pairs)])
    image = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    warp = torch.stack([x, y]).float().repeat(2 * pairs, 1, 1, 1)
    seen = torch.ones(2 * pairs, 1, height, width, dtype=torch.bool)
    return Batch(image, image.clone(), warp, seen, ~seen)


class Still(Schedule):
    """Batches of still pairs; the pairs of a step are numbered through all processes."""

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        size = self.size_of(step)
        part = self.part_of(size, count)
        whole = still(size.batch, size.width, size.height)
        rows = [*range(rank * part, (rank + 1) * part)]
        ways = rows + [row + size.batch for row in rows]
        return Batch(
            whole.query[rows], whole.keyframe[rows],
            whole.warp_px[ways], whole.visible[ways], whole.ignored[ways],
        )  # fmt: skip


def at(image: torch.Tensor, warp_px: torch.Tensor) -> torch.Tensor:
    height, width = image.shape[-2:]
    grid = torch.stack(
        [(2 * warp_px[:, 0] + 1) / width - 1, (2 * warp_px[:, 1] + 1) / height - 1], dim=-1
    )
    return F.grid_sample(image, grid, align_corners=False)


@pytest.mark.parametrize("degrees", [30.0, -100.0, 180.0])
def test_the_truth_carries_either_image_onto_the_other(degrees: float) -> None:
    batch = rolled(still(), np.deg2rad([degrees]), np.array([1.2]))
    assert 0.3 < batch.visible.float().mean() < 0.99
    for image, other, way in ((batch.query, batch.keyframe, 0), (batch.keyframe, batch.query, 1)):
        seen = batch.visible[way : way + 1]
        off = (at(other, batch.warp_px[way : way + 1]) - image).abs().mean(1, keepdim=True)
        assert off[seen].mean() < 0.03
        assert at(other, still().warp_px[:1]).sub(image).abs().mean() > 0.05  # it did turn


def test_there_and_back_again_is_where_it_was() -> None:
    batch = rolled(still(), np.deg2rad([50.0]), np.array([1.1]))
    there, back = batch.warp_px[:1], batch.warp_px[1:]
    returned = at(there, back)  # keyframe pixels -> query -> keyframe
    seen = batch.visible[1:, 0] & (at(batch.visible[:1].float(), back)[:, 0] > 0.99)
    off = (returned - still().warp_px[:1]).norm(dim=1)
    assert seen.float().mean() > 0.4
    assert off[seen].max() < 0.01


def test_a_quarter_turn_of_a_square_image_is_exact() -> None:
    batch = rolled(still(1, 64, 64), np.array([np.pi / 2]), np.array([1.0]))
    turned = torch.rot90(still(1, 64, 64).query, -1, (2, 3))
    assert (batch.query - turned).abs().max() < 1e-4
    assert batch.visible[..., 1:-1, 1:-1].all()


def test_corners_have_no_verdict_unless_the_zoom_covers_them() -> None:
    angle = np.deg2rad([35.0])
    open_, covered = (rolled(still(), angle, zoom) for zoom in (np.ones(1), covering(angle, 1.5)))
    assert open_.ignored[0].float().mean() > 0.1
    assert not covered.ignored[0, :, 1:-1, 1:-1].any()
    # The keyframe's pixels that left the query's view are known not to be seen.
    hidden = ~covered.visible[1] & ~covered.ignored[1]
    assert hidden.float().mean() > 0.3


def test_what_was_hidden_or_without_verdict_stays_so_and_depth_edges_are_not_mixed() -> None:
    batch = still()
    batch.warp_px[0, 0, :, WIDTH // 2 :] += 20.0  # two surfaces
    batch.visible[0, :, :10] = False  # hidden
    turned = rolled(batch, np.deg2rad([180.0 - 1e-4]), np.array([1.0]))
    assert not turned.visible[0, :, -9:].any()
    assert not turned.ignored[0, :, -9:-1, 2:-2].any()
    turned = rolled(batch, np.deg2rad([20.0]), np.array([1.3]))
    one = rolled(still(), np.deg2rad([20.0]), np.array([1.3])).warp_px[0, 0]
    off = torch.minimum((turned.warp_px[0, 0] - one).abs(), (turned.warp_px[0, 0] - one - 20).abs())
    assert turned.visible[0].float().mean() > 0.7
    assert off[turned.visible[0, 0]].max() < TORN_PX + 0.01 < off.max()


def test_shares_of_the_pairs_turn_and_the_others_are_untouched() -> None:
    sizes = (SizeShare(WIDTH, HEIGHT, 200, 1.0),)
    angle, zoom = RolledBatches(
        Still(sizes), (RollShare(0.25, 180.0), RollShare(0.25, 30.0))
    )._draws(3, 4000, 1.5)
    far, turned = np.abs(angle) > np.deg2rad(30.0), angle != 0
    assert abs(turned.mean() - 0.5) < 0.03
    assert abs(far.mean() - 0.25 * 150 / 180) < 0.03
    assert (zoom[~turned] == 1).all() and (zoom >= 1).all()
    batch = still(2)
    one = rolled(batch, np.array([0.0, 0.7]), np.array([1.0, 1.0]))
    for name in ("query", "keyframe"):
        assert torch.equal(getattr(one, name)[0], getattr(batch, name)[0])
    assert torch.equal(one.warp_px[[0, 2]], batch.warp_px[[0, 2]])
    assert not torch.equal(one.query[1], batch.query[1])
    assert rolled(batch, np.zeros(2), np.ones(2)) is batch


def test_two_processes_turn_what_one_would() -> None:
    batches = RolledBatches(Still((SizeShare(WIDTH, HEIGHT, 4, 1.0),)), (RollShare(0.7, 180.0),))
    whole = batches.batch(5, rank=0, count=1, difficulty=1.0)
    halves = [batches.batch(5, rank=rank, count=2, difficulty=1.0) for rank in (0, 1)]
    assert torch.equal(whole.query, torch.cat([half.query for half in halves]))
    assert torch.equal(whole.warp_px[:4], torch.cat([half.warp_px[:2] for half in halves]))
    assert torch.equal(whole.visible[4:], torch.cat([half.visible[2:] for half in halves]))
    again = batches.batch(5, rank=0, count=1, difficulty=1.0)
    assert torch.equal(whole.query, again.query)


def test_the_config_for_rolled_cameras_leaves_the_eyes_of_the_depth_head() -> None:
    given = settings_of(config_folder() / "lite_rolled.yaml")
    options = options_from({**given, "loop": {**given["loop"], "minutes": 1.0}})
    assert 0.2 < sum(roll.share for roll in options.rolls) < 0.6
    assert options.loop.rates == {"encoder.xfeat": 0}


def test_a_config_names_the_rolls_and_by_default_nothing_rolls() -> None:
    given = options_from({"rolls": [{"share": 0.3, "degrees": 45}], "loop": {"steps": 1}})
    assert given.rolls == (RollShare(0.3, 45.0),)
    assert DecoderOptions().rolls == ()
    for wrong in (
        [{"share": 1.2, "degrees": 45}],
        [{"share": 0.2, "degrees": 0}],
        [{"share": 0.2, "degree": 45}],
        [{"share": 0.6, "degrees": 45}, {"share": 0.6, "degrees": 90}],
    ):
        with pytest.raises(InvalidInput, match=r"rolls|degrees"):
            options_from({"rolls": wrong, "loop": {"steps": 1}})
