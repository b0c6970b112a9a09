"""Training from relative poses: gradients, bad input, resumption, pairs from folders."""

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.networks.mickey import rigid
from l2m_ros.networks.mickey.network import COMPACT, build_mickey
from l2m_ros.networks.mickey.solver import Views
from l2m_ros.types import Camera
from l2m_ros.workshop.training import (
    depth_data,
    metric,
    metric_data,
    metric_errors,
    metric_pairs,
    posed_recordings,
)
from l2m_ros.workshop.training.loop import LoopOptions
from l2m_ros.workshop.training.metric_data import PosedFrame
from l2m_ros.workshop.training.metric_losses import LOSSES, Truth
from l2m_ros.workshop.training.metric_pairs import MetricPairs, PairLimits, overlaps
from l2m_ros.workshop.training.metric_ransac import (
    RansacOptions,
    backward,
    curriculum,
    draw_hypotheses,
    expected_loss,
    learnt,
)

K = torch.tensor([[150.0, 0.0, 80.0], [0.0, 150.0, 60.0], [0.0, 0.0, 1.0]])
SMALL = RansacOptions(rounds=3, pairs=40, hypotheses=6, corners=5)
NETWORK = {**COMPACT, "width": 16, "learnt_descriptor": 4}


def problem(batch=3, count=60, noise=0.0, seed=0):
    """Lifted points of a known motion; (views, truth, scores) with one right partner each."""
    rng = np.random.default_rng(seed)
    R = torch.from_numpy(se3.exp(np.array([0, 0, 0, 0.1, -0.2, 0.05]))[:3, :3]).float()
    t = torch.tensor([0.3, -0.1, 0.2])
    pixels = torch.from_numpy(rng.uniform([0, 0], [160, 120], (batch, count, 2))).float()
    depth = torch.from_numpy(rng.uniform(1.5, 5, (batch, count))).float()
    moved = rigid.lift(pixels, depth, K) @ R.T + t
    other = (
        moved[..., 2] * torch.exp(torch.from_numpy(rng.normal(0, noise, (batch, count)))).float()
    )
    kps1 = rigid.project(moved, K)
    cameras = K.expand(batch, 3, 3)
    views = Views(
        pixels.mT.contiguous(), kps1.mT.contiguous(), depth[:, None], other[:, None],
        cameras, cameras,
    )  # fmt: skip
    truth = Truth(R.expand(batch, 3, 3), t.expand(batch, 3), cameras, cameras)
    return views, truth, torch.eye(count).expand(batch, count, count) + 1e-4


def drawn(scores, options=SMALL):
    return draw_hypotheses(scores, options, torch.Generator().manual_seed(1))


def test_right_points_cost_little_and_wrong_depths_more():
    costs = []
    for noise in (0.0, 0.1, 0.5):
        views, truth, scores = problem(noise=noise)
        costs.append(float(expected_loss(views, truth, drawn(scores), SMALL).loss.mean()))
    assert costs[0] < 0.05 < costs[1] < costs[2]


def test_without_inliers_the_null_hypothesis_wins():
    views, truth, scores = problem(noise=2.0)
    options = replace(SMALL, temperature=2.0)
    with_null = expected_loss(views, truth, drawn(scores), options).loss
    assert torch.allclose(with_null, torch.tensor(LOSSES["vcre"].null_soft), atol=0.05)


def test_the_direct_gradient_moves_depths_towards_the_truth():
    views, truth, scores = problem()
    factor = torch.tensor(1.15, requires_grad=True)
    scaled = Views(
        views.kps0, views.kps1, views.depth0 * factor, views.depth1 * factor, views.K0, views.K1
    )
    loss = expected_loss(scaled, truth, drawn(scores), SMALL).loss.mean()
    loss.backward()
    assert factor.grad > 0.01


def test_reinforce_favours_the_pairs_of_better_rounds():
    views, truth, scores = problem(noise=0.3)
    draws = drawn(scores)
    expected = expected_loss(views, truth, draws, SMALL)
    step = learnt(expected, torch.ones(3), scores.shape)
    rounds = expected.rounds[0].detach()
    best, worst = int(rounds.argmin()), int(rounds.argmax())
    only_best = set(draws.pairs[0, best].tolist()) - {
        p for r in range(3) if r != best for p in draws.pairs[0, r].tolist()
    }
    only_worst = set(draws.pairs[0, worst].tolist()) - {
        p for r in range(3) if r != worst for p in draws.pairs[0, r].tolist()
    }
    flat = step.log_p[0].flatten()
    assert only_best and all(flat[p] < 0 for p in only_best)
    assert only_worst and all(flat[p] > 0 for p in only_worst)


