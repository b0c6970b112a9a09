"""L2M's first stage: surfels, features in space, nearest neighbours, the training, the files."""

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.texture import texture

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching.catalogue import find_card
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.vit import ViT
from l2m_ros.workshop.encoder.feature_field import Decoder, fit_field
from l2m_ros.workshop.encoder.lifted_views import ViewOptions, lifted, orbit, view_of
from l2m_ros.workshop.encoder.nearest import ViewChange, nearest_errors, nearest_shares
from l2m_ros.workshop.encoder.pair_contrast import contrast_pairs, pair_contrast_loss
from l2m_ros.workshop.encoder.patch_encoders import FeatureMap, features_of, load_encoder
from l2m_ros.workshop.encoder.photographs import KnownDepth, Photograph
from l2m_ros.workshop.encoder.stage import (
    EncoderBatch,
    EncoderOptions,
    FeatureLifting,
    contrast_loss,
    options_from,
    train_encoder,
)
from l2m_ros.workshop.encoder.surfels import surfels
from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.model import SH_0
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.lifting.motion import centred
from l2m_ros.workshop.lifting.views import Relief
from l2m_ros.workshop.lifting.views import render as render_mesh
from l2m_ros.workshop.training import curves
from l2m_ros.workshop.training.loop import LoopOptions
from l2m_ros.workshop.training.losses import truth_at

SIZE = (96, 64)
SMALL = ViewOptions(width=96, height=64)


def slope():
    """A photograph on a tilted plane: inverse depth is affine in the pixel."""
    width, height = SIZE
    v, u = np.mgrid[:height, :width].astype(np.float32)
    w = 1.0 + 0.4 * (u / width - 0.5) + 0.2 * (v / height - 0.5)
    rgb = cv2.GaussianBlur(texture(width, height, 3), (0, 0), 4)
    return Relief.from_inverse_depth(w.astype(np.float32), centred(90.0, *SIZE)), rgb


def test_surfels_look_like_the_photograph_that_they_stand_for():
    """Colour and depth against the mesh that lifting renders, from 25 degrees aside."""
    relief, rgb = slope()
    T = orbit(relief, 25.0, 1.0)
    mesh = render_mesh(relief, relief.K, T, *SIZE)
    view = view_of(relief, rgb, relief.K, T, *SIZE)
    drawn = render(load_rasterizer("cpu"), surfels(relief, rgb, 3), view.camera)
    inner = cv2.erode(mesh.seen.astype(np.uint8), np.ones((9, 9))) > 0
    inner[:5] = inner[-5:] = inner[:, :5] = inner[:, -5:] = False
    assert inner.mean() > 0.4
    assert drawn.alpha.numpy()[inner].min() > 0.9
    ratio = drawn.plane_depth.numpy()[inner] * mesh.inverse_depth[inner]
    assert np.abs(ratio - 1).max() < 0.01
    alpha = drawn.alpha[..., None]
    off = (drawn.colour / alpha).numpy()[inner] - view.rgb[inner] / 255.0
    assert np.abs(off).mean() < 0.02


def features_on_the_surface(relief, view, channels, cells):
    """(C, h, w) of a smooth function of the place on the photograph: the same in every view."""
    width, height = SIZE
    rng = np.random.default_rng(4)
    waves = rng.uniform(-20, 20, (channels, 2)) / np.array(SIZE)
    phases = rng.uniform(0, 6, channels)
    T = view.camera.camera_from_world
    source = render_mesh(relief, view.camera.camera.K, T, width, height).source_px
    values = np.cos(source @ waves.T + phases).transpose(2, 0, 1)
    return F.adaptive_avg_pool2d(torch.from_numpy(values).float()[None], cells)[0]


def test_features_that_are_the_same_from_everywhere_are_found_and_seen_from_anew():
    """Three views gathered; two that nothing was fitted to show the truth within 2 %."""
    relief, rgb = slope()
    angles = [(0.0, 0.0), (20.0, 1.0), (20.0, 4.0), (12.0, 2.5), (15.0, 5.5)]
    views = [view_of(relief, rgb, relief.K, orbit(relief, *a), *SIZE) for a in angles]
    cells, cameras = (16, 24), [view.camera for view in views]
    truth = torch.stack([features_on_the_surface(relief, v, 12, cells) for v in views])
    seen = torch.stack([torch.from_numpy(v.seen)[None].float() for v in views])
    seen = F.adaptive_avg_pool2d(seen, cells)
    rasterizer, gaussians = load_rasterizer("cpu"), surfels(relief, rgb, 3)

    def off(steps: int) -> list[float]:
        field = fit_field(
            rasterizer, gaussians, cameras[:3], truth[:3], seen[:3], dimensions=12, steps=steps
        )
        found, alpha = field.rendered(rasterizer, cameras, cells)
        sound = (seen[:, 0] > 0.99) & (alpha[:, 0] > 0.9)
        sound[:, :2] = sound[:, -2:] = False
        cosine = F.cosine_similarity(found, truth, dim=1)
        return [float(1 - cosine[i][sound[i]].mean()) for i in range(5)]

    first, more = off(1), off(6)
    assert max(more[3:]) < 0.03
    assert sum(more) < 0.7 * sum(first)  # the first step is the blurred mean


