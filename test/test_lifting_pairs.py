"""Pairs: determinism, what they contain, how hard they are, and batches in torch."""

import cv2
import numpy as np
import pytest
from test_lifting_views import NO_EFFECTS, photograph, pixel_grid

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.camera_effects import blur
from l2m_ros.workshop.lifting.pairs import PairOptions, PairSource

OPTIONS = PairOptions(160, 120)
PHOTOGRAPHS = [photograph(seed, (224, 168)) for seed in range(6)]
SOURCE = PairSource(PHOTOGRAPHS, OPTIONS, seed=3)


def test_the_index_and_the_seed_decide_everything():
    one, again = SOURCE.sample(5), PairSource(PHOTOGRAPHS, OPTIONS, seed=3).sample(5)
    for name in ("rgb_a", "rgb_b", "warp", "visible", "unknown", "warp_ba", "visible_b"):
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
    assert not np.array_equal(one.rgb_a, SOURCE.sample(6).rgb_a)
    assert not np.array_equal(one.rgb_a, PairSource(PHOTOGRAPHS, OPTIONS, seed=4).sample(5).rgb_a)
    rng = np.random.default_rng(0)
    assert not np.array_equal(SOURCE.sample(rng).rgb_a, SOURCE.sample(rng).rgb_a)


def test_files_and_images_give_the_same_kind_of_pair(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), PHOTOGRAPHS[0][..., ::-1])
    from_file = PairSource(tmp_path, OPTIONS).sample(0)
    in_memory = PairSource(PHOTOGRAPHS[:1], OPTIONS).sample(0)
    assert np.array_equal(from_file.rgb_a, in_memory.rgb_a)
    assert np.array_equal(from_file.warp, in_memory.warp)


def test_damaged_files_are_left_out_and_named(tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), PHOTOGRAPHS[0])
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    source = PairSource(tmp_path, OPTIONS)
    assert len(source) == 1 and "bad.jpg" in source.skipped[0]
    (tmp_path / "good.png").unlink()
    with pytest.raises(InvalidInput, match="every photograph is damaged"):
        PairSource(tmp_path, OPTIONS)


def test_shapes_and_ranges():
    for index in range(30):
        pair = SOURCE.sample(index)
        for name, shape, dtype in (
            ("rgb_a", (120, 160, 3), np.uint8), ("rgb_b", (120, 160, 3), np.uint8),
            ("warp", (120, 160, 2), np.float32), ("warp_ba", (120, 160, 2), np.float32),
            ("visible", (120, 160), bool), ("unknown_b", (120, 160), bool),
        ):  # fmt: skip
            value = getattr(pair, name)
            assert value.shape == shape and value.dtype == dtype, name
        assert np.isfinite(pair.warp).all() and np.isfinite(pair.warp_ba).all()
        assert not (pair.visible & pair.unknown).any()
        inside = pair.warp[pair.visible]
        assert (inside >= 0).all() and (inside <= [159, 119]).all()
        assert (pair.cameras is None) != (pair.homography is None)