def test_the_loops_loss_has_the_published_steps_gradients():
    """The surrogate that the loop differentiates against one autograd call with both gradients."""
    torch.manual_seed(0)
    network = build_mickey(**NETWORK)
    batch = metric_data.collate([pairs().pair(i, 1.0) for i in range(3)], 7, 1.0)
    options = metric.MetricOptions(network=NETWORK, ransac=SMALL)
    loss_of = metric.MetricLoss(options)
    loss_of(network, batch)[0].backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    features = network.encode(torch.cat([batch.first, batch.second]))
    first, second = ({k: v[s] for k, v in features.items()} for s in (slice(0, 3), slice(3, 6)))
    scores = network.final_scores(first, second)
    draws = draw_hypotheses(scores, SMALL, torch.Generator().manual_seed(7))
    views, truth = metric_data.views_of(first, second, batch), metric_data.truth_of(batch)
    expected = expected_loss(views, truth, draws, SMALL)
    backward(learnt(expected, curriculum(expected.loss, 80.0), scores.shape), scores)
    assert len(ours) > 20
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(ours[name], parameter.grad, atol=1e-6, rtol=1e-4), name


def test_pairs_of_one_difficulty_have_the_whole_loss_from_the_first_step():
    made = metric.MetricOptions(network=NETWORK, ransac=SMALL)
    assert metric.Ramp(made).easiest(made.loop.difficulty[0]) == made.easiest[0]
    level = replace(made, loop=replace(made.loop, difficulty=(1.0, 1.0)))
    assert metric.Ramp(level).easiest(1.0) == made.easiest[1]
    assert metric.Ramp(level).ransac(1.0) == SMALL


# --- bad input --------------------------------------------------------------------------------


def test_points_on_one_line_give_finite_gradients():
    views, truth, scores = problem()
    line = torch.zeros_like(views.kps0) + 50.0
    depth = views.depth0.clone().requires_grad_()
    flat = Views(line, line, depth, depth, views.K0, views.K1)
    expected = expected_loss(flat, truth, drawn(scores), SMALL)
    expected.loss.sum().backward()
    assert torch.isfinite(depth.grad).all()
    assert torch.isfinite(expected.loss).all()


def test_depths_of_zero_or_below_are_learnt_from():
    views, truth, scores = problem()
    depth = (views.depth0 - 3.0).requires_grad_()
    expected = expected_loss(replace(views, depth0=depth), truth, drawn(scores), SMALL)
    expected.loss.sum().backward()
    assert torch.isfinite(depth.grad).all()


def test_a_pair_with_nan_is_left_out_of_the_curriculum():
    loss = torch.tensor([0.4, torch.nan, 0.1, 0.3])
    assert curriculum(loss, None).tolist() == [1, 0, 1, 1]
    assert curriculum(loss, 40.0).tolist() == [0, 0, 1, 0]
    assert curriculum(torch.tensor([0.7]), 30.0).tolist() == [1]
    assert curriculum(torch.tensor([0.5, 0.2, 0.3, 0.1]), 50.0).tolist() == [0, 1, 0, 1]


def test_unknown_options_fail_with_the_nearest_spelling():
    with pytest.raises(InvalidInput, match="did you mean depth_weight"):
        metric.options_from({"depth_wieght": 1})
    with pytest.raises(InvalidInput, match="loss is 'vcr'"):
        metric.options_from({"ransac": {"loss": "vcr"}})
    with pytest.raises(InvalidInput, match="nothing would be learnt"):
        metric.MetricOptions(reinforce=False, direct=False)


# --- pairs ------------------------------------------------------------------------------------


