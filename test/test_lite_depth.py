"""The metric head of lite: metres for any camera, its graph, its reader, the scale of a chain."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from l2m_ros.engines.backend import stages_of
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.geometry import se3
from l2m_ros.geometry.pose import PoseOptions, estimate_pose
from l2m_ros.geometry.scale import ScaleEvidence, relative_sigma
from l2m_ros.geometry.synthetic import World, keyframe_depth, trial
from l2m_ros.matching.mono_depth import (
    UNFAMILIAR,
    HeadDepthReader,
    MonoDepth,
    check_encoder,
    warn_of_height,
)
from l2m_ros.tracking.chain import locate
from l2m_ros.tracking.chain_scale import CarriedScale, joined, readings_of
from l2m_ros.tracking.scale_evidence import scale_evidence
from l2m_ros.types import Camera, Features, MetricPose, RelativePose

HEAD = ModelCard(
    name="head", architecture="lite_depth", input=InputSpec(64, 32, multiple=32),
    depth={"place_sigma": 0.2, "image_factor": 2.0, "cell_factor": 3.0, "image_correlation": 0.5,
           "common_share": 0.0},
    encoder={"model": "lite", "eyes_id": "a" * 16},
)  # fmt: skip


def camera(width, height, focal_px):
    K = np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1.0]])
    return Camera(width, height, K)


FEATURES = {name: np.zeros(1) for name in ("eyes", "eyes_wide")}


class Encoder:
    """Counts how often it is asked to encode."""

    name = "lite"

    def __init__(self):
        self.asked = 0
        self.backend = SimpleNamespace(to_host=dict)

    def encode_upright(self, rgb):
        self.asked += 1
        size = (rgb.shape[1], rgb.shape[0])
        return Features("lite", size, FEATURES)


class Constant:
    """A head that reads depth 1/100 of the focal length everywhere, with a sigma of each kind."""

    def run(self, stage, inputs):
        assert stage == "depth" and set(inputs) == {"eyes", "eyes_wide"}
        cells = np.full((1, 1, 2, 4), np.log(0.01))
        return {
            "log_depth": cells,
            "log_sigma": np.full_like(cells, np.log(0.1)),
            "image_log_sigma": np.full((1, 1), np.log(0.05)),
        }

    def to_host(self, tensors):
        return dict(tensors)


def test_depth_over_focal_length_becomes_metres_by_camera_and_size():
    """The input is 64x32: an image twice as wide has half its focal length there."""
    encoder = Encoder()
    reader = HeadDepthReader(HEAD, Constant(), encoder)
    rgb = np.zeros((32, 64, 3), np.uint8)
    depth = reader.read(rgb, camera(64, 32, 200.0))
    assert np.allclose(depth.depth, 2.0) and depth.depth.shape == (32, 64)
    large = np.zeros((64, 128, 3), np.uint8)
    assert np.allclose(reader.read(large, camera(128, 64, 400.0)).depth, 2.0)
    squeezed = np.zeros((32, 256, 3), np.uint8)  # fx shrinks by 4, fy stays: by 2 together
    assert np.allclose(reader.read(squeezed, camera(256, 32, 200.0)).depth, 1.0)
    assert encoder.asked == 3


def test_sigmas_are_the_heads_times_what_the_card_measured():
    depth = HeadDepthReader(HEAD, Constant(), Encoder()).read(
        np.zeros((32, 64, 3), np.uint8), camera(64, 32, 100.0)
    )
    assert np.allclose(depth.pixel_sigma, 0.3) and depth.image_sigma == pytest.approx(0.1)
    assert depth.scale_sigma == pytest.approx(np.hypot(0.2, 0.1))


def test_a_camera_unlike_those_of_training_is_not_believed():
    reader, tall = HeadDepthReader(HEAD, Constant(), Encoder()), np.zeros((32, 64, 3), np.uint8)
    assert reader.read(tall, camera(64, 32, 60.0)).place_sigma == pytest.approx(0.2)
    wide = np.zeros((32, 256, 3), np.uint8)
    for rgb, of in ((wide, camera(256, 32, 200.0)), (tall, camera(64, 32, 300.0))):
        assert relative_sigma(reader.read(rgb, of).scale_sigma) > 10.0


def test_a_scene_larger_than_any_that_was_measured_is_not_believed():
    card = replace(HEAD, depth={**HEAD.depth, "farthest_m": 1.5})
    reader, rgb = HeadDepthReader(card, Constant(), Encoder()), np.zeros((32, 64, 3), np.uint8)
    near, far = (reader.read(rgb, camera(64, 32, focal)) for focal in (140.0, 160.0))
    assert near.scale_sigma == pytest.approx(np.hypot(0.2, 0.1))
    assert np.allclose(far.depth, 1.6) and relative_sigma(far.scale_sigma) > 10.0


def test_what_images_of_a_place_share_no_keyframe_averages_out():
    card = replace(HEAD, depth={**HEAD.depth, "common_share": 0.75})
    depth = HeadDepthReader(card, Constant(), Encoder()).read(
        np.zeros((32, 64, 3), np.uint8), camera(64, 32, 100.0)
    )
    assert depth.image_sigma == pytest.approx(0.05)
    assert depth.scale_sigma == pytest.approx(np.hypot(0.2, 0.1))  # of one image: the same


@pytest.mark.parametrize("stated", [{}, {"shift_sigma_m": 0.01}])
def test_the_shift_that_a_card_states_reaches_the_pose(stated):
    card = replace(HEAD, depth={**HEAD.depth, **stated})
    depth = HeadDepthReader(card, Constant(), Encoder()).read(
        np.zeros((32, 64, 3), np.uint8), camera(64, 32, 100.0)
    )
    evidence = scale_evidence(SimpleNamespace(stereo=None, mono_depth=depth), None)
    assert evidence.mono_shift_sigma_m == stated.get("shift_sigma_m", 0.05)


def test_features_of_the_tracking_matcher_are_used_and_others_are_not():
    encoder = Encoder()
    reader = HeadDepthReader(HEAD, Constant(), encoder)
    rgb, of = np.zeros((32, 64, 3), np.uint8), camera(64, 32, 200.0)
    reader.read(rgb, of, Features("lite", (64, 32), FEATURES))
    assert encoder.asked == 0
    reader.read(rgb, of, Features("sift", (64, 32), {}))
    assert encoder.asked == 1
    stored = {"eyes": np.zeros(1)}  # a map keeps less
    reader.read(rgb, of, Features("lite", (64, 32), stored))
    assert encoder.asked == 2


@pytest.mark.parametrize("height_m", [None, 0.45])
def test_a_head_for_one_robots_camera_says_which(caplog, height_m):
    depth = HEAD.depth if height_m is None else {**HEAD.depth, "camera_height_m": height_m}
    warn_of_height(replace(HEAD, depth=depth))
    assert ("0.45 m above the floor" in caplog.text) == (height_m is not None)


def test_a_head_of_other_weights_is_refused():
    lite = ModelCard(name="lite", architecture="lite", input=InputSpec(64, 32), eyes_id="b" * 16)
    with pytest.raises(ModelError, match="l2m train depth"):
        check_encoder(HEAD, lite)
    with pytest.raises(ModelError, match="l2m export lite"):
        check_encoder(HEAD, replace(lite, eyes_id=None))
    check_encoder(HEAD, replace(lite, eyes_id="a" * 16, weights_id="c" * 16))  # trained on


def test_a_head_has_one_stage_and_a_matcher_none_of_it():
    assert stages_of(HEAD) == ["depth"]
    assert "depth" not in stages_of(replace(HEAD, encoder={}))


# --- the sigma of a scale -----------------------------------------------------------------------


@pytest.mark.parametrize("log_sigma", [0.02, 0.3, 0.7])
def test_relative_sigma_against_draws(log_sigma):
    x = np.random.default_rng(0).normal(0, log_sigma, 400_000)
    assert relative_sigma(log_sigma) == pytest.approx(np.sqrt(np.mean(np.expm1(x) ** 2)), rel=0.03)


def test_a_scale_too_uncertain_gives_a_direction_and_says_so():
    world = World("blind", keyframe_depth=False)
    t = trial(world, 0)
    for sigma, kind in ((0.2, MetricPose), (0.8, RelativePose)):
        evidence = ScaleEvidence(mono_depth=keyframe_depth(world), mono_scale_sigma=sigma)
        pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions(), evidence)
        assert isinstance(pose, kind)
    assert "max_scale_sigma" in pose.why_not_metric
    evidence = replace(evidence, mono_scale_sigma=UNFAMILIAR)
    pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions(), evidence)
    assert "unlike all that it knows" in pose.why_not_metric


def test_a_network_that_is_wrong_about_the_shape_is_not_sure_of_the_size():
    """All 3 m, where hills lie 1.5 to 6 m away: its stated 20 % are not believed."""
    world = World("blind", keyframe_depth=False)
    t = trial(world, 0)
    for claimed, sure in ((keyframe_depth(world), True), (np.full((480, 640), 3.0), False)):
        evidence = ScaleEvidence(mono_depth=claimed, mono_scale_sigma=0.2)
        options = PoseOptions(max_scale_sigma=3.0)
        pose = estimate_pose(t.matches, t.query, t.keyframe, options, evidence)
        assert (pose.scale_sigma < 0.25) is sure


def test_sure_pixels_weigh_more():
    """The right half is 12 % too far and says so: the pose follows the left half."""
    world = World("blind", keyframe_depth=False)
    t = trial(world, 0)
    depth = keyframe_depth(world)
    bad = np.zeros(depth.shape, bool)
    bad[:, depth.shape[1] // 2 :] = True
    claimed = np.where(bad, 1.12 * depth, depth)
    truth = np.linalg.norm(t.keyframe_from_camera[:3, 3])
    off = []
    for sigma in (0.1, np.where(bad, 1.0, 0.1)):
        evidence = ScaleEvidence(
            mono_depth=claimed, mono_sigma=sigma, mono_scale_sigma=0.1, mono_shift_sigma_m=0.0
        )
        pose = estimate_pose(t.matches, t.query, t.keyframe, PoseOptions(), evidence)
        off.append(abs(np.linalg.norm(pose.keyframe_from_camera[:3, 3]) / truth - 1))
    assert off[1] < 0.03 < off[0]


# --- one scale for a chain ----------------------------------------------------------------------


def image_of(factor, sigma=0.2, correlation=0.0):
    return MonoDepth(np.full((4, 4), np.exp(factor)), 0.1, 0.3, sigma, correlation)


def after(chain, new, link=0.0):
    said = float(np.log(chain.depth[0, 0] / new.depth[0, 0]))
    return joined(new, CarriedScale(said, readings_of(chain), link, chain.place_sigma))


def chain_of(factors, correlation=0.0, link=0.0):
    """The last keyframe of a chain of images of a depth of 1 that are read wrong by these logs."""
    chain = image_of(factors[0], correlation=correlation)
    for factor in factors[1:]:
        chain = after(chain, image_of(factor, correlation=correlation), link)
    return chain, float(np.log(chain.depth[0, 0]))


def test_a_chain_grows_surer_by_each_independent_keyframe():
    """n readings: their mean, and the variance of a mean; the place's sigma never shrinks."""
    factors = np.random.default_rng(3).normal(0, 0.01, 8)
    chain, off = chain_of(factors)
    assert off == pytest.approx(factors.mean(), abs=1e-4)
    assert chain.image_sigma == pytest.approx(0.2 / np.sqrt(8), rel=0.01)
    assert chain.scale_sigma > 0.3 and chain.place_sigma == 0.3


