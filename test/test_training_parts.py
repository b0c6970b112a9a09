"""The parts of the training loop: batches, rates, mean weights, what is frozen, recorded steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fakes.texture import texture
from test_training import ALONE, TINY, pairs, settings, write_photographs

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.registry import build
from l2m_ros.workshop.training.data import (
    Ahead,
    Batch,
    Batches,
    PhotographPairs,
    Schedule,
    SizeShare,
    collate,
    stretched,
)
from l2m_ros.workshop.training.decoder import (
    _loss_of,
    options_from,
    train_decoder,
)
from l2m_ros.workshop.training.device_data import DeviceBatches, LiftedViews
from l2m_ros.workshop.training.ema import Ema
from l2m_ros.workshop.training.loop import LoopOptions, Run, learning
from l2m_ros.workshop.training.processes import Processes, local_device


def test_mean_weights_are_the_weighted_sum_that_they_are_defined_as() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema = Ema(module, decay=0.9)
    expected = 0.0
    for step in range(1, 200):
        module.weight.data.fill_(float(step))
        ema.update(module)
        decay = min(0.9, step / (step + 10.0))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.weights["weight"]) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 9, abs=0.1)  # lags by decay / (1 - decay) steps


def test_batches_are_the_same_for_any_number_of_processes_and_threads() -> None:
    batches = Batches(pairs(), (SizeShare(96, 64, 4, 1.0),), seed=3)
    whole = batches.batch(5, rank=0, count=1, difficulty=0.5)
    parts = [batches.batch(5, rank=r, count=2, difficulty=0.5) for r in range(2)]
    assert torch.equal(whole.query, torch.cat([part.query for part in parts]))
    ahead = Ahead(batches, 0, 1, workers=2)
    for step in (5, 6, 7):
        here = batches.batch(step, rank=0, count=1, difficulty=0.5)
        assert torch.equal(ahead.batch(step, lambda step: 0.5).keyframe, here.keyframe)
    with pytest.raises(InvalidInput, match="does not divide among 3 processes"):
        batches.batch(0, rank=0, count=3, difficulty=0.5)


def test_sizes_come_as_often_as_their_shares() -> None:
    sizes = (SizeShare(96, 64, 4, 3.0), SizeShare(64, 64, 2, 1.0))
    batches = Batches(pairs(), sizes)
    drawn = [batches.size_of(step).width for step in range(2000)]
    assert np.mean(np.array(drawn) == 96) == pytest.approx(0.75, abs=0.04)


def test_stretched_pairs_keep_their_truth() -> None:
    """Of a homography: the stretched warp is the homography between stretched images."""
    quiet = PhotographPairs([texture(400, 300)], 1, homographies=1.0, occluders=0.0)
    pair = quiet.pair(2, width=128, height=128, difficulty=0.5)
    wide = stretched(pair, 192, 64)
    S = np.array([[1.5, 0, 0.25], [0, 0.5, -0.25], [0, 0, 1.0]])  # p' + 1/2 = f (p + 1/2)
    H = S @ pair.homography @ np.linalg.inv(S)
    v, u = np.nonzero(wide.visible)
    moved = np.stack([u, v, np.ones_like(u)], axis=1) @ H.T
    error = np.linalg.norm(moved[:, :2] / moved[:, 2:] - wide.warp[v, u], axis=1)
    assert wide.visible.mean() > 0.2
    assert np.quantile(error, 0.99) < 0.1


@pytest.mark.parametrize("made", [(None, None), (96, 96)])
def test_pairs_made_on_the_device_come_in_the_same_form(tmp_path: Path, made: tuple) -> None:
    """On the CPU here: there and back again lies within half a pixel of where it started."""
    paths = sorted(write_photographs(tmp_path / "photographs", 2).iterdir())
    sizes = (SizeShare(96, 64, 2, 1.0, *made),)
    sources = {LiftedViews(paths, "cpu"): 1.0}
    batches = DeviceBatches(sources, sizes, seed=1, both_ways=True, device="cpu")
    batch = batches.batch(3, rank=0, count=1, difficulty=0.2)
    assert batch.query.shape == (2, 3, 64, 96) and batch.warp_px.shape == (4, 2, 64, 96)
    again = batches.batch(3, rank=0, count=1, difficulty=0.2)
    assert torch.equal(batch.query, again.query) and torch.equal(batch.warp_px, again.warp_px)
    there, back = (
        batch.warp_px[0].permute(1, 2, 0).numpy(),
        batch.warp_px[2].permute(1, 2, 0).numpy(),
    )
    v, u = np.nonzero(batch.visible[0, 0].numpy())
    read = cv2.remap(back, there, None, cv2.INTER_LINEAR)[v, u]
    assert len(u) > 500
    assert np.median(np.abs(read - np.stack([u, v], axis=1)).max(axis=1)) < 0.2


def test_both_ways_are_the_pair_and_its_reverse() -> None:
    pair = pairs().pair(4, width=96, height=64, difficulty=0.3)
    batch = collate([pair], both_ways=True)
    assert batch.query.shape[0] == 1 and batch.warp_px.shape[0] == 2
    there, back = batch.warp_px.permute(0, 2, 3, 1).numpy()
    seen = batch.visible[0, 0].numpy()
    read = cv2.remap(back, there, None, cv2.INTER_LINEAR)
    v, u = np.nonzero(seen)
    error = np.abs(read[v, u] - np.stack([u, v], axis=1)).max(axis=1)
    assert np.median(error) < 0.1


def test_rate_warms_up_and_ends_low() -> None:
    options = LoopOptions(steps=1000, learning_rate=1e-3, warmup_steps=10, final_rate=0.02)
    assert options.rate_at(0, 0.0) == pytest.approx(1e-4)
    assert options.rate_at(500, 0.5) == pytest.approx(1e-3 * 0.51)
    assert options.rate_at(999, 1.0) == pytest.approx(2e-5)


@pytest.mark.parametrize("on_device", [False, True])
def test_rolls_of_a_config_reach_the_batches(on_device: bool, tmp_path: Path, monkeypatch) -> None:
    seen: list[Batch] = []
    monkeypatch.setattr(Run, "_gradients_of", lambda run, batch: (seen.append(batch), 1 / 0)[1])
    options = options_from({**settings(1), "rolls": [{"share": 1.0, "degrees": 180}]})
    images = [texture(160, 120, number) for number in range(4)]
    source: object = pairs()
    if on_device:
        source = DeviceBatches({LiftedViews(images, "cpu"): 1.0}, options.sizes, 0, True, "cpu")
    for number, rolls in enumerate((options.rolls, ())):
        with pytest.raises(ZeroDivisionError):
            given = replace(options, rolls=rolls)
            train_decoder(given, build("lite", **TINY), source, pairs(50), tmp_path / str(number))
    with_rolls, without = seen
    assert torch.equal(with_rolls.keyframe, without.keyframe)
    assert not torch.equal(with_rolls.query, without.query)


def test_what_is_frozen_keeps_its_statistics_too() -> None:
    """rates: 0 froze the weights while BatchNorm's running means moved on."""
    model = torch.nn.ModuleDict(
        {
            "still": torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)),
            "moving": torch.nn.BatchNorm1d(3),
        }
    )
    learning(model, LoopOptions(steps=1, rates={"still": 0.0}))
    for _ in range(2):
        model["moving"](model["still"](torch.randn(8, 3) + 5))
    assert float(model["still"][1].running_mean.abs().max()) == 0.0
    assert float(model["moving"].running_mean.abs().max()) > 0.0
    assert model["still"][1].num_batches_tracked == 0