def statistics(difficulty, count=120):
    pairs = [SOURCE.sample(index, difficulty) for index in range(count)]
    angles, zooms = [], []
    for pair in pairs:
        if pair.cameras is not None:
            cosine = (np.trace(pair.cameras.b_from_a[:3, :3]) - 1) / 2
            angles.append(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
            zooms.append(abs(np.log(pair.cameras.K_b[0, 0] / pair.cameras.K_a[0, 0])))
    return pairs, np.array(angles), np.exp(zooms)


def test_difficulty_widens_the_motion():
    easy, easy_angles, _ = statistics(0.05, 60)
    hard, hard_angles, zooms = statistics(1.0)
    assert hard_angles.max() > 30 and np.median(hard_angles) > 2 * np.median(easy_angles)
    assert hard_angles.max() <= 45.0 + 1e-6 and zooms.max() > 1.7
    overlaps = np.array([pair.overlap for pair in hard])
    assert np.mean([pair.overlap for pair in easy]) > overlaps.mean() + 0.05
    assert (overlaps < 0.45).mean() > 0.1 and (overlaps > 0.75).mean() > 0.1
    planar = np.mean([pair.homography is not None for pair in hard])
    assert 0.08 < planar < 0.25


def test_parallax_is_strong():
    """What no homography explains: the residual of the best one, in pixels."""
    residuals = []
    for index in range(60):
        pair = SOURCE.sample(index)
        if pair.cameras is None or pair.visible.sum() < 500:
            continue
        a, b = pixel_grid(160, 120)[pair.visible][::7], pair.warp[pair.visible][::7]
        H, _ = cv2.findHomography(a, b, 0)
        fit = cv2.perspectiveTransform(a[:, None].astype(np.float64), H)[:, 0]
        residuals.append(np.sqrt(np.mean((fit - b) ** 2)))
    # At 160 pixels width; three in ten pairs have no parallax on purpose.
    assert np.median(residuals) > 0.5 and np.quantile(residuals, 0.75) > 2.0


def test_homography_pairs_obey_their_homography():
    source = PairSource(PHOTOGRAPHS, PairOptions(160, 120, homographies=1.0, occluders=0.0))
    for index in range(6):
        pair = source.sample(index)
        expected = cv2.perspectiveTransform(
            pixel_grid(160, 120).reshape(-1, 1, 2).astype(np.float64), pair.homography
        ).reshape(120, 160, 2)
        assert np.abs(pair.warp - expected)[pair.visible].max() < 1e-2


def test_occluders_are_never_called_visible():
    """With the effects off, what is in front is the only foreign thing in the images."""
    black = [np.zeros((168, 224, 3), np.uint8)] * 3 + [np.full((168, 224, 3), 255, np.uint8)]
    options = PairOptions(
        160, 120, occluders=1.0, relighting=0, sky=False, homographies=0, effects=NO_EFFECTS
    )
    source, found = PairSource(black, options, seed=1), 0
    for index in range(20):
        pair = source.sample(index)
        warped = cv2.remap(pair.rgb_b, pair.warp, None, cv2.INTER_NEAREST)
        differs = (pair.rgb_a != warped).any(axis=-1)
        found += differs.any()
        assert not (differs & pair.visible).any()
    assert found > 5


def test_swapping_twice_is_nothing():
    pair = SOURCE.sample(2)
    twice = pair.swapped().swapped()
    assert np.array_equal(twice.warp, pair.warp) and np.array_equal(twice.rgb_b, pair.rgb_b)
    assert np.array_equal(pair.swapped().visible, pair.visible_b)


def test_refusals(tmp_path):
    with pytest.raises(InvalidInput, match="no such folder"):
        PairSource(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="holds no photographs"):
        PairSource(tmp_path)
    with pytest.raises(InvalidInput, match="no photographs"):
        PairSource([])
    with pytest.raises(InvalidInput, match="uint8"):
        PairSource([np.zeros((4, 4))])
    with pytest.raises(InvalidInput, match=r"\[0, 1\]"):
        PairOptions(occluders=2.0)
    with pytest.raises(InvalidInput, match="at least 32"):
        PairOptions(width=8)


def test_batches_in_torch():
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.lifting.torch_pairs import TorchPairSource
    from l2m_ros.workshop.lifting.torch_views import sample

    photographs = torch.from_numpy(np.stack(PHOTOGRAPHS).transpose(0, 3, 1, 2).copy())
    one, again = (TorchPairSource(photographs, OPTIONS, seed=7).sample(4) for _ in range(2))
    assert torch.equal(one.rgb_a, again.rgb_a) and torch.equal(one.warp, again.warp)
    assert one.rgb_a.shape == (4, 3, 120, 160) and 0 <= one.rgb_a.min() <= one.rgb_a.max() <= 1
    assert one.visible.float().mean() > 0.3 and not (one.visible & one.unknown).any()
    back = sample(one.warp_ba.permute(0, 3, 1, 2), one.warp[..., 0], one.warp[..., 1])
    grid = torch.from_numpy(pixel_grid(160, 120)).permute(2, 0, 1)
    error = (back - grid).norm(dim=1)[one.visible]
    assert error.median() < 0.05 and error.quantile(0.99) < 0.25


def test_torch_batches_obey_the_epipolar_constraint():
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.lifting.torch_pairs import TorchPairSource

    photographs = torch.from_numpy(np.stack(PHOTOGRAPHS).transpose(0, 3, 1, 2).copy())
    batch = TorchPairSource(photographs, OPTIONS, seed=2).sample(4)
    for i in range(4):
        T, visible = batch.b_from_a[i].double().numpy(), batch.visible[i].numpy()
        length = np.linalg.norm(T[:3, 3])
        if length < 1e-5 or not visible.any():
            continue
        t = T[:3, 3] / length
        E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ T[:3, :3]
        a, b = (
            np.concatenate([px[visible], np.ones((visible.sum(), 1))], 1)
            @ np.linalg.inv(K[i].double().numpy()).T
            for px, K in ((pixel_grid(160, 120), batch.K_a), (batch.warp[i].numpy(), batch.K_b))
        )
        assert np.quantile(np.abs((b @ E * a).sum(1)), 0.999) < 1e-3


def test_blur_leaves_the_image_where_its_labels_are():
    """A kernel of even length moved the content by half a pixel."""
    spot = np.zeros((96, 320, 3), np.uint8)
    spot[48, 160] = 255
    spot = cv2.GaussianBlur(spot, (0, 0), 1.5)
    spot = cv2.normalize(spot, None, 0, 255, cv2.NORM_MINMAX)
    v, u = np.mgrid[:96, :320]
    for seed in range(40):
        seen = blur(np.random.default_rng(seed), spot)[..., 0].astype(float)
        middle = np.array([(u * seen).sum(), (v * seen).sum()]) / seen.sum()
        assert np.abs(middle - (160, 48)).max() < 0.06, seed


def test_photographs_are_read_when_they_are_drawn_and_checked_once(tmp_path, monkeypatch):
    """100,000 of them, kept for each size of pairs, would take 20 GB a size."""
    from l2m_ros.workshop.lifting import pairs
    from l2m_ros.workshop.training.data import PhotographPairs

    cv2.imwrite(str(tmp_path / "one.png"), PHOTOGRAPHS[0][..., ::-1])
    checked = []
    monkeypatch.setattr(pairs, "check_size", lambda data, name: checked.append(name))
    maker = PhotographPairs([tmp_path / "one.png"], 3)
    small, large = (maker.pair(5, width=w, height=120, difficulty=0.5) for w in (160, 192))
    assert len(checked) == 1 and large.rgb_a.shape == (120, 192, 3)
    alone = PairSource([tmp_path / "one.png"], PairOptions(192, 120), seed=3).sample(5, 0.5)
    assert np.array_equal(alone.rgb_a, large.rgb_a) and np.array_equal(alone.warp, large.warp)
    cv2.imwrite(str(tmp_path / "one.png"), 255 - PHOTOGRAPHS[0][..., ::-1])
    again = maker.pair(5, width=160, height=120, difficulty=0.5)
    assert not np.array_equal(again.rgb_a, small.rgb_a)
