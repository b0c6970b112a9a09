"""Exactness of lifted views: closed forms, a brute-force ray check, and the torch twin."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.motion import MotionRange, centred, rotation, sample_cameras
from l2m_ros.workshop.lifting.pairs import PairOptions, PairSource, warp_between
from l2m_ros.workshop.lifting.procedural import plane, procedural_inverse_depth
from l2m_ros.workshop.lifting.views import Relief, render

SIZE = (160, 120)
NO_EFFECTS = EffectOptions(
    exposure_stops=0, gamma=0, contrast=0, colour_temperature=0, shading=0, vignette=0,
    flare=0, blur=0, noise=0, jpeg=0, grey=0,
)  # fmt: skip


def photograph(seed, size=(320, 240), cells=9):
    """Smooth colours with some hard edges, for segments to follow."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (cells * 3 // 4, cells, 3)).astype(np.float32)
    rgb = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        corner, extent = rng.uniform(0, 0.8, 2) * size, rng.uniform(0.1, 0.4, 2) * size
        end = (corner + extent).astype(int)
        cv2.rectangle(rgb, corner.astype(int).tolist(), end.tolist(), rng.uniform(0, 255, 3), -1)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def scene(seed, size=SIZE):
    """A procedural relief and two cameras."""
    rng = np.random.default_rng(seed)
    K = centred(size[0] * rng.uniform(0.6, 1.3), *size)
    relief = Relief.from_inverse_depth(procedural_inverse_depth(rng, photograph(seed, size), K), K)
    return relief, sample_cameras(rng, relief, *size, MotionRange())


def both_ways(relief, cameras, size=SIZE):
    a = render(relief, cameras.K_a, cameras.a_from_grid, *size)
    b = render(relief, cameras.K_b, cameras.b_from_grid, *size)
    ab = warp_between(relief, a, b, cameras.K_b, cameras.b_from_grid)
    ba = warp_between(relief, b, a, cameras.K_a, cameras.a_from_grid)
    return a, b, ab, ba


def pixel_grid(width, height):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


SCENES = [scene(seed) for seed in range(24)]


def test_forward_and_backward_meet():
    errors = []
    for relief, cameras in SCENES:
        _, _, (warp, visible, _), (warp_ba, _, _) = both_ways(relief, cameras)
        back = cv2.remap(warp_ba, warp, None, cv2.INTER_LINEAR)
        errors.append(np.linalg.norm(back - pixel_grid(*SIZE), axis=-1)[visible])
    errors = np.concatenate(errors)
    assert len(errors) > 0.3 * len(SCENES) * SIZE[0] * SIZE[1]
    assert np.median(errors) < 0.05
    assert np.quantile(errors, 0.99) < 0.25


def test_labels_obey_the_epipolar_constraint():
    for relief, cameras in SCENES:
        _, _, (warp, visible, _), _ = both_ways(relief, cameras)
        T = cameras.b_from_a
        if not visible.any() or np.linalg.norm(T[:3, 3]) < 1e-6:
            continue
        t = T[:3, 3] / np.linalg.norm(T[:3, 3])
        E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ T[:3, :3]
        a, b = (
            np.concatenate([px[visible], np.ones((visible.sum(), 1))], 1) @ np.linalg.inv(K).T
            for px, K in ((pixel_grid(*SIZE), cameras.K_a), (warp, cameras.K_b))
        )
        assert np.abs((b @ E * a).sum(1)).max() < 1e-3


def bilinear(image, x, y):
    """The slow twin of `sample`: float64, no rounding of the place."""
    x0 = np.clip(np.floor(x).astype(int), 0, image.shape[1] - 2)
    y0 = np.clip(np.floor(y).astype(int), 0, image.shape[0] - 2)
    fx, fy = x - x0, y - y0
    top = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    return top * (1 - fy) + (image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx) * fy