class _Difficulties(Schedule):
    """Remembers what each step's batch was asked for."""

    def __init__(self) -> None:
        super().__init__((SizeShare(32, 32, 1, 1.0),))
        self.asked: dict[int, float] = {}

    def batch(self, step, *, rank, count, difficulty):
        self.asked[step] = difficulty
        return _Nothing()


class _Nothing:
    def to(self, device):
        return self


def test_difficulty_is_that_of_the_step_however_many_workers_are_ahead(tmp_path: Path) -> None:
    """A resumed run begins its queue anew: with the submit time's difficulty it differed."""
    asked = []
    for workers, first in ((0, 0), (3, 0), (3, 4)):
        schedule = _Difficulties()
        model = torch.nn.Linear(1, 1)
        options = LoopOptions(steps=8, workers=workers, ramp=1.0, bf16=False)
        run = Run(model, lambda m, b: (m(torch.ones(1, 1)).sum(), {}), schedule, options, ALONE)
        run.step = first
        while run.step < 8:
            run.advance(run.share())
        asked.append({step: schedule.asked[step] for step in range(4, 8)})
    assert asked[0] == asked[1] == asked[2]
    assert len(set(asked[0].values())) == 4


def test_a_step_made_to_be_recorded_is_the_same_step() -> None:
    """Gradients that stay where they are, the next pairs made a step ahead: on a CPU nothing is
    recorded, and the weights are the same to the bit."""
    weights = []
    for graphs in (False, True):
        torch.manual_seed(0)
        options = options_from(settings(3, graphs=graphs))
        batches = Batches(pairs(), options.sizes, 0, True)
        run = Run(build("lite", **TINY), _loss_of(options), batches, options.loop, ALONE)
        while run.step < 3:
            run.advance(run.share())
        weights.append(run.model.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=0, rtol=0)


def test_a_finished_run_makes_no_pairs_for_a_step_to_come() -> None:
    schedule, model = _Difficulties(), torch.nn.Linear(1, 1)
    options = LoopOptions(steps=3, bf16=False, graphs=True)
    run = Run(model, lambda m, b: (m(torch.ones(1, 1)).sum(), {}), schedule, options, ALONE)
    while run.step < 3:
        run.advance(run.share())
    assert sorted(schedule.asked) == [0, 1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
def test_a_recorded_step_gives_the_gradients_of_the_step_itself() -> None:
    options = options_from(settings(8, device="cuda", graphs=True))
    batches = Batches(pairs(), options.sizes, 0, True)
    run = Run(build("lite", **TINY), _loss_of(options), batches, options.loop, ALONE)
    for _ in range(4):
        run.advance(run.share())
    batch = batches.batch(9, rank=0, count=1, difficulty=0.7).to("cuda")
    loss, terms = run._gradients(batch)
    recorded = [p.grad.clone() for p in run.model.parameters()]
    want, want_terms = run._gradients_of(batch)
    torch.testing.assert_close(loss, want, atol=1e-4, rtol=1e-4)
    assert set(terms) == set(want_terms)
    for got, parameter in zip(recorded, run.model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, atol=1e-3, rtol=1e-2)


def test_each_process_has_a_gpu_of_its_own(monkeypatch) -> None:
    """torchrun names it by LOCAL_RANK; before, every process worked on the first."""
    chosen = []
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 7)
    assert Processes.join("cuda").rank == 7
    assert chosen == ["cuda:3"] and local_device("cpu") == "cpu"
    from l2m_ros.commands.train_input import check_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device("cuda")  # pairs that are made on the device are made on this one
    assert chosen == ["cuda:3"] * 2
    monkeypatch.delenv("LOCAL_RANK")
    check_device("cuda")  # without torchrun there is nothing to choose, and torch takes no "cuda"
    assert chosen == ["cuda:3"] * 2