def test_decoder_is_exact_on_features_of_its_own_rank():
    random = torch.Generator().manual_seed(0)
    code = torch.randn(3, 4, 5, 6, generator=random)
    features = torch.einsum("vdhw,dc->vchw", code, torch.randn(4, 9, generator=random)) + 2.0
    decoder = Decoder.of(features, torch.ones(3, 1, 5, 6), 4)
    assert (decoder.decoded(decoder.code(features)) - features).abs().max() < 1e-4


# --- nearest neighbours -----------------------------------------------------------------------


def moved(dx_px: float) -> ViewChange:
    width, height = SIZE
    v, u = np.mgrid[:height, :width].astype(np.float32)
    warp = np.stack([u + dx_px, v], axis=-1)
    rgb = texture(*SIZE, 1)
    return ViewChange(rgb, rgb, warp, u + dx_px <= width - 1)


def test_nearest_errors_are_distances_in_cells():
    """Every cell has a feature of its own, so each finds itself: its error is the shift."""
    own = FeatureMap(np.eye(96, dtype=np.float32).reshape(96, 8, 12), (8.0, 8.0))
    np.testing.assert_allclose(nearest_errors(own, own, moved(0.0)), 0.0, atol=1e-6)
    errors = nearest_errors(own, own, moved(20.0))
    assert len(errors) == 8 * 9  # the last three columns leave the image
    np.testing.assert_allclose(errors, 2.5, atol=1e-5)


def test_shares_of_features_that_know_nothing_are_those_of_chance():
    rng = np.random.default_rng(0)

    def blind(rgb):
        return FeatureMap(rng.standard_normal((16, 8, 12)).astype(np.float32), (8.0, 8.0))

    shares = nearest_shares(blind, [moved(0.0)] * 20).percent()
    # 5 of 96 cells within 1, 13 within 2, less at the border.
    assert 2.5 < shares["within1"] < 6 and 7 < shares["within2"] < 15


# --- encoders from files ----------------------------------------------------------------------


def tiny_vit(path, **extra):
    torch.manual_seed(0)
    network = ViT(64, 2, 1, patch=14, native=5)
    torch.nn.init.normal_(network.pos_embed, std=0.02)
    state = {k: v for k, v in network.state_dict().items() if k != "mask_token"}
    torch.save({**state, **extra}, path)
    return f"dinov2={path}"


def test_encoders_are_recognised_by_what_their_files_hold(tmp_path):
    vit = load_encoder(tiny_vit(tmp_path / "vit.pth"))
    assert (vit.file_name, vit.stride, vit.label) == ("vit.safetensors", 14, "dinov2")
    assert features_of(vit, texture(60, 45)).values.shape == (64, 3, 4)
    image = torch.rand(1, 3, 64, 96)
    card = find_card("lite")
    shipped, whole = load_encoder("lite"), build(card.architecture, **card.config).eval()
    whole.load_state_dict(shipped.state_to_ship())  # what ships is read by --start
    with torch.no_grad():
        seen = whole.encoder(image).seen.matched
        torch.testing.assert_close(shipped(image), seen, atol=1e-4, rtol=1e-3)
    with pytest.raises(ModelError, match="without them"):
        load_encoder(tiny_vit(tmp_path / "r.pth", register_tokens=torch.zeros(1, 4, 64)))
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ModelError, match="no encoder known here"):
        load_encoder(f"x={tmp_path / 'other.pt'}")
    with pytest.raises(InvalidInput, match="LABEL=FILE"):
        load_encoder("dinov2")


# --- the stage --------------------------------------------------------------------------------


def stage(tmp_path, name, steps, workers=0, stop=None):
    """A tiny ViT fine-tuned for some steps; the run."""
    encoder = load_encoder(tiny_vit(tmp_path / "vit.pth"))
    loop = {"steps": steps, "learning_rate": 2e-3, "bf16": False, "warmup_steps": 1, "ema": 0.5}
    views = {"width": 112, "height": 84, "gathered": 3, "new": 1}
    options = options_from(
        {"photographs_per_step": 1, "dimensions": 16, "fit_steps": 2, "block_px": 6,
         "views": views, "loop": {**loop, "workers": workers}}
    )  # fmt: skip
    photographs = [Photograph(str(i), texture(112, 84, i)) for i in range(3)]
    batches = FeatureLifting(photographs, encoder, load_rasterizer("cpu"), options)
    if stop is not None:
        batches.lifted = _interrupted(batches.lifted, stop)
    return train_encoder(options, encoder, batches, tmp_path / name), batches