def blocked(relief, points, centre, steps=2500):
    """For points of the surface (N, 3): does the straight line from the centre hit it before?

    A hit is a sample on a whole cell that is in front of the surface, followed by one on a
    whole cell more than 2 % behind it, with the crossing in between on whole cells.
    """
    s = np.linspace(0.0, 0.985, steps)[:, None, None]
    line = centre + s * (points - centre)
    w = relief.inverse_depth.astype(np.float64)
    ahead = line[..., 2] > 1e-3
    z = np.where(ahead, line[..., 2], 1.0)
    px = line @ relief.K.T
    x, y = px[..., 0] / z, px[..., 1] / z
    inside = ahead & (x >= 0) & (x < w.shape[1] - 1) & (y >= 0) & (y < w.shape[0] - 1)
    x, y = np.where(inside, x, 0), np.where(inside, y, 0)
    whole = inside & (relief.cells[y.astype(int), x.astype(int)] == 0)
    behind = z * bilinear(w, x, y) - 1.0
    hit = np.zeros(len(points), bool)
    in_front = np.zeros(len(points), bool)  # since the last gap in the surface
    for step in range(steps):
        in_front = whole[step] & (in_front | (behind[step] < 0))
        hit |= in_front & (behind[step] > 0.02)
    return hit


def test_visible_pixels_are_visible_by_brute_force():
    total = wrong = hidden = hidden_blocked = 0
    rng = np.random.default_rng(0)
    for relief, cameras in SCENES:
        a, _, (_, visible, unknown), _ = both_ways(relief, cameras)
        centre = -cameras.b_from_grid[:3, :3].T @ cameras.b_from_grid[:3, 3]
        for mask in (visible, a.seen & ~visible & ~unknown):
            ys, xs = np.nonzero(mask)
            if len(ys) < 100:
                continue
            chosen = rng.choice(len(ys), 50, replace=False)
            s = a.source_px[ys[chosen], xs[chosen]].astype(np.float64)
            w = bilinear(relief.inverse_depth.astype(np.float64), s[:, 0], s[:, 1])
            rays = np.concatenate([s, np.ones((50, 1))], 1) @ np.linalg.inv(relief.K).T
            stopped = blocked(relief, rays / w[:, None], centre)
            if mask is visible:
                total, wrong = total + 50, wrong + stopped.sum()
            else:
                hidden, hidden_blocked = hidden + 50, hidden_blocked + stopped.sum()
    assert total > 750
    assert wrong <= 0.002 * total
    # The check itself can say no: of the pixels without a match a part is hidden, not outside.
    assert hidden_blocked > 0.02 * hidden


def test_colours_agree():
    source = PairSource(
        [photograph(seed, cells=7) for seed in range(5)],
        PairOptions(
            *SIZE, effects=NO_EFFECTS, occluders=0, relighting=0, sky=False, homographies=0
        ),
    )
    differences = []
    for index in range(12):
        pair = source.sample(index)
        seen = cv2.remap(pair.rgb_b, pair.warp, None, cv2.INTER_LINEAR).astype(float)
        differences.append(np.abs(seen - pair.rgb_a)[pair.visible].max(axis=-1))
    differences = np.concatenate(differences)
    assert np.median(differences) <= 2
    assert np.quantile(differences, 0.95) < 12  # hard edges, resampled twice


def test_a_plane_gives_its_homography():
    K, K_b = centred(140.0, *SIZE), centred(170.0, *SIZE)
    normal = np.array([0.3, -0.2, 0.93])
    relief = Relief.from_inverse_depth(plane(normal, 1.2, K, *SIZE), K)
    T = rotation([0.1, -0.2, 0.15])
    T[:3, 3] = 0.3, -0.1, 0.2
    view = render(relief, K_b, T, *SIZE)
    H = K_b @ (T[:3, :3] + np.outer(T[:3, 3], normal) / 1.2) @ np.linalg.inv(K)
    expected = cv2.perspectiveTransform(
        pixel_grid(*SIZE).reshape(-1, 1, 2).astype(np.float64), np.linalg.inv(H)
    ).reshape(*SIZE[::-1], 2)
    assert view.seen.mean() > 0.5
    # Far inside of the grid every pixel is seen, and at its place.
    inside = ((expected > 2) & (expected < np.array(SIZE) - 3)).all(axis=-1)
    assert view.seen[inside].mean() > 0.999
    assert np.abs(view.source_px - expected)[view.seen].max() < 0.02


