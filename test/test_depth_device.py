"""Images cut and coloured anew on the device: labels, twins and what the eyes see stay true."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from l2m_ros.workshop.training.depth_colours import coloured, kernels, restyled
from l2m_ros.workshop.training.depth_cuts import (
    Stored,
    cut_images,
    cut_labels,
    draw_cuts,
    whole_cuts,
)
from l2m_ros.workshop.training.depth_data import DepthImage
from l2m_ros.workshop.training.depth_device import twins_of
from l2m_ros.workshop.training.depth_head import HeadOptions, Twins, disputed

STORED, SIZE = (256, 192), (320, 256)


def slope(focal_px=200.0):
    """Depth grows to the right and downwards; the image's red is its log."""
    y, x = np.mgrid[0:192, 0:256].astype(np.float32)
    depth = np.exp(0.004 * x + 0.002 * y)
    rgb = np.zeros((192, 256, 3), np.uint8)
    rgb[..., 0] = np.round(150 * np.log(depth))
    K = np.array([[focal_px, 0, 128], [0, focal_px, 96], [0, 0, 1.0]])
    return DepthImage(rgb, K, depth)


@pytest.fixture(scope="module")
def cuts():
    return draw_cuts(np.random.default_rng(3), 12, STORED, SIZE)


def test_a_cuts_label_is_the_depth_of_what_it_shows_over_its_own_focal_length(cuts):
    stored = Stored.of([slope()] * 12, 0, -1, STORED)
    labels = cut_labels(stored, cuts, SIZE)
    assert labels.shape == (12, 1, 16, 20) and torch.isfinite(labels).float().mean() > 0.9
    red = cut_images(stored, cuts, SIZE)[:, :1] * 255 / 150  # log depth, as the image shows it
    shown = torch.nn.functional.avg_pool2d(red, 16)
    off = labels - (shown - (np.log(200.0) + cuts.log_zoom)[:, None, None, None])
    inner = off[..., 2:-2, 2:-2]
    assert inner[torch.isfinite(inner)].abs().max() < 0.04
    # The lower of two middle values is nearer by 0.001; half a pixel aside makes 0.004 of it.
    assert abs(inner[torch.isfinite(inner)].mean()) < 0.002
    assert cuts.log_zoom.exp().max() > 1.7 and cuts.log_zoom.exp().min() > 1.1


def test_a_mirrored_cut_shows_the_right_on_the_left(cuts):
    stored = Stored.of([slope()] * 12, 0, -1, STORED)
    labels = cut_labels(stored, cuts, SIZE)
    grows = (labels[..., -3:] - labels[..., :3]).nanmean(dim=(1, 2, 3)) > 0
    assert torch.equal(grows, cuts.linear[:, 0, 0] > 0) and 2 < grows.sum() < 10


def test_unknown_depth_gives_no_label():
    view = slope()
    view.depth[:, :128] = np.nan
    stored = Stored.of([view], 0, -1, STORED)
    known = torch.isfinite(cut_labels(stored, whole_cuts(1, STORED, SIZE), SIZE))
    assert known[..., 10:].all() and not known[..., :10].any()


def test_twins_agree_where_the_reader_is_right(cuts):
    """What a perfect head reads in both cuts of a photograph is disputed by nobody."""
    stored = Stored.of([slope()] * 12, 0, -1, STORED)
    read = cut_labels(stored, cuts, SIZE)
    twins = twins_of(cuts, 6, SIZE)
    at = [k for k in range(6) if torch.isfinite(read[[k, 6 + k]]).all()]
    assert at
    both = torch.cat([read[:6][at], read[6:][at]])
    found = disputed(both, Twins(twins.grid[at], twins.shift[at]))
    assert found < 0.03
    assert disputed(torch.zeros_like(both), Twins(twins.grid[at], twins.shift[at])) > 5 * found


