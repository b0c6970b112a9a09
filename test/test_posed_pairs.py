"""Training pairs of posed images with depth: their truth is the simulator's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_pairs import PairBatch
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.simulation.bare import build
from l2m_ros.workshop.simulation.folder import write_folder
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
from l2m_ros.workshop.training import posed_pairs
from l2m_ros.workshop.training.data import SizeShare
from l2m_ros.workshop.training.device_data import DeviceBatches
from l2m_ros.workshop.training.device_posed import TURNING, PosedViews
from l2m_ros.workshop.training.posed_pairs import PosedPairs

PLAIN = EffectOptions(
    exposure_stops=0, gamma=0, contrast=0, colour_temperature=0, shading=0, vignette=0,
    flare=0, blur=0, noise=0, jpeg=0, grey=0,
)  # fmt: skip
SIZE = {"width": 160, "height": 128}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds") / "room"
    options = SimulationOptions(frames=5, rate_hz=1.0, stereo=False, width=320, height=240)
    write_folder(path, simulate(options), pairs=6)
    return path


def test_the_warp_carries_one_view_onto_the_other(folder: Path) -> None:
    maker = PosedPairs([folder], seed=1, effects=PLAIN)
    seen = []
    for index in range(6):
        pair = maker.pair(index, **SIZE, difficulty=0.6)
        back = cv2.remap(pair.rgb_b, pair.warp, None, cv2.INTER_LINEAR)
        off = np.abs(back.astype(float) - pair.rgb_a).mean(axis=-1)
        shifted = np.abs(np.roll(back, 6, axis=1).astype(float) - pair.rgb_a).mean(axis=-1)
        assert off[pair.visible].mean() < 0.6 * shifted[pair.visible].mean()
        there = cv2.remap(pair.warp_ba, pair.warp, None, cv2.INTER_LINEAR)
        both = cv2.remap(pair.visible_b.astype(np.uint8), pair.warp, None, cv2.INTER_NEAREST) > 0
        y, x = np.mgrid[: SIZE["height"], : SIZE["width"]]
        round_trip = np.hypot(there[..., 0] - x, there[..., 1] - y)[pair.visible & both]
        assert np.percentile(round_trip, 90) < 0.3
        assert not (pair.visible & pair.unknown).any()
        seen.append(pair.visible.mean())
    assert 0.2 < np.mean(seen) < 0.98


def test_the_same_number_is_the_same_pair_and_another_is_not(folder: Path) -> None:
    maker = PosedPairs([folder], seed=1)
    one, same, other = (maker.pair(i, **SIZE, difficulty=1.0) for i in (3, 3, 4))
    np.testing.assert_array_equal(one.rgb_a, same.rgb_a)
    np.testing.assert_array_equal(one.warp, same.warp)
    assert not np.array_equal(one.warp, other.warp)


def test_images_without_depth_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("images", "meta.json", "pairs.json"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(InvalidInput, match="no depth"):
        PosedPairs([tmp_path])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder, name: (folder / f"depth/{name}").unlink(), "has no depth"),
        (
            lambda folder, name: cv2.imwrite(
                str(folder / f"depth/{name}"), np.ones((24, 32), np.uint16)
            ),
            "is 32x24, its image 320x240",
        ),
        (
            lambda folder, name: (folder / f"images/{name}").write_bytes(
                (folder / f"images/{name}").read_bytes()[:-100]
            ),
            "its end is missing",
        ),
    ],
)
def test_a_view_that_cannot_be_had_is_refused_before_the_training(
    folder: Path, tmp_path: Path, spoil, words: str
) -> None:
    """Drawn after an hour it ended the run, and every run that went on from it."""
    copy = tmp_path / "room"
    shutil.copytree(folder, copy)
    spoil(copy, json.loads((copy / "pairs.json").read_text())[-1]["b"])
    with pytest.raises(InvalidInput, match=words):
        PosedPairs([copy])


def test_every_bare_room_is_another_one() -> None:
    rooms = [build(np.random.default_rng([seed, 1])) for seed in range(8)]
    assert len({tuple(np.ravel(room.free_box_m).round(3)) for room in rooms}) == 8
    for room in rooms:
        low, high = np.asarray(room.free_box_m)
        assert (high - low > 0.5).all()


# --- made on the device ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views(folder: Path) -> PosedViews:
    return PosedViews.read([folder], "cpu")


def test_a_batch_on_the_device_has_the_truth_of_its_twin(views: PosedViews) -> None:
    draws, hard = Draws(views.device, 3), torch.tensor([0.2, 0.9])
    chosen = torch.tensor([1, 4])
    a, b = (
        views.views.shown(draws, views.pairs[chosen, s], (160, 128), TURNING, hard) for s in (0, 1)
    )
    warp, visible, unknown = (
        part.numpy() for part in views.warp_between(a, b, views.b_from_a[chosen])
    )
    for i in range(2):
        twins = []
        for one in (a, b):
            H = np.linalg.inv(one.shown_from_source[i].double().numpy())
            rgb = views.views.rgb[one.which[i]].permute(1, 2, 0).numpy()
            seen, places = posed_pairs.shown(rgb, H, (160, 128), 128 / 480)
            difference = np.abs(one.rgb[i].permute(1, 2, 0).numpy() - seen / 255.0)
            assert difference.mean() < 0.004
            inverse = views.inverse_depth[one.which[i]].numpy()
            K = views.views.K[one.which[i]].double().numpy()
            edge = posed_pairs.edges_of(inverse)
            twins.append(posed_pairs._Shown(seen, places, np.linalg.inv(H), inverse, edge, K))
        T = views.b_from_a[chosen[i]].double().numpy()
        there, seen, lost = posed_pairs.warp_between(*twins, T)
        both = seen & visible[i]
        assert seen.mean() > 0.05
        assert np.abs(there - warp[i])[both].max() < 0.3  # OpenCV reads at 1/32 px
        assert (seen != visible[i]).mean() < 0.002 and (lost != unknown[i]).mean() < 0.002


class Counting:
    """A source of empty pairs that counts them."""

    def __init__(self) -> None:
        self.made = 0

    def sample(
        self, count: int, size: tuple[int, int], difficulty: float, draws: Draws
    ) -> PairBatch:
        self.made += count
        width, height = size
        warp, mask = torch.zeros(count, height, width, 2), torch.zeros(count, height, width) > 0
        rgb, K, T = (torch.zeros(count, *s) for s in ((3, height, width), (3, 3), (4, 4)))
        return PairBatch(rgb, rgb, warp, mask, mask, warp, mask, mask, K, K, T)


def test_sources_on_the_device_are_mixed_by_their_shares() -> None:
    often, seldom = Counting(), Counting()
    batches = DeviceBatches(
        {often: 0.75, seldom: 0.25}, (SizeShare(8, 8, 16, 1.0),), 1, True, "cpu"
    )
    for step in range(40):
        batch = batches.batch(step, rank=0, count=1, difficulty=0.5)
        assert batch.query.shape == (16, 3, 8, 8) and batch.warp_px.shape == (32, 2, 8, 8)
    assert often.made + seldom.made == 640 and 440 < often.made < 520


def test_a_step_on_the_device_is_the_same_every_time(views: PosedViews) -> None:
    batches = DeviceBatches({views: 1.0}, (SizeShare(64, 64, 2, 1.0),), 1, True, "cpu")
    one, same, other = (batches.batch(s, rank=0, count=1, difficulty=0.5) for s in (2, 2, 3))
    assert torch.equal(one.warp_px, same.warp_px) and torch.equal(one.query, same.query)
    assert not torch.equal(one.warp_px, other.warp_px)


def test_images_without_depth_are_refused_on_the_device(folder: Path, tmp_path: Path) -> None:
    for name in ("images", "meta.json", "pairs.json"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(InvalidInput, match="no depth"):
        PosedViews.read([tmp_path], "cpu")