def test_correlated_keyframes_add_little():
    chain, off = chain_of(np.zeros(10), correlation=0.9)
    # Of a process that forgets by r: s^2 (1 + r) / (n (1 - r) + 2 r)
    assert chain.image_sigma == pytest.approx(0.2 * np.sqrt(1.9 / (1.0 + 1.8)))
    assert off == 0.0


def test_a_link_that_drifts_lets_old_readings_fade():
    """A random walk of variance q beside a reading of variance s^2: closed form of the filter."""
    chain, _ = chain_of(np.zeros(40), link=0.1**2)
    q, s2 = 0.1**2, 0.2**2
    ahead = (q + np.sqrt(q * q + 4.0 * q * s2)) / 2.0
    assert chain.image_sigma**2 == pytest.approx(ahead * s2 / (ahead + s2), rel=0.01)


def test_honest_over_chains_whose_factors_are_correlated():
    rng, r, ratios = np.random.default_rng(5), 0.7, []
    for _ in range(400):
        e = [rng.normal(0, 0.2)]
        for _ in range(6):
            e.append(r * e[-1] + rng.normal(0, 0.2 * np.sqrt(1 - r * r)))
        chain, off = chain_of(e, correlation=r)
        ratios.append((off / chain.image_sigma) ** 2)
    assert 0.75 < np.mean(ratios) < 1.3