def _interrupted(lift, after):
    calls = iter(range(after))

    def lifted_or_stop(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return lift(*args)

    return lifted_or_stop


def test_an_encoder_comes_nearer_to_its_features_in_space_and_resumes_exactly(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(curves, "draw", lambda folder: None)
    whole, batches = stage(tmp_path, "whole", 8)
    held = batches.one(100)  # views that no step has seen

    def cosine(model):
        with torch.no_grad():
            off = F.cosine_similarity(model(held[0]), held[1], dim=1)[:, None]
        return float((held[2] * off).sum() / held[2].sum())

    assert cosine(whole.model) > cosine(batches.teacher) + 0.01
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "cut", 8, stop=4)
    resumed, _ = stage(tmp_path, "cut", 8, workers=2)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_photograph_without_depth_is_passed_over():
    relief, rgb = slope()
    depth = KnownDepth({"known": 1.0 / relief.inverse_depth})
    made = lifted(np.random.default_rng(0), rgb, "known", SMALL, depth)
    assert len(made.views) == 5
    options = EncoderOptions(photographs_per_step=1, views=SMALL, block_px=8, fit_steps=1)
    pair = [Photograph("unknown", rgb), Photograph("known", rgb)]
    encoder = load_encoder("lite")
    batches = FeatureLifting(pair, encoder, load_rasterizer("cpu"), options, depth)
    for index in range(2):
        assert batches.one(index)[0].shape == (5, 3, 64, 96)
    assert list(batches.skipped) == ["unknown"]
    alone = FeatureLifting(pair[:1], encoder, load_rasterizer("cpu"), options, depth)
    with pytest.raises(InvalidInput, match="cannot be lifted"):
        alone.one(0)


def test_sizes_that_cannot_be_are_refused_with_the_nearest_that_can():
    with pytest.raises(InvalidInput, match="--size 96x64"):
        FeatureLifting(
            [], load_encoder("lite"), load_rasterizer("cpu"),
            EncoderOptions(views=ViewOptions(width=100, height=70)),
        )  # fmt: skip
    with pytest.raises(InvalidInput, match="did you mean dimensions"):
        options_from({"dimension": 3})


@pytest.mark.slow
def test_without_photographs_worlds_are_seen_with_their_depth(tmp_path, monkeypatch):
    """Frames of a plane stand for the worlds; those that are measured on come from others."""
    from l2m_ros.workshop.simulation import sequence

    relief, rgb = slope()
    asked = []

    def simulated(options):
        asked.append(options.scene_seed)
        frame = SimpleNamespace(rgb=rgb, depth=1.0 / relief.inverse_depth)
        return [SimpleNamespace(frame=frame)] * 2

    monkeypatch.setattr(sequence, "simulate", simulated)
    out = tmp_path / "run"
    assert main(["train", "encoder", "--model", "lite", "--steps", "1", "--out", str(out)]) == 0
    assert len(set(asked[:3]) & set(asked[3:])) == 0
    assert (out / "matcher.safetensors").is_file() and (out / "encoder.json").is_file()


@pytest.mark.slow
def test_the_command_trains_and_the_picture_shows_before_and_after(tmp_path, capsys):
    for index in range(4):
        path = tmp_path / "photographs" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), texture(240, 180, index))
    run = tmp_path / "run"
    command = ["train", "encoder", "--photographs", str(path.parent), "--out", str(run)]
    assert main([*command, "--steps", "2"]) == 0
    report = json.loads((run / "encoder.json").read_text())
    assert set(report["before"]) == set(report["after"]) and len(report["after"]) == 6
    capsys.readouterr()
    picture = tmp_path / "features.png"
    features = [
        "features",
        str(path),
        "--model",
        "lite",
        "--model",
        f"after={run}/matcher.safetensors",
    ]
    assert main([*features, "--pairs", "4", "--json", "--out", str(picture)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} == {"lite", "after"} and len(rows) == 6
    assert cv2.imread(str(picture)).shape[0] == 3 * (240 + 22)


def test_contrast_tells_a_point_from_the_others_as_its_slow_twin_does():
    """Two views of a plane, shifted by one cell; the cells beside the right one do not count."""
    rows, columns, shift = 3, 5, 1
    v, u = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    places = [torch.stack([u + k * shift, v, torch.ones_like(u)]) for k in (0, 1)]
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(2, 8, rows, columns), dim=1)
    weights = torch.ones(2, 1, rows, columns)
    weights[1, 0, 2, 3] = 0.0  # not known there
    batch = EncoderBatch(
        torch.zeros(2, 3, 24, 40), features, weights, torch.stack(places),
        torch.ones(2, 1, rows, columns), torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    terms = []
    for a, b, step in ((0, 1, -1), (1, 0, 1)):  # a's cell u is b's cell u + step
        losses = []
        for r in range(rows):
            for c in range(columns):
                to = c + step
                if not 0 <= to < columns or weights[a, 0, r, c] == 0 or weights[b, 0, r, to] == 0:
                    continue
                others = {
                    (i, j): torch.exp(20 * features[a, :, r, c] @ features[b, :, i, j])
                    for i in range(rows)
                    for j in range(columns)
                    if max(abs(i - r), abs(j - to)) != 1 and weights[b, 0, i, j] > 0
                }
                losses.append(-torch.log(others[r, to] / sum(others.values())))
        terms.append(torch.stack(losses).mean())
    want = torch.stack(terms).mean()
    torch.testing.assert_close(contrast_loss(features, batch), want, atol=1e-4, rtol=1e-4)
    blind = replace(batch, weights=torch.zeros_like(weights))
    assert contrast_loss(features, blind) == 0.0


def test_pairs_alone_teach_features_to_find_their_points(tmp_path, monkeypatch):
    """The loss is that of its slow twin, and a few steps lower it on a pair that they never saw."""
    monkeypatch.setattr(curves, "draw", lambda folder: None)
    loop = LoopOptions(
        steps=8, learning_rate=1e-3, warmup_steps=1, bf16=False, ema=0.5, validate_s=1e9,
        difficulty=(0.6, 0.6),
    )  # fmt: skip
    options = EncoderOptions(method="contrast", photographs_per_step=1, views=SMALL, loop=loop)
    batches = contrast_pairs([texture(112, 84, seed) for seed in range(3)], options)
    encoder = load_encoder("lite")
    batch = batches.batch(100, rank=0, count=1, difficulty=0.6)
    with torch.no_grad():
        before = float(pair_contrast_loss(encoder, batch)[0])
        ends = [F.normalize(encoder(i), dim=1)[0] for i in (batch.query, batch.keyframe)]
    truth, want = truth_at(8, batch.warp_px, batch.visible, batch.ignored), []
    for way, (one, other) in enumerate((ends, ends[::-1])):
        terms = []
        for r, c in truth.visible[way, 0].nonzero().tolist():
            likely = (20 * torch.einsum("c,chw->hw", one[:, r, c], other)).flatten()
            likely = likely.log_softmax(0).view(1, 1, 8, 12)
            at = 2 * (truth.warp_px[way, :, r, c] + 0.5) / torch.tensor([96.0, 64.0]) - 1
            terms.append(
                -F.grid_sample(
                    likely, at.view(1, 1, 1, 2), padding_mode="border", align_corners=False
                )
            )
        want.append(torch.stack(terms).mean() if terms else torch.zeros(()))
    assert before == pytest.approx(float(torch.stack(want).mean()), rel=1e-3)
    train_encoder(options, encoder, batches, tmp_path, loss_of=pair_contrast_loss)
    with torch.no_grad():
        assert float(pair_contrast_loss(encoder, batch)[0]) < before - 0.02


@pytest.mark.parametrize("step_px", [3, 4])
def test_a_surfel_shows_its_own_block_and_none_crosses_a_jump(step_px):
    rows, columns = 8 * step_px, 10 * step_px
    K = centred(60.0, columns, rows)
    jump = 4 * step_px  # the fifth block begins behind the jump
    w = np.ones((rows, columns), np.float32)
    w[:, jump + 1 :] = 0.4  # between the block's first and second pixel
    rgb = np.zeros((rows, columns, 3), np.uint8)
    blocks = np.arange(rows)[:, None] // step_px * 20 + np.arange(columns)[None] // step_px
    rgb[:] = (blocks % 250)[..., None]
    found = surfels(Relief.from_inverse_depth(w, K), rgb, step_px)
    px = found.means[:, :2] / found.means[:, 2:] * 60.0 + torch.tensor([K[0, 2], K[1, 2]])
    column, row = (((px + 0.5) / step_px).floor().int()).unbind(1)
    own = (row * 20 + column) % 250 / 255.0
    colour = 0.5 + SH_0 * found.sh[:, 0, 0]
    assert (colour - own).abs().max() < 1e-3
    assert 4 not in column and {3, 5} <= set(column.tolist())
    shifted = np.ones((rows, columns), np.float32)
    shifted[:, jump:] = 0.4  # between two blocks: the edge of the first lies half across
    kept = surfels(Relief.from_inverse_depth(shifted, K), rgb, step_px)
    px = kept.means[:, :2] / kept.means[:, 2:] * 60.0 + torch.tensor([K[0, 2], K[1, 2]])
    assert 3 not in ((px[:, 0] + 0.5) / step_px).floor().int()
