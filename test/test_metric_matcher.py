"""The matcher that gives depth at both ends: pixels, focal lengths, exported graphs, bad output."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2m_ros.engines.backend import BackendOptions
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.engines.onnxruntime import load
from l2m_ros.engines.torch import TorchBackend
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.export import onnx_graph
from l2m_ros.export.agreement import agreement
from l2m_ros.export.parser_check import problems_of
from l2m_ros.export.stages import ExportOptions, export_model
from l2m_ros.geometry import se3
from l2m_ros.matching.metric_matcher import MetricMatcher
from l2m_ros.matching.mono_depth import MetricDepthReader, MonoDepth, load_depth_reader
from l2m_ros.matching.sampling import correspondences
from l2m_ros.networks.mickey.network import TINY, build_mickey
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

CARD = ModelCard(name="mickey", architecture="mickey", input=InputSpec(168, 140, multiple=14))


class Known:
    """A network whose cells show their own places: partner = the cell to the right."""

    columns, rows = 6, 5

    def encode(self, image):
        n = self.columns * self.rows
        x, y = torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="xy")
        return {
            "keypoints": (torch.stack([x, y]).flatten(1)[None] + 0.5) * 28 - 0.5,
            "depth": torch.arange(n, dtype=torch.float32)[None, None] - 3.0,
            "score": torch.ones(1, 1, n) / n,
            "descriptors": torch.zeros(1, 1, n),
        }

    def reference(self, features):
        return dict(features)

    def match(self, features, reference):
        n = self.columns * self.rows
        partner = (torch.arange(n) + 1) % n
        back = (torch.arange(n) - 1) % n
        return {
            "partner": partner[None].float(), "back": back[None].float(),
            "probability": torch.linspace(0, 1, n)[None],
        }  # fmt: skip


def known(**config):
    card = ModelCard(
        name="known", architecture="mickey", input=InputSpec(168, 140), config=config,
        depth={"scale_sigma": 0.2, "image_sigma": 0.05},
    )  # fmt: skip
    return MetricMatcher(card, TorchBackend(Known()))


def image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def matched(matcher, query, keyframe):
    return matcher.match(matcher.encode(query), matcher.reference(matcher.encode(keyframe)))


def test_pixels_belong_to_each_image_and_depth_to_each_end():
    pairs = matched(known(), image(336, 140), image(168, 280))
    assert len(pairs) == 29  # a probability of 0 is none
    assert pairs.query_px[0] == pytest.approx([(1.5 * 28) * 2 - 0.5, 13.5])
    assert pairs.keyframe_px[0] == pytest.approx([2.5 * 28 - 0.5, 14 * 2 - 0.5])
    assert pairs.depths.query[:3].tolist() == [-2, -1, 0]
    assert pairs.depths.keyframe[:3].tolist() == [-1, 0, 1]
    assert pairs.depths.scale_sigma == 0.2
    assert not pairs.depths.per_focal


def test_depth_by_focal_length_follows_the_images_size():
    pairs = matched(known(per_focal=True), image(336, 280), image(168, 140))
    assert pairs.depths.per_focal
    assert pairs.depths.query[4] == pytest.approx(2 / 2)
    assert pairs.depths.keyframe[4] == pytest.approx(3)


def test_sampling_keeps_the_depths():
    pairs = correspondences(matched(known(), image(168, 140), image(168, 140)), limit=5)
    assert len(pairs) == 5
    assert pairs.depths.query.tolist() == [22, 23, 24, 25, 26]


def test_foreign_features_and_networks_are_refused():
    matcher = known()
    features = matcher.encode(image(168, 140))
    with pytest.raises(InvalidInput, match="Reference second"):
        matcher.match(features, features)
    with pytest.raises(InvalidInput, match="expected Features"):
        matcher.match(3, features)

    class Warp(Known):
        def match(self, features, reference):
            return {"warp": torch.zeros(1, 2, 4, 4)}

    wrong = MetricMatcher(matcher.card, TorchBackend(Warp()))
    with pytest.raises(ModelError, match="gives no partner"):
        matched(wrong, image(168, 140), image(168, 140))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_exported_graphs_give_torchs_pairs(tmp_path, precision):
    network = fill(build_mickey(**{**TINY, "vit_depth": 1, "attention_layers": 1}), "export: ")
    card = export_model(network, CARD, ExportOptions(tmp_path, 140, 168, precision))
    models = {role: onnx_graph.load(card.file(role)) for role in card.files}
    assert set(models) == {"encoder", "decoder"}  # the reference keeps the features
    assert not [p for model in models.values() for p in problems_of(model)]
    types = {o.name: o.type.tensor_type.elem_type for o in models["encoder"].graph.output}
    assert all(types[name] == onnx_graph.FLOAT for name in ("keypoints", "depth", "score"))
    half = precision == "fp16"
    weights = [tensor.data_type for tensor in models["encoder"].graph.initializer]
    assert (onnx_graph.HALF in weights) == half
    result = agreement(network, load(card, BackendOptions()), card)
    assert result.p99_px < (0.1 if half else 0.01)
    assert result.pixels > 5
    assert result.certainty < (0.05 if half else 1e-4)
    pairs = matched(MetricMatcher(card, load(card, BackendOptions())), image(168, 140), image(9, 9))
    assert np.isfinite(pairs.query_px).all()


# --- metres for another matcher ---------------------------------------------------------------


def reader(**config):
    return MetricDepthReader(known(patch=28, **config))


def camera_of(width, height, focal=100.0):
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(width, height, K)


def test_a_depth_map_has_the_cells_depths_and_the_cards_sigmas():
    read = reader().read(image(336, 280), camera_of(336, 280))
    assert read.depth.shape == (280, 336)
    assert np.isnan(read.depth[10, 30])  # not positive there
    assert read.depth[28 + 56, 28 + 2 * 56] == pytest.approx(6 * 1 + 2 - 3, abs=0.2)
    assert read.scale_sigma == pytest.approx(np.hypot(0.2, 0.05))


def test_depth_over_focal_length_becomes_metres_by_the_camera():
    near = reader(per_focal=True).read(image(168, 140), camera_of(168, 140, 50.0))
    far = reader(per_focal=True).read(image(168, 140), camera_of(168, 140, 100.0))
    good = np.isfinite(near.depth)
    assert np.allclose(2 * near.depth[good], far.depth[good])


def test_a_matcher_that_reads_no_metres_is_refused():
    assert load_depth_reader("") is None
    with pytest.raises(InvalidInput, match="reads no metres"):
        load_depth_reader("sift")


def test_a_tracker_without_depth_has_metres_by_the_reader():
    """Depth of the right scale up to 10 %, another matcher: poses are metric and honest."""

    class Sight:
        """Reads the true depth of a frame, 8 % too far."""

        def read(self, rgb, camera, features):
            depth = next(s.true_depth_m for s in shots if np.array_equal(s.frame.rgb, rgb))
            return MonoDepth((depth * 1.08).astype(np.float32), 0.02, 0.1, 0.01)

    options = SimulationOptions(frames=6, rate_hz=3.0, width=320, height=240, stereo=False)
    oracle = OracleMatcher(noise_px=0.3)
    shots = list(oracle.watch(simulate(options)))
    for given, wanted in ((Sight(), "mono_depth"), (None, None)):
        tracker = Tracker(oracle, depth_reader=given)
        results = [tracker.process(replace(shot.frame, depth=None)) for shot in shots]
        posed = [(r, s) for r, s in zip(results, shots, strict=True) if r.pose is not None]
        assert {r.pose.scale_source for r, _ in posed} == ({wanted} if wanted else set())
        for r, shot in posed:
            start = next(s for s in shots if s.frame.stamp_ns == r.keyframe.frame.stamp_ns)
            truth = np.linalg.inv(start.world_from_camera) @ shot.world_from_camera
            off = se3.difference(truth, r.pose.keyframe_from_camera)
            assert off @ np.linalg.solve(r.pose.covariance, off) < 22  # 99.9 % of chi-square
        assert len(posed) > 2 or given is None