def test_cells_across_a_jump_are_cut_and_what_is_behind_is_a_hole():
    K = centred(150.0, *SIZE)
    w = np.ones(SIZE[::-1], np.float32)
    w[40:80, 60:100] = 2.0
    relief = Relief.from_inverse_depth(w, K)
    assert relief.cells.sum() == 41 * 41 - 39 * 39
    T = np.eye(4)
    T[0, 3] = -0.1  # the camera steps to the right: 15 px of the wall, 30 px of the square
    view = render(relief, K, T, *SIZE)
    # The square's columns 60..99 move to 30..69; of the wall 0..59 moves to -15..44, and
    # 100..159 to 85..144: what comes into sight at 70..84 is unknown, and nothing else is.
    holes = set(np.flatnonzero(~view.seen[60, :140]).tolist())
    assert set(range(71, 84)) <= holes <= set(range(68, 87)) | {29, 30}
    assert view.inverse_depth[60, 50] == pytest.approx(2.0, abs=1e-4)
    assert view.inverse_depth[60, 100] == pytest.approx(1.0, abs=1e-4)


def test_unlabelled_surface_is_drawn_but_never_supervised():
    K = centred(150.0, *SIZE)
    sky = np.zeros(SIZE[::-1], bool)
    sky[:40] = True
    relief = Relief.from_inverse_depth(np.ones(SIZE[::-1], np.float32), K, sky)
    T = np.eye(4)
    T[:3, 3] = 0.05, 0.02, 0.1
    a, b = render(relief, K, np.eye(4), *SIZE), render(relief, K, T, *SIZE)
    _, visible, unknown = warp_between(relief, a, b, K, T)
    assert a.painted[:118, :158].all() and not visible[:40].any()
    assert unknown[:39, :159].all() and visible[60, 80]


def test_refuses_depth_that_is_no_depth():
    with pytest.raises(InvalidInput, match="finite and positive"):
        Relief.from_inverse_depth(np.full((4, 4), np.nan), np.eye(3))


def test_torch_twin_agrees():
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.lifting import torch_views as tv

    scenes = SCENES[:6]
    turned = replace(scenes[0][1], b_from_grid=scenes[0][1].a_from_grid)
    scenes = [*scenes, (scenes[0][0], turned)]

    def stack(values):
        return torch.from_numpy(np.stack(values).astype(np.float32))

    K = stack([relief.K for relief, _ in scenes])
    relief = tv.Reliefs.from_inverse_depth(stack([r.inverse_depth for r, _ in scenes]), K)
    K_a, K_b = (stack([getattr(c, n) for _, c in scenes]) for n in ("K_a", "K_b"))
    T_a, T_b = (stack([getattr(c, n) for _, c in scenes]) for n in ("a_from_grid", "b_from_grid"))
    a, b = tv.render(relief, K_a, T_a, *SIZE), tv.render(relief, K_b, T_b, *SIZE)
    batched = tv.warp_between(relief, a, b, K_b, T_b)
    for i, (one, cameras) in enumerate(scenes):
        assert (relief.cells[i].numpy() == one.cells).mean() > 0.9999
        a1, b1, (warp, visible, unknown), _ = both_ways(one, cameras)
        for single, many in ((a1, a), (b1, b)):
            for name in ("seen", "painted", "unlabelled"):
                same = getattr(many, name)[i].numpy() == getattr(single, name)
                assert same.mean() > 0.995, name
        for single, many in ((visible, batched[1]), (unknown, batched[2])):
            assert (many[i].numpy() == single).mean() > 0.99
        both = visible & batched[1][i].numpy()
        if both.any():
            # OpenCV reads the depth at 1/32 of a pixel: that is the whole difference.
            off = np.linalg.norm(batched[0][i].numpy() - warp, axis=-1)[both]
            assert np.median(off) < 0.01 and off.max() < 0.3
