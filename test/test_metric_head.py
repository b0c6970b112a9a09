"""Metres for `lite` from relative poses: labels from parallax, the loss, a run from poses alone."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.length import length_from_depths
from l2m_ros.networks.lite_depth.network import Attention
from l2m_ros.networks.registry import build
from l2m_ros.workshop.training import metric_head, pair_bank
from l2m_ros.workshop.training.loop import LoopOptions
from l2m_ros.workshop.training.metric import MetricOptions
from l2m_ros.workshop.training.metric_data import WorldOptions
from l2m_ros.workshop.training.metric_length import ERROR, length_errors, length_loss
from l2m_ros.workshop.training.metric_pairs import PairLimits
from l2m_ros.workshop.training.metric_ransac import RansacOptions
from l2m_ros.workshop.training.seen_pairs import SeenPairs

SIZE, ROWS, COLUMNS, MATCHES = (96, 64), 4, 6, 80
K = np.array([[70.0, 0, 47.5], [0, 70.0, 31.5], [0, 0, 1]])
NETWORK = {"eyes": 4, "wide": 4, "width": 8, "deep": 8, "blocks": 1, "attention": 0, "members": 1}
LIMITS = PairLimits(way_m=3.0, turn_deg=45.0)
COMPACT_CONFIG = Path(__file__).parents[1] / "config/train/metric_compact.yaml"


def wall(seed, known=True):
    """A slanted wall, some metres away, from two places; what is seen of it tells how far it is."""
    rng = np.random.default_rng(seed)
    away, slope = rng.uniform(1.5, 5.0), rng.uniform(-0.4, 0.4)
    motion = se3.exp(np.array([0.25 * away, 0.03, 0.05, 0.02, 0.12, 0.01]))  # world_from_camera
    poses = [np.eye(4), motion]
    px = rng.uniform((4, 4), (92, 60), (MATCHES, 2))
    rays = np.c_[px, np.ones(MATCHES)] @ np.linalg.inv(K).T
    z = away / (1.0 - slope * rays[:, 0])
    there = se3.inverse(motion)
    seen = (rays * z[:, None]) @ there[:3, :3].T + there[:3, 3]
    other = (seen / seen[:, 2:]) @ K.T
    level = np.log(away / 70.0)
    cells = rng.normal(0, 0.05, (2, 4, ROWS, COLUMNS))
    cells[:, 0] += level
    labels = np.full((2, ROWS, COLUMNS), level if known else np.nan, np.float32)
    return SeenPairs(
        cells.astype(np.float16), rng.normal(0, 0.05, (2, 4, 2, 3)).astype(np.float16), labels,
        np.stack([K, K]).astype(np.float32), np.stack(poses), np.array([[0, 1]]),
        np.c_[px, other[:, :2]][None].astype(np.float32), np.full((1, MATCHES), 0.9, np.float32),
    ), z, seen[:, 2]  # fmt: skip


def bank_of(seeds, **options):
    return pair_bank.PairBank.of([wall(seed, **options)[0] for seed in seeds], LIMITS)


def options(**others):
    return MetricOptions(
        network={"backbone": "lite", **NETWORK}, width=96, height=64, batch=4, validation_pairs=2,
        channel_dropout=0.0, easiest=None,
        ransac=RansacOptions(rounds=3, pairs=40, hypotheses=4, corners=5, refinements=1),
        loop=LoopOptions(steps=6, bf16=False, warmup_steps=1),
        **others,
    )  # fmt: skip


def test_parallax_shows_depth_at_both_ends_of_a_match():
    part, z, other = wall(3)
    seen = pair_bank.PairBank.of([part], LIMITS).seen[0].numpy()
    assert np.allclose(seen[:, 0], np.log(z / 70.0), atol=1e-3)
    assert np.allclose(seen[:, 1], np.log(other / 70.0), atol=1e-3)


def test_a_match_beside_the_true_pose_or_without_parallax_shows_none():
    part, *_ = wall(3)
    px = part.px.copy()
    px[0, :40, 3] += 9.0  # across the way of the camera
    px[0, 40:50, 2:] = np.nan
    found = pair_bank.PairBank.of([replace(part, px=px)], LIMITS).seen[0].numpy()
    assert np.isnan(found[:50]).all() and np.isfinite(found[50:]).all()
    pose = part.pose.copy()
    pose[1, :3, 3] *= 0.105 / np.linalg.norm(pose[1, :3, 3])
    far = pair_bank.triangulated(
        part.px + 40.0, part.confidence, part.K[:1], part.K[1:], np.eye(4)[None]
    )
    assert np.isnan(far).all()


def test_pairs_beyond_the_limits_or_on_one_spot_are_left_out():
    part, *_ = wall(3)
    assert len(pair_bank.PairBank.of([part], LIMITS)) == 1
    still = replace(part, pose=np.stack([np.eye(4)] * 2))
    few = part.confidence.copy()
    few[:, 20:] = 0.0
    for bad, limits, least in (
        (still, LIMITS, 0),
        (part, PairLimits(0.2, 45), 0),
        (replace(part, confidence=few), LIMITS, 64),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match="nothing to train on"):
            pair_bank.PairBank.of([bad], limits, least)


def test_what_was_seen_is_kept(tmp_path):
    part, *_ = wall(1)
    part.save(tmp_path / "seen" / "world.npz")
    again = SeenPairs.load(tmp_path / "seen" / "world.npz")
    assert all(
        np.array_equal(getattr(part, name), getattr(again, name), equal_nan=True)
        for name in SeenPairs.__dataclass_fields__
    )
    (tmp_path / "bad.npz").write_bytes(b"no such thing")
    with pytest.raises(InvalidInput, match="delete it"):
        SeenPairs.load(tmp_path / "bad.npz")


def test_the_pose_pulls_depths_to_the_truth_and_sureness_to_the_better_matches():
    bank = bank_of(range(4))
    batch = pair_bank.bank_batch(bank, np.arange(4), 5, 1.0)
    loss = metric_head.HeadMetricLoss(options(seen_weight=0.0))
    truth = torch.nan_to_num(batch.seen)
    off = torch.tensor(0.3, requires_grad=True)  # all a third too far
    loss._pose(truth + off, torch.zeros_like(truth), batch)[0].backward()
    assert off.grad > 0.02
    wrong = truth.clone()
    wrong[:, ::2] += 0.8 * torch.randn(wrong[:, ::2].shape, generator=torch.manual_seed(0))
    log_sigma = torch.zeros_like(truth, requires_grad=True)
    for seed in range(12):
        loss._pose(wrong, log_sigma, replace(batch, seed=seed))[0].backward()
    assert log_sigma.grad[:, ::2].mean() < log_sigma.grad[:, 1::2].mean() - 1e-6


def test_a_pairs_length_is_what_the_robot_reads_off_the_same_depths():
    part, *_ = wall(2)
    seen = torch.from_numpy(pair_bank.PairBank.of([part], LIMITS).seen[0].numpy().T.copy())
    rng = torch.manual_seed(1)
    log_sigma = torch.empty(seen.shape).uniform_(-3.0, -1.0, generator=rng)
    read = seen + 0.1 + torch.randn(seen.shape, generator=rng) * log_sigma.exp()
    read[:, ::9] += 1.5
    errors, counts = length_errors(read, log_sigma, seen)
    px = part.px[0].astype(float)
    rays = [np.linalg.solve(K, np.c_[side, np.ones(MATCHES)].T)[:2]
            for side in (px[:, :2], px[:, 2:])]  # fmt: skip
    motion = se3.inverse(part.pose[1])  # second_from_first
    way_m = np.linalg.norm(motion[:3, 3])
    for query, keyframe, pose in ((0, 1, motion), (1, 0, part.pose[1])):
        unit = pose.copy()
        unit[:3, 3] /= way_m
        read_m = 70.0 * read[keyframe].double().exp().numpy()
        pairs = SimpleNamespace(query=rays[query], keyframe=rays[keyframe], keyframe_m=read_m)
        found = length_from_depths(
            pairs, unit, np.ones(MATCHES, bool), match_sigma=1e-4,
            depth_sigma=log_sigma[keyframe].double().exp().numpy(),
            shift_sigma_m=metric_head.SHIFT_SIGMA_M,
        )  # fmt: skip
        assert counts[keyframe] == MATCHES
        assert np.isclose(np.log(found.length_m / way_m), errors[keyframe], atol=0.02)


def test_the_length_pulls_depths_to_the_truth_and_sureness_to_the_better_matches():
    batch = pair_bank.bank_batch(bank_of(range(4)), np.arange(4), 5, 1.0)
    rng = torch.manual_seed(0)
    off = torch.tensor(0.3, requires_grad=True)
    flat = torch.full(batch.seen.shape, -2.0)
    loss = length_loss(batch.seen + off, flat, batch.seen)
    loss.backward()
    assert np.isclose(loss.item(), 1.5 * 0.3 / ERROR, rtol=1e-3) and off.grad > 0
    wrong = batch.seen + 0.02 * torch.randn(batch.seen.shape, generator=rng)
    wrong[:, ::2] += 0.2
    log_sigma = flat.clone().requires_grad_()
    length_loss(wrong, log_sigma, batch.seen).backward()
    assert log_sigma.grad[:, ::2].mean() < 0 < log_sigma.grad[:, 1::2].mean()
    few = batch.seen.clone()
    few[:, 11:] = torch.nan
    depth = torch.zeros_like(few, requires_grad=True)
    nothing = length_loss(depth, flat, few)
    nothing.backward()
    assert nothing == 0 and (depth.grad == 0).all()


def test_metres_are_learnt_from_poses_alone(tmp_path):
    """No sensor knows a depth; of walls that it never saw the head then reads the distance."""
    made = options()
    made = replace(made, loop=replace(made.loop, steps=150, learning_rate=1e-2, ema=0.9))
    torch.manual_seed(0)
    network = build("lite_depth", **NETWORK)
    bank, unseen = bank_of(range(40), known=False), bank_of(range(100, 106))
    metric_head.train_on_bank(made, network, bank, unseen, tmp_path, fresh=True)
    header, *rows = (tmp_path / "validation.csv").read_text().splitlines()
    after = dict(zip(header.split(","), map(float, rows[-1].split(",")), strict=True))
    assert after["depth_error_percent"] < 12  # one depth for all errs by 30
    assert after["scale_error_percent"] < 15
    assert after["rotation_error_deg"] < 0.5


def test_an_interrupted_run_is_the_run_that_was_never_interrupted(tmp_path, monkeypatch):
    bank, unseen = bank_of(range(4)), bank_of(range(10, 12))
    made = options()

    def run(folder, made):
        torch.manual_seed(0)
        network = build("lite_depth", **NETWORK)
        metric_head.train_on_bank(made, network, bank, unseen, folder, fresh=True)
        return torch.load(folder / "checkpoint.pt", weights_only=True)

    class Stops(pair_bank.BankBatches):
        def batch(self, step, **others):
            if step >= 3:
                raise KeyboardInterrupt
            return super().batch(step, **others)

    whole = run(tmp_path / "whole", made)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metric_head, "BankBatches", Stops)
        run(tmp_path / "cut", replace(made, loop=replace(made.loop, checkpoint_s=0.0)))
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 3
    again = run(tmp_path / "cut", made)
    assert again["step"] == whole["step"] == 6
    assert all(torch.equal(v, again["model"][name]) for name, v in whole["model"].items())


def test_labels_of_a_card_come_from_parallax_where_no_sensor_knows_any():
    bank = bank_of(range(2), known=False)
    labels = metric_head.samples_of(bank).labels
    assert np.isfinite(labels).sum() > 30
    part, z, _ = wall(0, known=False)
    at = ((part.px[0, 0, :2] + 0.5) / 16).astype(int)
    inside = ((part.px[0, :, :2] + 0.5) / 16).astype(int) == at
    values = np.log(z / 70.0)[inside.all(axis=1)]
    place = [
        k for k in range(2) if np.isclose(values, labels[2 * k, at[1], at[0]], atol=1e-3).any()
    ]
    assert place
    px = bank.px.clone()  # a cell ends half a pixel beyond its last pixel's middle
    px[:, :, :2] = torch.tensor([15.7, 31.4])
    labels = metric_head.samples_of(replace(bank, px=px)).labels[bank.ends[:, 0]]
    known = np.argwhere(np.isfinite(labels))
    assert len(known) and (known[:, 1:] == (1, 1)).all()


def test_attention_is_the_same_while_it_learns():
    torch.manual_seed(0)
    layer = Attention(8)
    torch.nn.init.normal_(layer.answer.weight)
    x = torch.randn(2, 8, 3, 5)
    assert torch.allclose(layer.train()(x), layer.eval()(x), atol=1e-5)


def test_nothing_to_learn_is_said():
    with pytest.raises(InvalidInput, match="nothing would be learnt"):
        options(reinforce=False, direct=False, seen_weight=0.0)


def test_dropped_channels_change_nothing_on_the_whole():
    bank = bank_of(range(3))
    batches = pair_bank.BankBatches(bank, SIZE, 2, 0, dropout=0.5)
    drawn = [batches.batch(step, rank=0, count=1, difficulty=1.0) for step in range(300)]
    plain = pair_bank.BankBatches(bank, SIZE, 2, 0, dropout=0.0)
    whole = [plain.batch(step, rank=0, count=1, difficulty=1.0) for step in range(300)]
    means = [torch.stack([b.cells.mean(dim=(0, 2, 3)) for b in some]).mean(dim=0)
             for some in (drawn, whole)]  # fmt: skip
    assert torch.allclose(*means, atol=0.1)
    assert not torch.equal(drawn[0].cells, whole[0].cells)


def test_a_trial_draws_few_worlds_and_holds_some_out(tmp_path, monkeypatch):
    import argparse

    from l2m_ros.commands import train_metric, train_metric_head

    given = ("steps", "seed", "device", "sequences", "camera_height", "camera_pitch")
    args = argparse.Namespace(
        minutes=2.0, pairs=[], out=tmp_path, **dict.fromkeys(given)
    )  # fmt: skip
    made = train_metric._options(args, None)
    assert made.on_lite
    asked = []

    def rendered(options, matcher, folder):
        asked.append(options.worlds.worlds)
        return ((number, number) for number in range(options.worlds.worlds))

    monkeypatch.setattr(train_metric_head, "rendered_pairs", rendered)
    seen, unseen = train_metric_head.seen_and_unseen(args, made, None, tmp_path)
    assert asked == [train_metric_head.TRIAL_WORLDS]
    assert unseen == [0, 8, 16]
    assert seen == [k for k in range(train_metric_head.TRIAL_WORLDS) if k % 8]


def test_pairs_kept_within_other_limits_are_drawn_again(tmp_path, monkeypatch):
    from l2m_ros.commands import train_metric_head
    from l2m_ros.workshop.training import seen_pairs as seeing

    part, *_ = wall(1)
    drawn = []
    monkeypatch.setattr(
        train_metric_head,
        "_drafted",
        lambda seed, options: drawn.append(options.limits) or ([], []),
    )
    monkeypatch.setattr(seeing, "seen_pairs", lambda frames, ends, matcher: part)
    spec = SimpleNamespace(input=SimpleNamespace(size=SIZE), weights_id="w")
    for limits in (PairLimits(), PairLimits(way_m=3.0), PairLimits()):
        options = MetricOptions(worlds=WorldOptions(worlds=1), limits=limits)
        list(train_metric_head.rendered_pairs(options, SimpleNamespace(card=spec), tmp_path))
    assert [one.way_m for one in drawn] == [1.2, 3.0]


@pytest.mark.slow
def test_processes_render_what_one_does_and_only_what_is_missing(tmp_path):
    from l2m_ros.commands.train_metric_head import rendered_pairs
    from l2m_ros.matching.catalogue import load_matcher

    matcher = load_matcher("lite", size=(160, 128), threads=1)
    kept = {}
    for renderers in (1, 2):
        folder = tmp_path / str(renderers)
        worlds = WorldOptions(worlds=2, first_seed=107, renderers=renderers)
        options = MetricOptions(width=160, height=128, worlds=worlds)
        for _ in range(2):
            parts = dict(rendered_pairs(options, matcher, folder))
            files = sorted(folder.rglob("world*.npz"))
            times = [path.stat().st_mtime_ns for path in files]
            assert times == kept.setdefault(f"times {renderers}", times)
        kept[renderers] = parts
    assert kept[1] and kept[1].keys() == kept[2].keys()
    for number, part in kept[1].items():
        other = kept[2][number]
        assert all(
            getattr(part, name).tobytes() == getattr(other, name).tobytes()
            for name in part.__dataclass_fields__
        )


def asked_of_the_command(config=None, **said):
    from l2m_ros.commands import train_metric

    names = ("minutes", "seed", "device", "camera_height", "camera_pitch")
    args = SimpleNamespace(**{**dict.fromkeys(names), "steps": 1, **said})
    return train_metric._options(args, config).worlds


def test_the_command_names_the_mount_of_one_robots_camera():
    worlds = asked_of_the_command(camera_height=0.6, camera_pitch=-12.0)
    assert (worlds.height_m, worlds.pitch_deg) == (0.6, -12.0)
    assert asked_of_the_command().height_m is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"camera_height": float("nan")}, "height_m lies from"),
        ({"camera_height": 45.0}, "height_m lies from"),
        ({"camera_height": 0.4, "camera_pitch": 95.0}, "pitch_deg lies from"),
        ({"camera_pitch": 5.0}, "whose --camera-height is known"),
        ({"camera_height": 0.4, "config": COMPACT_CONFIG}, "for the head on lite"),
    ],
)
def test_a_mount_that_cannot_be_is_refused(said, words):
    with pytest.raises(InvalidInput, match=words):
        asked_of_the_command(**said)


def test_worlds_that_are_measured_on_are_never_trained_on(monkeypatch):
    from l2m_ros.commands import train_metric
    from l2m_ros.workshop.training import metric_data, metric_pairs

    asked = []
    monkeypatch.setattr(
        metric_data, "frames_of_worlds", lambda worlds, size: asked.append(worlds) or []
    )
    monkeypatch.setattr(metric_pairs, "MetricPairs", lambda *pairs: pairs)
    train_metric.metric_pairs(MetricOptions(worlds=WorldOptions(worlds=1000)), None)
    seeds = [set(range(one.first_seed, one.first_seed + one.worlds)) for one in asked]
    assert len(seeds) == 2 and not seeds[0] & seeds[1]
