"""Light on lifted photographs and what cameras do to it: closed forms."""

import cv2
import numpy as np
import pytest
from test_lifting_views import NO_EFFECTS, photograph

from l2m_ros.workshop.lifting import camera_effects as ce
from l2m_ros.workshop.lifting.motion import centred
from l2m_ros.workshop.lifting.procedural import plane
from l2m_ros.workshop.lifting.relighting import (
    DISPLAY_GAMMA,
    PRESETS,
    Light,
    Lighting,
    normals_of,
    points_of,
    random_lighting,
    relight,
    relight_quickly,
    shading_of,
    temperature_colour,
)

SIZE = (160, 120)
K = centred(150.0, *SIZE)
RNG = np.random.default_rng(0)
DARK = np.zeros(3)


def test_normals_of_a_plane_are_its_normal():
    for normal in ([0, 0, 1.0], [0.5, -0.3, 0.8], [-0.2, 0.6, 0.77]):
        normal = np.array(normal) / np.linalg.norm(normal)
        found = normals_of(plane(normal, 1.3, K, *SIZE), K)
        assert np.abs(found + normal).max() < 1e-4  # towards the camera


def test_points_lie_on_their_plane():
    normal = np.array([0.5, -0.3, 0.8])
    points = points_of(plane(normal, 1.3, K, *SIZE), K)
    assert np.abs(points @ normal - 1.3).max() < 1e-4


def test_diffuse_light_is_lambert_over_distance_squared():
    w = np.ones(SIZE[::-1], np.float32)
    lamp = Light(np.array([0.2, -0.1, 0.3]), np.array([2.0, 1.0, 0.5]))
    diffuse, _ = shading_of(w, K, Lighting((lamp,), DARK, specular=0.0), RNG)
    way = lamp.position - points_of(w, K)
    distance = np.linalg.norm(way, axis=-1)
    cosine = -way[..., 2] / distance
    assert np.allclose(diffuse, (cosine / distance**2)[..., None] * lamp.colour, atol=1e-3)


def test_highlight_lies_where_the_mirror_is():
    w = np.ones(SIZE[::-1], np.float32)
    lamp = Light(np.array([0.3, 0.0, 0.0]), np.ones(3))
    lighting = Lighting((lamp,), DARK, specular=1.0, shininess=200.0)
    _, shine = shading_of(w, K, lighting, RNG)
    # Camera at x = 0 and lamp at x = 0.3, both 1 before the wall: the mirror is at x = 0.15.
    row, column = np.unravel_index(shine[..., 0].argmax(), shine.shape[:2])
    assert abs(column - (K[0, 2] + 150 * 0.15)) <= 1.5 and abs(row - K[1, 2]) <= 1.5


def test_shadow_falls_where_geometry_says():
    w = np.full(SIZE[::-1], 0.5, np.float32)  # a wall at 2
    w[:, 70:90] = 1.0  # a column at 1
    lamp = Light(np.array([-1.0, 0.0, 0.0]), np.ones(3))
    diffuse, _ = shading_of(w, K, Lighting((lamp,), DARK, shadow_steps=96), RNG)
    lit = diffuse[60, :, 0] > 1e-4
    # The column is taken to be as thick as SHADOW_THICKNESS: z from 1 to 1.6, x / z from -0.063
    # to 0.07. Rays from x = -1 that graze it meet the wall at x = 0.12 (past its back, left)
    # and 1.14 (past its front, right), which the camera sees at column 89 and outside.
    assert lit[:60].all()
    assert not lit[93:158].any()


def test_area_light_has_a_penumbra():
    w = np.full(SIZE[::-1], 0.5, np.float32)
    w[:, 70:90] = 1.0
    shares = []
    for radius in (0.0, 0.3):
        lamp = Light(np.array([-1.0, 0, 0]), np.ones(3), radius)
        lighting = Lighting((lamp,), DARK, shadow_steps=48, area_samples=16)
        diffuse, _ = shading_of(w, K, lighting, np.random.default_rng(1))
        wall = diffuse[60, 95:, 0]
        shares.append(np.mean((wall > 0.15 * wall.max()) & (wall < 0.85 * wall.max())))
    assert shares[1] > shares[0] + 0.1


def test_colour_temperature():
    warm, neutral, cold = (temperature_colour(kelvin) for kelvin in (2500, 6500, 12000))
    assert warm[0] > warm[1] > warm[2] and cold[0] < cold[1] < cold[2]
    assert np.allclose(neutral, 1.0)