def posed_frames(count=6, size=(96, 64), seed=0):
    """A textured wall at 2 m, seen from cameras along it."""
    rng = np.random.default_rng(seed)
    wall = cv2.GaussianBlur(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8), (0, 0), 1.5)
    camera = Camera(*size, np.array([[80.0, 0, 47.5], [0, 80.0, 31.5], [0, 0, 1]]))
    frames = []
    for k in range(count):
        pose = se3.exp(np.array([0.15 * k, 0.02 * k, 0.05 * k, 0, 0, 0.05 * k]))
        H = camera.K @ (pose[:3, :3].T @ np.array([[1, 0, -pose[0, 3]], [0, 1, -pose[1, 3]],
                                                   [0, 0, 2 - pose[2, 3]]]))  # fmt: skip
        place = np.diag([100.0, 100.0, 1.0])
        place[:2, 2] = 120, 120
        rgb = cv2.warpPerspective(wall, H @ np.linalg.inv(place), size)
        frames.append(PosedFrame(rgb, camera, pose, np.full(size[::-1], 2.0, np.float32)))
    return frames


def pairs(seed=0, **limits):
    return MetricPairs([posed_frames()], seed, PairLimits(**limits))


def test_a_pair_belongs_to_its_number_and_keeps_the_limits():
    source = pairs(way_m=0.4, turn_deg=20)
    for index in range(20):
        first, again = source.pair(index, 1.0), source.pair(index, 1.0)
        assert first.first is again.first
        assert first.second is again.second
        assert 0.1 <= first.way_m <= 0.4
    assert np.median([source.pair(i, 0.5).way_m for i in range(20)]) < 0.25
    with pytest.raises(InvalidInput, match="no two posed images"):
        MetricPairs([posed_frames(1)], 0)


def test_overlap_is_the_share_that_the_other_image_shows():
    """A wall at 2 m, 80 px: a camera 0.6 m to the side shows it 24 px of 96 farther on."""
    frame = posed_frames(1)[0]
    beside = replace(frame, world_from_camera=se3.exp(np.array([0.6, 0, 0, 0, 0, 0])))
    hidden = replace(beside, depth=np.full((64, 96), 1.5, np.float32))
    group = [frame, beside, hidden]
    share = overlaps(group, np.argwhere(np.ones((3, 3)))).reshape(3, 3)
    assert np.allclose(np.diag(share), 1.0) and share[0, 1] == pytest.approx(0.75, abs=0.05)
    assert share[0, 2] == 0.0
    apart = replace(frame, world_from_camera=se3.exp(np.array([2.0, 0, 0, 0, 0, 0])))
    with pytest.raises(InvalidInput, match="show the same"):
        MetricPairs([[frame, apart]], 0)


def test_of_a_long_recording_only_pairs_within_the_limits_are_looked_at(monkeypatch):
    """All pairs of 5,000 images were held at once, and each looked at: 2 GB and an hour."""
    looked = []

    def counted(group, ends):
        looked.append(len(ends))
        return overlaps(group, ends)

    monkeypatch.setattr(metric_pairs, "overlaps", counted)
    frame = posed_frames(1)[0]
    drive = [
        replace(frame, world_from_camera=se3.exp(np.array([0.25 * k, 0, 0, 0, 0, 0])))
        for k in range(200)
    ]
    found = metric_pairs.pair_list(drive, PairLimits(way_m=1.1, overlap=0.5))
    apart = np.abs(np.subtract(*found.ends.T))
    assert looked == [2 * (199 + 198 + 197 + 196)] == [len(found.ends)]
    assert (np.diff(found.excess) >= 0).all() and set(apart) == {1, 2, 3, 4}
    assert found.excess == pytest.approx(0.25 * apart / 1.1)
    # Where none is within the limits, those beyond.
    assert len(metric_pairs.pair_list(drive[::8], PairLimits(way_m=1.1, overlap=0.0)).ends) == 600


def test_the_devices_batches_are_those_of_the_cpu():
    from l2m_ros.workshop.training.metric_data import MetricBatches
    from l2m_ros.workshop.training.metric_device import DeviceMetricBatches

    source = pairs(way_m=0.8)
    plain = MetricBatches(source, (96, 64), 3, 0)
    there = DeviceMetricBatches(source, (96, 64), 3, 0, "cpu")
    for step in (0, 4):
        a, b = (s.batch(step, rank=0, count=1, difficulty=1.0) for s in (plain, there))
        assert a.seed == b.seed
        for name in ("first", "second", "K_first", "second_from_first", "depth_second"):
            assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-3), name