@pytest.mark.parametrize("misread", [0, 3])  # which of five images: it began the chain, or not
def test_an_image_misread_by_far_is_outvoted(misread):
    """By five sigmas. Their mean would be 0.2 off and state 0.09."""
    ratios, offs = [], []
    for seed in range(100):
        factors = np.random.default_rng(seed).normal(0, 0.14, 5)
        factors[misread] = 1.0
        chain, off = chain_of(factors)
        offs.append(abs(off))
        ratios.append((off / chain.image_sigma) ** 2)
    assert np.median(offs) < 0.11
    assert np.mean(ratios) < 1.3


def test_of_two_images_that_disagree_nobody_knows_which_is_wrong():
    chain, off = chain_of([1.0, 0.0])
    assert off == pytest.approx(0.5)
    assert chain.image_sigma == pytest.approx(0.5, rel=0.05)  # and not 0.2 / sqrt(2)


def test_a_view_that_cannot_be_read_has_the_scale_of_its_chain():
    """A room, then through its door a hall that is read three times too near."""
    unread = replace(image_of(-1.1, sigma=UNFAMILIAR), place_sigma=UNFAMILIAR)
    hall = after(image_of(0.0), unread)
    assert abs(np.log(hall.depth[0, 0])) < 0.05
    assert hall.place_sigma == 0.3 and hall.image_sigma == pytest.approx(0.2, rel=0.05)
    room = after(unread, image_of(0.0))  # what the hall said counts for nothing
    assert abs(np.log(room.depth[0, 0])) < 0.05 and room.scale_sigma < 0.4