def test_colours_change_and_repeat():
    rgb = torch.rand(3, 3, 64, 64)
    one, same, other = (coloured(rgb, torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    assert torch.equal(one, same) and (one - other).abs().mean() > 0.02
    assert one.shape == (3, 1, 64, 64) and one.min() >= 0 and one.max() <= 1


def test_blurs_and_sharpenings_keep_the_brightness():
    some = kernels(200, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.allclose(some.sum(dim=(1, 2, 3)), torch.ones(200), atol=1e-4)
    assert (some.amin(dim=(1, 2, 3)) < -0.005).float().mean() > 0.05  # halos, as cameras make them
    assert (some[:, 0, 4, 4] > 0.9).any() and (some[:, 0, 4, 4] < 0.2).any()


def test_features_take_another_images_style_and_keep_their_pattern():
    generator = torch.Generator().manual_seed(2)
    shown = (
        torch.randn(6, 5, 8, 10, generator=generator) * torch.arange(1.0, 7)[:, None, None, None]
    )
    alike, moved = (restyled((shown,), share, generator)[0] for share in (0.0, 1.0))
    assert alike is shown
    change = moved.std(dim=(2, 3)) / shown.std(dim=(2, 3))
    assert (change > 1.2).any() and (change < 0.8).any()
    assert moved.std(dim=(2, 3)).max() <= shown.std(dim=(2, 3)).max() + 1e-3  # between two images
    patterns = torch.corrcoef(torch.cat([shown[0, 0].reshape(1, -1), moved[0, 0].reshape(1, -1)]))
    assert patterns[0, 1] > 0.999


@pytest.mark.slow
def test_everything_a_step_makes_lies_on_the_device(monkeypatch):
    """By shapes alone: images on "meta" refuse to meet a tensor that was made elsewhere."""
    from l2m_ros.networks.lite.backbone import Backbone
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.depth_device import AnewBatches, Eyes
    from l2m_ros.workshop.training.depth_head import head_loss

    class Draws:
        """A generator that "meta" has not."""

        def __init__(self, device):
            assert torch.device(device).type == "meta"

        def manual_seed(self, seed):
            return None

    stored = Stored.of([slope()] * 9, 0, -1, STORED).to("meta")
    monkeypatch.setattr(torch, "Generator", Draws)
    options = HeadOptions(width=SIZE[0], height=SIZE[1], batch=8, restyled=0.6)
    batches = AnewBatches([stored], [1.0], Eyes(Backbone()).to("meta"), options, stored)
    batch = batches.batch(0, rank=0, count=1, difficulty=1.0)
    assert batch.labels.shape == (10, 1, 16, 20)
    loss, terms = head_loss(build("lite_depth").to("meta"), batch)
    loss.backward()
    assert loss.is_meta and terms["twins"].is_meta
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(3) + torch.zeros(3, device="meta")


def simulated_room(folder, far_m):
    """A made-up recording: a textured wall, farther in each image."""
    import json

    import cv2

    rng = np.random.default_rng(int(far_m * 10))
    (folder / "images").mkdir(parents=True)
    (folder / "depth").mkdir()
    cameras = {}
    for k in range(6):
        rgb = cv2.resize(rng.integers(0, 256, (20, 30, 3), np.uint8), (160, 120))
        depth = np.full((120, 160), 1000 * (far_m + 0.1 * k), np.uint16)
        cv2.imwrite(str(folder / f"images/{k}.png"), rgb)
        cv2.imwrite(str(folder / f"depth/{k}.png"), depth)
        cameras[f"{k}.png"] = {}
    K = [[150.0, 0, 80], [0, 150.0, 60], [0, 0, 1]]
    meta = {"K": K, "cameras": cameras, "depth_scale": 0.001}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.slow
def test_the_command_trains_anew_from_folders_recordings_and_photographs(tmp_path, capsys):
    import json

    from l2m_ros.cli import main
    from l2m_ros.matching.catalogue import find_card

    for k in range(8):
        simulated_room(tmp_path / f"worlds/{k}", 1.0 + 0.3 * k)
    simulated_room(tmp_path / "mine", 1.5)
    config = {
        "network": {"width": 8, "deep": 16, "blocks": 1}, "anew": True, "worlds": 0, "every": 1,
        "width": 160, "height": 128, "batch": 8, "place_sigma": 0.44, "loop": {"bf16": False},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(json.dumps(config))
    command = ["train", "depth", "--config", str(tmp_path / "tiny.yaml"), "--steps", "2"]
    out = tmp_path / "run"
    command += ["--pairs", str(tmp_path / "worlds"), "--sequences", str(tmp_path / "mine")]
    command += ["--measure", str(tmp_path / "mine"), "--out", str(out)]
    images = str(tmp_path / "mine/images")
    assert main([*command, "--photographs", images]) == 0
    said = capsys.readouterr().err
    assert "8 worlds, 42 images to learn from, 6 not" in said
    card = find_card(str(out / "model"))
    assert card.depth["place_sigma"] >= 0.44 and card.encoder["model"] == "lite"
    assert card.config["deep"] == 16 and 0 < card.depth["common_share"] < 1


def test_photographs_are_read_before_worlds_are_rendered(tmp_path, monkeypatch, capsys):
    """A damaged one ended the run after minutes of rendering."""
    from l2m_ros.commands import train_depth
    from l2m_ros.workshop.training import depth_sources

    cv2.imwrite(str(tmp_path / "good.png"), np.full((48, 64, 3), 9, np.uint8))
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])

    def rendered(options, report):
        said = capsys.readouterr().err
        assert "left out" in said and "bad.png" in said
        raise KeyboardInterrupt

    monkeypatch.setattr(depth_sources, "draft_worlds", rendered)
    args = SimpleNamespace(photographs=tmp_path, pairs=[], sequences=None, measure=None)
    with pytest.raises(KeyboardInterrupt):
        train_depth.anew_run(args, HeadOptions(width=64, height=64))


def test_no_world_is_begun_after_the_time_to_render(monkeypatch):
    from l2m_ros.workshop.training import depth_sources

    now_s, drafted = [0.0], []

    def draft(options, world):
        drafted.append(world)
        now_s[0] += 10.0
        one = Stored.of([slope()], world, -1, STORED)
        return [getattr(one, name).numpy() for name in Stored.__dataclass_fields__]

    monkeypatch.setattr(depth_sources, "draft_arrays", draft)
    monkeypatch.setattr(depth_sources, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    said = []
    worlds = depth_sources.draft_worlds(HeadOptions(worlds=99, render_s=25.0), said.append)
    assert drafted == [0, 1, 2] and said == ["3 worlds rendered in 30 s"]
    assert [int(world.place) for world in worlds] == drafted