def test_a_sequences_folder_is_read_by_segments(tmp_path):
    folder = tmp_path / "office"
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True)
    cameras = {}
    for k, frame in enumerate(posed_frames(5)):
        cv2.imwrite(str(folder / f"images/{k}.png"), frame.rgb[..., ::-1])
        cv2.imwrite(str(folder / f"depth/{k}.png"), np.full((64, 96), 2000, np.uint16))
        cameras[f"{k}.png"] = {
            "world_from_camera": frame.world_from_camera.tolist(), "segment": int(k > 2),
        }  # fmt: skip
    meta = {"K": frame.camera.K.tolist(), "cameras": cameras, "depth_scale": 0.001}
    (folder / "meta.json").write_text(json.dumps(meta))
    said = []
    groups = posed_recordings.frames_of_sequences(tmp_path, (64, 32), said.append)
    assert [len(group) for group in groups] == [3, 2]
    assert said == ["office: 5 posed images"]
    read = groups[0][1]
    assert read.rgb.shape == (32, 64, 3)
    assert read.camera.K[0, 0] == pytest.approx(80 * 64 / 96)
    assert np.allclose(read.depth, 2.0)
    assert np.array_equal(read.world_from_camera, cameras["1.png"]["world_from_camera"])
    with pytest.raises(InvalidInput, match=r"no meta.json"):
        posed_recordings.frames_of_sequences(tmp_path / "office" / "images", (64, 32), said.append)
    # Beyond max_depth a sensor guesses: it was learnt from.
    (folder / "meta.json").write_text(json.dumps({**meta, "max_depth": 1.5}))
    groups = posed_recordings.frames_of_sequences(tmp_path, (64, 32), said.append)
    assert np.isnan(groups[0][1].depth).all()
    assert all(np.isnan(image.depth).all() for image in depth_data.images_of_sequence(folder))
    (folder / "meta.json").write_text(json.dumps({**meta, "K": [[1, 2], [3]]}))
    for read in (
        lambda: list(depth_data.images_of_sequence(folder)),
        lambda: posed_recordings.frames_of_sequences(tmp_path, (64, 32), said.append),
    ):
        with pytest.raises(InvalidInput, match=r"meta.json: 0.png"):
            read()


def test_an_interrupted_run_is_the_run_that_was_never_interrupted(tmp_path):
    options = metric.MetricOptions(
        network=NETWORK, width=96, height=64, batch=2, validation_pairs=2, ransac=SMALL,
        loop=LoopOptions(steps=4, bf16=False, warmup_steps=1),
    )  # fmt: skip

    class Stops(MetricPairs):
        def pair(self, index, difficulty):
            if index >= 4:
                raise KeyboardInterrupt
            return super().pair(index, difficulty)

    def run(folder, source):
        torch.manual_seed(0)
        metric.train_metric(options, build_mickey(**NETWORK), source, pairs(5), folder)
        return torch.load(folder / "checkpoint.pt", weights_only=True)

    whole = run(tmp_path / "whole", pairs())
    cut = replace(options, loop=replace(options.loop, checkpoint_s=0.0))
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        stopping = Stops(pairs().groups, 0)
        metric.train_metric(cut, build_mickey(**NETWORK), stopping, pairs(5), tmp_path / "cut")
    again = run(tmp_path / "cut", pairs())
    assert again["step"] == whole["step"] == 4
    for name, value in whole["model"].items():
        assert torch.equal(value, again["model"][name]), name
    header, *rows = (tmp_path / "cut" / "validation.csv").read_text().splitlines()
    assert rows and "scale_error_percent" in header and "place_sigma" in header


def test_untrained_keypoints_match_a_moved_wall():
    """Corners and gradients are given: matching needs no training."""
    network = build_mickey(**NETWORK)
    made = posed_frames(2)
    batch = metric_data.collate([metric_data.MetricPair(*made)], 0, 1.0)
    with torch.no_grad():
        first, second = network.encode(batch.first), network.encode(batch.second)
        i, j, _ = metric_errors.mutual_pairs(network, first, second)
    a, b = (side["keypoints"][0].T.numpy() for side in (first, second))
    x = np.c_[a[i], np.ones(len(i))] @ np.linalg.inv(made[0].camera.K).T
    pose = made[0].world_from_camera
    depth = (2.0 - pose[2, 3]) / (x @ pose[2, :3])
    y = se3.inverse(made[1].world_from_camera) @ pose @ np.vstack([x.T * depth, np.ones(len(i))])
    seen = made[1].camera.K @ y[:3]
    off = np.linalg.norm((seen[:2] / seen[2]).T - b[j], axis=1)
    assert len(i) > 20
    assert (off < 3).mean() > 0.6