def test_ambient_light_alone_is_a_gain():
    rgb = photograph(0, SIZE)
    w = np.ones(SIZE[::-1], np.float32)
    same = relight(rgb, w, K, Lighting((), np.ones(3)), RNG)
    assert np.abs(same.astype(int) - rgb).max() <= 1 + (rgb < 16).max() * 4
    half = relight(rgb, w, K, Lighting((), np.full(3, 0.5)), RNG)
    expected = rgb * 0.5 ** (1 / DISPLAY_GAMMA)
    assert np.abs(half - expected)[rgb > 30].max() < 2.5


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    rgb = np.full((*SIZE[::-1], 3), 128, np.uint8)
    w = plane(np.array([0, -0.3, 0.95]), 1.0, K, *SIZE)
    means = [
        relight(rgb, w, K, random_lighting(np.random.default_rng(seed), preset), RNG).mean()
        for seed in range(12)
    ]
    assert all(0 < len(random_lighting(RNG, preset).lights) <= 5 for _ in range(20))
    if preset == "night":
        assert np.mean(means) < 80
    if preset == "lamps":
        assert 80 < np.mean(means) < 200


def test_the_quick_path_agrees_with_the_exact_one():
    rgb = photograph(3, SIZE)
    w = plane(np.array([0.2, -0.3, 0.9]), 1.0, K, *SIZE)
    lamp = Light(np.array([0.3, -0.4, 0.2]), np.array([0.8, 0.7, 0.5]))
    lighting = Lighting((lamp,), np.full(3, 0.3), specular=0.0)
    exact, quick = (f(rgb, w, K, lighting, RNG).astype(int) for f in (relight, relight_quickly))
    assert np.median(np.abs(exact - quick)) <= 2 and np.quantile(np.abs(exact - quick), 0.99) < 8


def test_no_effects_change_nothing():
    rgb = photograph(1, SIZE)
    out = ce.camera_effects(np.random.default_rng(0), rgb, NO_EFFECTS)
    assert np.abs(out.astype(int) - rgb).max() <= 1


def test_tone_tables_rise():
    for seed in range(20):
        table = ce.tone_tables(np.random.default_rng(seed), ce.EffectOptions(), 1.0)
        assert (np.diff(table[:, 0].astype(int), axis=0) >= 0).all()


def test_noise_has_the_strength_asked_for():
    grey = np.full((200, 300, 3), 128, np.uint8)
    for sigma in (2.0, 8.0):
        noisy = [ce.noise(np.random.default_rng(seed), grey, sigma) for seed in range(6)]
        assert np.std(noisy) == pytest.approx(sigma, rel=0.1)
        assert np.mean(noisy) == pytest.approx(128, abs=0.3)


def test_blur_keeps_the_mean_and_removes_detail():
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    for seed in range(12):
        blurred = ce.blur(np.random.default_rng(seed), rgb)
        assert blurred.shape == rgb.shape
        assert abs(blurred.mean() - rgb.mean()) < 1.5 and blurred.std() < rgb.std() + 0.1


def test_vignette_darkens_the_corners():
    options = ce.EffectOptions(shading=0.0, vignette=1.0)
    light = ce.shading(np.random.default_rng(0), *SIZE, options)
    assert light[60, 80].mean() > light[[0, 0, -1, -1], [0, -1, 0, -1]].mean() + 5


def test_flare_only_adds_light():
    rgb = photograph(2, SIZE)
    flared = ce.flare(np.random.default_rng(4), rgb)
    assert (flared >= rgb).all() and flared.mean() > rgb.mean() + 1


def test_jpeg_loses_more_at_lower_quality():
    rgb = photograph(2, SIZE)
    loss = [np.abs(ce.jpeg(rgb, q).astype(int) - rgb).mean() for q in (95, 50, 15)]
    assert 0 < loss[0] < loss[1] < loss[2]


def test_torch_effects_stay_images():
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.lifting.torch_effects import camera_effects, jpeg_like
    from l2m_ros.workshop.lifting.torch_scenes import Draws

    rgb = torch.from_numpy(photograph(2, (164, 125))).permute(2, 0, 1)[None].float() / 255
    draws = Draws(torch.device("cpu"), 0)
    out = camera_effects(draws, rgb.repeat(4, 1, 1, 1), ce.EffectOptions(), torch.ones(4))
    assert out.shape == (4, 3, 125, 164) and out.min() >= 0 and out.max() <= 1
    loss = [(jpeg_like(rgb, torch.tensor([a])) - rgb).abs().mean() for a in (0.0, 1.0)]
    assert 0 < loss[0] < loss[1] < 0.05
    assert cv2.PSNR(rgb[0].numpy(), jpeg_like(rgb, torch.zeros(1))[0].numpy(), 1.0) > 30