def test_a_shared_scale_adds_up_by_length_along_a_chain():
    """Ten equal edges with 10 % of common scale: 10 % of the whole way, not of its root."""
    edge = se3.transform(np.eye(3), np.array([0.0, 0.0, 1.0]))
    P = np.diag([1e-6] * 6)
    P[2, 2] += 0.1**2
    pose = MetricPose(edge, P, np.ones(3, bool), "mono_depth", scale_sigma=0.1)
    place = SimpleNamespace(
        odom_from_keyframe=np.eye(4), odom_covariance=np.zeros((6, 6)), odom_common_m=np.zeros(3)
    )
    for _ in range(10):
        found = locate(place, pose)
        place = SimpleNamespace(
            odom_from_keyframe=found.odom_from_camera,
            odom_covariance=found.covariance,
            odom_common_m=found.common_m,
        )
    assert found.common_m == pytest.approx([0, 0, 1.0])
    assert np.sqrt(found.covariance[2, 2]) == pytest.approx(1.0, rel=0.01)
    alone = locate(place, replace(pose, scale_sigma=0.0))
    assert np.sqrt(alone.covariance[2, 2]) == pytest.approx(np.hypot(1.0, 0.1), rel=0.01)


# --- network and data ---------------------------------------------------------------------------


@pytest.mark.slow
def test_head_to_graph_and_back(tmp_path):
    import torch

    from l2m_ros.engines.backend import BackendOptions, load_backend
    from l2m_ros.export.agreement import head_agreement
    from l2m_ros.export.stages import ExportOptions, export_model
    from l2m_ros.networks.registry import build

    torch.manual_seed(0)
    network = build("lite_depth", width=8, deep=8, blocks=1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    card = export_model(network, HEAD, ExportOptions(tmp_path, 64, 96))
    assert set(card.files) == {"depth"} and card.input.size == (96, 64)
    backend = load_backend("onnxruntime", card, BackendOptions(device="cpu"))
    assert max(head_agreement(network, backend, card).values()) < 1e-4


def test_labels_of_cells_do_not_change_with_a_crop():
    from l2m_ros.workshop.training.depth_data import DepthImage, cell_labels, cropped, stretched

    depth = np.full((96, 128), 2.0, np.float32)
    depth[:40, :40] = np.nan
    picture = DepthImage(np.zeros((96, 128, 3), np.uint8), camera(128, 96, 100.0).K, depth)
    whole = cell_labels(picture.depth, picture.K)
    assert whole[-1, -1] == pytest.approx(np.log(0.02)) and np.isnan(whole[0, 0])
    rng = np.random.default_rng(1)
    for _ in range(5):
        part = cropped(picture, rng)
        again = stretched(part, (128, 96))
        shrunk = np.sqrt(128 / part.rgb.shape[1] * 96 / part.rgb.shape[0])
        assert np.nanmax(cell_labels(again.depth, again.K)) == pytest.approx(
            np.log(0.02 / shrunk), abs=1e-5
        )


def test_sigmas_take_place_image_and_cell_apart():
    from l2m_ros.workshop.training.depth_head import (
        HeadErrors,
        common_share,
        neighbour_correlation,
        sigmas,
        stated,
    )

    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(40), 25)
    factor = rng.normal(0, 0.3, 40)[place] + rng.normal(0, 0.1, 1000)
    errors = HeadErrors(place, factor, np.full(1000, 0.05), np.full(1000, 1.7), factor)
    found = sigmas(errors)
    means = np.array([factor[place == k].mean() for k in range(40)])
    assert found["place_sigma"] == pytest.approx(np.sqrt(np.mean(means**2)), rel=1e-3)
    assert found["image_factor"] == pytest.approx(2.0, rel=0.1) and found["cell_factor"] == 1.7
    assert abs(neighbour_correlation(replace(errors, factor=rng.normal(size=1000)))) < 0.1
    still = replace(errors, factor=0.4 + 0.03 * rng.normal(size=1000))
    assert common_share(still, 1.0) == pytest.approx(1 - (0.03 / 0.05) ** 2, abs=0.05)
    card = stated(errors, [errors, still])
    assert card["common_share"] > 0.5
    assert stated(errors, [errors])["common_share"] == 0.9  # no recording told
    few = HeadErrors(*(np.arange(3) for _ in range(5)))
    with pytest.raises(InvalidInput, match="no place"):
        sigmas(few)


