"""Training pairs of posed images with depth: their truth is the simulator's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.simulation.bare import build
from l2m_ros.workshop.simulation.folder import write_folder
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
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
        PosedPairs([tmp_path]).pair(0, **SIZE, difficulty=1.0)


def test_every_bare_room_is_another_one() -> None:
    rooms = [build(np.random.default_rng([seed, 1])) for seed in range(8)]
    assert len({tuple(np.ravel(room.free_box_m).round(3)) for room in rooms}) == 8
    for room in rooms:
        low, high = np.asarray(room.free_box_m)
        assert (high - low > 0.5).all()
