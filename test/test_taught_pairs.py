"""Pairs that a teacher matched: what its matches say of the pixels between them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training import device_views
from l2m_ros.workshop.training.device_taught import TaughtViews
from l2m_ros.workshop.training.taught_pairs import TaughtPairs, between
from l2m_ros.workshop.training.teach import pairs_to_try

SIZE = (320, 256)
PLAIN = EffectOptions(
    exposure_stops=0, gamma=0, contrast=0, colour_temperature=0, shading=0, vignette=0,
    flare=0, blur=0, noise=0, jpeg=0, grey=0,
)  # fmt: skip
H = np.array([[0.95, 0.12, 8.0], [-0.1, 1.02, 14.0], [2e-4, 1e-4, 1.0]])


def grid_points() -> np.ndarray:
    x, y = np.meshgrid(np.linspace(20, 300, 18), np.linspace(20, 236, 14))
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def moved(points: np.ndarray) -> np.ndarray:
    return cv2.perspectiveTransform(points[:, None].astype(float), H)[:, 0]


def test_pixels_between_matches_go_where_the_surface_goes() -> None:
    points = grid_points()
    warp, visible, unknown = between(points, moved(points), SIZE)
    y, x = np.nonzero(visible)
    truth = moved(np.stack([x, y], axis=-1))
    assert np.abs(warp[y, x] - truth).max() < 0.1
    assert visible.mean() > 0.6
    assert np.array_equal(unknown, ~visible)


def test_nothing_is_said_beyond_and_across_the_matches() -> None:
    points = grid_points()
    points = points[(points[:, 0] < 120) | (points[:, 0] > 220)]  # two surfaces, a gap between
    _, visible, _ = between(points, moved(points), SIZE)
    assert visible[60:200, 40:110].all()
    assert not visible[:, 125:215].any()
    assert not visible[:15].any()


@pytest.mark.parametrize("spoilt", ["mirrored", "line", "few"])
def test_matches_that_are_no_surface_teach_nothing(spoilt: str) -> None:
    a = grid_points()
    b = moved(a)
    if spoilt == "mirrored":
        b[:, 0] = 320 - b[:, 0]
    elif spoilt == "line":
        a[:, 1] = 2 * a[:, 0]
    else:
        a, b = a[:3], b[:3]
    assert not between(a, b, SIZE)[1].any()


def test_a_batch_on_the_device_carries_one_picture_onto_the_other(
    taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_views, "camera_effects", lambda draws, rgb, *rest: rgb)
    views = TaughtViews([taught], "cpu")
    pairs = views.sample(2, (160, 128), 0.5, Draws(views.device, 1))
    for i in range(2):
        a, b = (rgb[i].permute(1, 2, 0).numpy() for rgb in (pairs.rgb_a, pairs.rgb_b))
        seen = pairs.visible[i].numpy()
        assert seen.mean() > 0.1 and not (seen & pairs.unknown[i].numpy()).any()
        back = cv2.remap(b, pairs.warp[i].numpy(), None, cv2.INTER_LINEAR)
        off = np.abs(back - a).mean(axis=-1)[seen].mean()
        assert off < 0.4 * np.abs(np.roll(back, 3, axis=1) - a).mean(axis=-1)[seen].mean()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of a plane, matched by SIFT."""
    folder = tmp_path_factory.mktemp("teach")
    place = folder / "photos" / "place"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 255, (256, 320, 3), dtype=np.uint8), (0, 0), 2)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)
    cv2.imwrite(str(place / "0.png"), picture)
    cv2.imwrite(str(place / "1.png"), cv2.warpPerspective(picture, H, SIZE))
    out = folder / "taught"
    assert main(["teach", str(folder / "photos"), "--out", str(out), "--teacher", "sift"]) == 0
    return out


def test_a_pair_carries_one_picture_onto_the_other(taught: Path) -> None:
    maker = TaughtPairs([taught], seed=3, effects=PLAIN)
    for index in range(4):
        pair = maker.pair(index, width=160, height=128, difficulty=1.0)
        for other, rgb, warp, visible in (
            (pair.rgb_b, pair.rgb_a, pair.warp, pair.visible),
            (pair.rgb_a, pair.rgb_b, pair.warp_ba, pair.visible_b),
        ):
            assert visible.mean() > 0.2
            back = cv2.remap(other, warp, None, cv2.INTER_LINEAR).astype(float)
            off = np.abs(back - rgb).mean(axis=-1)[visible].mean()
            shifted = np.abs(np.roll(back, 3, axis=1) - rgb).mean(axis=-1)[visible].mean()
            assert off < 0.4 * shifted
    same = TaughtPairs([taught], seed=3, effects=PLAIN).pair(3, width=160, height=128, difficulty=1)
    np.testing.assert_array_equal(same.warp, pair.warp)


def test_bad_folders_are_refused(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taught.json").write_text(json.dumps({"pairs": [{"a": "../x.png"}]}))
    with pytest.raises(InvalidInput):
        TaughtPairs([tmp_path])
    (tmp_path / "taught.json").write_text(json.dumps({"pairs": []}))
    with pytest.raises(InvalidInput, match="photographs that overlap"):
        TaughtPairs([tmp_path])
    photos = str(taught.parent / "photos")
    assert main(["teach", photos, "--out", str(taught), "--teacher", "sift"]) == 2
    assert "--force" in capsys.readouterr().err
    out = tmp_path / "none"
    assert main(["teach", photos, "--out", str(out), "--teacher", "sift", "--least", "9999"]) == 2
    assert not out.exists()


def test_a_folder_of_very_many_photographs_needs_no_list_of_all_pairs() -> None:
    paths = [Path("place") / f"{i:06d}.jpg" for i in range(100_000)]
    chosen = pairs_to_try(paths, 5, np.random.default_rng(0))
    assert len(set(chosen)) == 5 and all(a < b for a, b in chosen) and chosen == sorted(chosen)
    few = paths[:5] + [Path("alone") / "a.jpg"]
    every = pairs_to_try(few, 99, np.random.default_rng(1))
    assert every == [(a, b) for i, a in enumerate(few[:5]) for b in few[i + 1 : 5]]


def test_a_damaged_photograph_costs_its_own_pairs_only(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(taught.parent / "photos", photos)
    whole = (photos / "place/0.png").read_bytes()
    (photos / "place/2.png").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "taught"
    assert main(["teach", str(photos), "--out", str(out), "--teacher", "sift"]) == 0
    assert len(TaughtPairs([out])) == 1
    assert capsys.readouterr().err.count("left out: ") == 1