@pytest.mark.slow
def test_the_command_trains_and_writes_a_model_that_matches(tmp_path, capsys):
    from l2m_ros.cli import main
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.metric_matcher import MetricMatcher
    from l2m_ros.matching.mono_depth import load_depth_reader

    config = {
        "network": NETWORK, "width": 96, "height": 64, "batch": 2, "validation_pairs": 3,
        "ransac": {"rounds": 2, "pairs": 30, "hypotheses": 4, "corners": 4},
        "worlds": {"worlds": 1, "frames": 4}, "loop": {"bf16": False},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(json.dumps(config))
    out = tmp_path / "run"
    command = ["train", "metric", "--config", str(tmp_path / "tiny.yaml"), "--steps", "2"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert str(out / "model") in said.out and "unseen worlds depth now errs by" in said.err
    matcher = load_matcher(str(out / "model"), backend="onnxruntime")
    assert isinstance(matcher, MetricMatcher)
    assert matcher.sigmas()["scale_sigma"] > 0.01
    rgb = posed_frames(1)[0].rgb
    pairs_found = matcher.match(matcher.encode(rgb), matcher.reference(matcher.encode(rgb)))
    assert len(pairs_found) > 10
    assert np.abs(pairs_found.query_px - pairs_found.keyframe_px).max() < 1e-3
    reader = load_depth_reader(str(out / "model"))
    assert reader.read(rgb, posed_frames(1)[0].camera).depth.shape == (64, 96)


def test_a_run_says_what_it_learnt_and_when_that_is_nothing_yet():
    from l2m_ros.commands.train_output import learnt_words

    after = {"depth_error_percent": 21.0, "lost_percent": 5.0, "turn_deg": 14.0,
             "scale_error_percent": 17.0, "rotation_error_deg": 3.2,
             "within10_percent_of_way": 12.0}  # fmt: skip
    words = learnt_words(after, 56.0, fresh=True)
    assert "21 % (56 % untrained" in words and "scale 17 %, rotation 3.2 degrees, 12 %" in words
    lost = learnt_words({**after, "lost_percent": 60.0}, 56.0, fresh=False)
    assert "60 % of the pairs have no metric pose" in lost and "rotation" not in lost
    assert "56 % by the weights that it began with" in lost


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda m, one: one["world_from_camera"][0].__setitem__(0, 2.0),
            "does not hold a rotation",
        ),
        (lambda m, one: one["world_from_camera"][0].__setitem__(3, math.nan), "finite numbers"),
        (lambda m, one: one.update(width=48), "96x64 but its camera says 48x64"),
        (lambda m, one: m.pop("K"), "has no K"),
        (lambda m, one: m.update(cameras=[1]), "must hold an object"),
        (lambda m, one: m.pop("depth_scale"), "needs a positive depth_scale"),
    ],
)
def test_a_recording_with_a_mistake_is_refused_not_learnt_from(tmp_path, spoil, words):
    frame = posed_frames(1)[0]
    for part in ("images", "depth"):
        (tmp_path / part).mkdir()
    cv2.imwrite(str(tmp_path / "images/0.png"), frame.rgb)
    cv2.imwrite(str(tmp_path / "depth/0.png"), np.full((64, 96), 2000, np.uint16))
    one = {"world_from_camera": np.eye(4).tolist()}
    meta = {"K": frame.camera.K.tolist(), "cameras": {"0.png": one}, "depth_scale": 0.001}
    spoil(meta, one)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InvalidInput, match=words):
        posed_recordings.frames_of_sequences(tmp_path, (64, 32), lambda words: None)
    if "rotation" not in words and "finite" not in words:  # depth alone takes no pose
        with pytest.raises(InvalidInput, match=words):
            list(depth_data.images_of_sequence(tmp_path))