def test_real_places_are_read_wrong_by_more_than_worlds_until_recordings_tell():
    from l2m_ros.workshop.training.depth_head import REAL_SIGMA, HeadErrors, stated

    def read_off_by(*places):
        factor = np.repeat(places, 25) + np.tile(np.linspace(-0.1, 0.1, 25), len(places))
        count = len(factor)
        place = np.repeat(np.arange(len(places)), 25)
        return HeadErrors(place, factor, np.full(count, 0.05), np.ones(count), factor)

    worlds = read_off_by(0.1, -0.1)
    assert stated(None, [worlds])["place_sigma"] == pytest.approx(
        np.hypot(0.1, REAL_SIGMA), rel=0.01
    )
    # One place that happens to be right tells little, many tell all.
    one = stated(None, [worlds, read_off_by(0.0)])["place_sigma"]
    many = stated(None, [worlds, *(read_off_by(0.05) for _ in range(40))])["place_sigma"]
    assert 0.28 < one < 0.31 and 0.05 < many < 0.12


def test_training_learns_what_the_features_say(tmp_path):
    """One feature tells the log depth: its error falls to a fraction of a constant's."""
    import torch

    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.depth_data import Samples
    from l2m_ros.workshop.training.depth_head import (
        HeadBatches,
        HeadOptions,
        head_errors,
        train_head,
    )
    from l2m_ros.workshop.training.loop import LoopOptions

    rng = np.random.default_rng(0)
    told = rng.normal(0, 0.7, 32)
    cells = np.broadcast_to(told[:, None, None, None], (32, 5, 4, 6)).astype(np.float16)
    labels = np.broadcast_to(told[:, None, None] - 5.5, (32, 4, 6)).astype(np.float32)
    context = np.zeros((32, 2, 2, 3), np.float16)
    samples = Samples(cells, context, labels, np.repeat(np.arange(4), 8), np.full(32, -1))
    torch.manual_seed(0)
    network = build("lite_depth", eyes=5, wide=2, width=16, deep=16, blocks=1)
    loop = LoopOptions(steps=100, learning_rate=1e-2, warmup_steps=5, ema=0.9, bf16=False)
    options = HeadOptions(batch=8, channel_dropout=0.0, loop=loop)
    batches = HeadBatches([samples], [1.0], options)
    assert train_head(options, network, batches, samples, samples, tmp_path, fresh=True)
    learnt = np.abs(head_errors(network, samples).factor).mean()
    assert learnt < 0.3 * np.abs(told).mean()
    # Gone on with other places: what was learnt still reads its own features' mean and deviation.
    others = replace(samples, cells=(3.0 * cells + 2.0).astype(np.float16))
    still = HeadOptions(batch=8, loop=replace(loop, steps=1, learning_rate=1e-9))
    batches = HeadBatches([others], [1.0], still)
    train_head(still, network, batches, others, others, tmp_path / "on", fresh=False)
    assert np.abs(head_errors(network, samples).factor).mean() == pytest.approx(learnt, rel=0.01)


def test_a_dropped_channel_tells_its_mean():
    """And not zero: a head that sees all channels later would read depths that are off."""
    from l2m_ros.workshop.training.depth_data import Samples
    from l2m_ros.workshop.training.depth_head import HeadBatches, HeadOptions

    rng = np.random.default_rng(0)
    cells = rng.normal(3.0, 1.0, (40, 5, 4, 6)).astype(np.float16)
    context = rng.normal(-2.0, 0.1, (40, 2, 2, 3)).astype(np.float16)
    labels = np.zeros((40, 4, 6), np.float32)
    samples = Samples(cells, context, labels, np.arange(40), np.full(40, -1))
    batches = HeadBatches([samples], [1.0], HeadOptions(batch=64, channel_dropout=0.5))
    batch = batches.batch(0, rank=0, count=1, difficulty=1.0)
    for seen, stored in ((batch.cells, cells), (batch.context, context)):
        flat = seen.flatten(2)
        still = (flat == flat[..., :1]).all(dim=2)
        assert 0.3 < still.float().mean() < 0.7
        mean = stored.astype(np.float64).mean(axis=(0, 2, 3))
        told = np.broadcast_to(mean, still.shape)[still.numpy()]
        assert flat[..., 0][still].numpy() == pytest.approx(told, abs=1e-3)
        assert seen.mean(dim=(0, 2, 3)).numpy() == pytest.approx(mean, abs=0.3)


def test_a_member_never_learns_from_its_family_and_what_they_dispute_is_less_sure():
    import torch

    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.depth_head import HeadBatch, head_loss

    torch.manual_seed(0)
    network = build("lite_depth", eyes=5, wide=2, width=16, deep=16, blocks=1, members=3)
    batch = HeadBatch(torch.randn(3, 5, 4, 6), torch.randn(3, 2, 2, 3),
                      torch.full((3, 1, 4, 6), -4.0), torch.tensor([1, 1, 1]))  # fmt: skip
    head_loss(network, batch)[0].backward()
    moved = [any((p.grad != 0).any() for p in m.parameters()) for m in network.members]
    assert moved == [True, False, True]
    one = network(batch.cells, batch.context)["image_log_sigma"]
    with torch.no_grad():
        network.members[0].out.bias[0] += 1.0
    other = network(batch.cells, batch.context)["image_log_sigma"]
    assert torch.allclose(other.exp() ** 2 - one.exp() ** 2, torch.tensor(1 / 3), atol=1e-4)


def test_desks_are_seen_from_near_with_exact_depth():
    from l2m_ros.workshop.simulation.draft import draft_world
    from l2m_ros.workshop.training.depth_views import images_of_world

    world = draft_world(3, "desk")
    views = list(images_of_world(world, 3, 4, (96, 72)))
    nearest = [float(np.nanquantile(view.depth, 0.1)) for view in views]
    assert len(views) == 4 and min(nearest) < 0.9 and max(nearest) < 3.0
    assert all(0.5 < view.K[0, 0] / 96 < 1.1 for view in views)
