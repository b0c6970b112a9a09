"""One picture of the world: one ray a pixel, filtered textures, smoothed silhouettes, depth.

For a triangle in the camera's frame and the ray r = (x, y, 1) of a pixel, all is projective:

    1/z = m . r        texel u = (U . r) / (m . r)        texel v = (V . r) / (m . r)

so nine numbers a triangle give depth, texture coordinates and their derivatives, hence the
pixel's footprint. It is sampled by four trilinear lookups along its longer axis, at the
pyramid level of its shorter one: no aliasing, and floors stay sharp towards the horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.simulation.atlas import LEVELS
from l2m_ros.workshop.simulation.optics import PixelRays, pixel_rays
from l2m_ros.workshop.simulation.world import Indices, View, World

# Where along the footprint, in quarters of it. The coarser of the two levels of a trilinear
# lookup has texels twice as long, so that half as many taps cover it.
TAPS = {1: (0.0,), 2: (-1.0, 1.0), 4: (-1.5, 0.5, -0.5, 1.5)}
BLOCK = 32 * 1024  # rays shaded at once: their thirty arrays stay in the cache (27 for 43 ms)
# Sub-pixel places of the extra rays where two surfaces meet.
EDGE_SAMPLES_PX = ((-0.35, -0.2), (0.3, 0.38))
EDGE_CONTRAST = 28  # of 255: a jagged border of less contrast is hardly seen


@dataclass(frozen=True, eq=False)
class Rendering:
    """What one camera sees at one moment, before any fault of the sensor."""

    rgb: ByteArray  # (H, W, 3)
    depth_m: FloatArray  # (H, W) float32, exact z of the ray through the pixel's centre; NaN = sky
    hit: Indices  # (H, W) triangle, -1 = sky


def render(view: View, camera: Camera) -> Rendering:
    """The picture and its exact depth; the lens of the camera is honoured."""
    optics = pixel_rays(camera)
    rays = optics.rays.reshape(-1, 3)
    hit = view.first_hit(rays)
    hit[~optics.valid] = -1
    depth = view.depth_m(hit, rays)
    shader = _Shader(view)
    rgb = shader.colours(hit, optics.rays32.reshape(-1, 3), optics.pitch.reshape(-1, 2), taps=4)
    _smooth_silhouettes(shader, rgb, hit.reshape(camera.height, camera.width), optics)
    shape = (camera.height, camera.width)
    rgb[~optics.valid] = 0  # beyond what the lens can see
    depth_m = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32)
    return Rendering(rgb.reshape(*shape, 3), depth_m.reshape(shape), hit.reshape(shape))


def _smooth_silhouettes(shader: _Shader, rgb: ByteArray, hit: Indices, optics: PixelRays) -> None:
    """Averages a few more rays into each pixel on a visible border between two facets."""
    facet = shader.view.world.triangles.facet[hit]
    facet[hit < 0] = -1
    chosen = np.flatnonzero(_borders(facet, rgb.reshape(*hit.shape, 3)).ravel() & optics.valid)
    if not len(chosen):
        return
    pitch = optics.pitch.reshape(-1, 2)[chosen]
    rays = np.repeat(optics.rays32.reshape(-1, 3)[chosen, None], len(EDGE_SAMPLES_PX), axis=1)
    rays[..., :2] += pitch[:, None] * np.array(EDGE_SAMPLES_PX, np.float32)
    rays = rays.reshape(-1, 3)  # the samples of a pixel together, for they meet the same
    pitches = np.repeat(pitch, len(EDGE_SAMPLES_PX), axis=0)
    around = shader.colours(shader.view.first_hit(rays), rays, pitches, taps=1)
    total = around.reshape(len(chosen), -1, 3).sum(axis=1, dtype=np.uint16) + rgb[chosen]
    rgb[chosen] = total // (1 + len(EDGE_SAMPLES_PX))


def _borders(facet: Indices, image: ByteArray) -> npt.NDArray[np.bool_]:
    """(H, W): pixels whose right or lower neighbour shows another facet in another colour."""
    edge = np.zeros(facet.shape, bool)
    for ahead, behind in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        step = cv2.absdiff(image[ahead], image[behind])
        seen = cv2.max(cv2.max(step[..., 0], step[..., 1]), step[..., 2]) > EDGE_CONTRAST
        changes = (facet[ahead] != facet[behind]) & seen
        edge[ahead] |= changes
        edge[behind] |= changes
    return edge


class _Shader:
    """Per view, the nine numbers of every triangle; then colours for any rays."""

    def __init__(self, view: View) -> None:
        self.view, self.world = view, view.world
        table, R = self.world.triangles, view.world_from_camera[:3, :3]
        shift = table.texel_b + np.einsum("tij,tj->ti", table.texel_a, view.origins())
        with np.errstate(invalid="ignore"):
            texel = table.texel_a @ R + shift[..., None] * view.inverse_depth[:, None, :]
        # One column more, which index -1 finds: the sky, a plane before the camera without texture.
        columns = np.zeros((9, len(table.patch) + 1), np.float32)
        columns[:, :-1] = np.concatenate([view.inverse_depth, texel.reshape(-1, 6)], axis=1).T
        columns[2, -1] = 1.0
        self.columns = columns
        self.first_level = np.append(table.patch * LEVELS, 0).astype(np.int32)
        self.gain = np.append(table.gain, 1.0).astype(np.float32)
        self.placement = np.ascontiguousarray(self.world.atlas.placement.T)

    def colours(self, hit: Indices, rays: FloatArray, pitch: FloatArray, taps: int) -> ByteArray:
        """(N, 3) for (N,) triangles met by (N, 3) rays; pitch (N, 2) = size of a pixel at z = 1."""
        blocks = [slice(at, at + BLOCK) for at in range(0, len(hit), BLOCK)]
        parts = [self._block(hit[block], rays[block], pitch[block], taps) for block in blocks]
        return np.concatenate(parts)

    def _block(self, hit: Indices, rays: FloatArray, pitch: FloatArray, taps: int) -> ByteArray:
        index = hit.astype(np.intp)
        u, v, major, level = self._footprint(index, rays, pitch, taps)
        whole = np.clip(level.astype(np.int32), 0, LEVELS - 2)
        blend = np.clip(level - whole.astype(np.float32), 0.0, 1.0)
        place = np.take(self.first_level, index, mode="wrap") + whole
        fine = self._sampled(place, u, v, major, TAPS[taps])
        coarse = self._sampled(place + 1, u, v, major, TAPS[max(taps // 2, 1)])
        rows = _as_rows(1.0 - blend), _as_rows(blend)
        rgb = cv2.blendLinear(fine, coarse, *rows).reshape(-1, 3)[: len(hit)]
        self._light_leaves(rgb, index)
        self._paint_sky(rgb, hit, rays)
        return rgb

    def _footprint(
        self, index: Indices, rays: FloatArray, pitch: FloatArray, taps: int
    ) -> tuple[FloatArray, FloatArray, tuple[FloatArray, FloatArray], FloatArray]:
        """Texel (u, v), step (du, dv) between taps, and pyramid level, each (N,)."""
        mx, my, mz, ux, uy, uz, vx, vy, vz = (
            np.take(column, index, mode="wrap") for column in self.columns
        )
        x, y = rays[:, 0], rays[:, 1]
        z = 1.0 / (mx * x + my * y + mz)
        u, v = (ux * x + uy * y + uz) * z, (vx * x + vy * y + vz) * z
        zx, zy = z * pitch[:, 0], z * pitch[:, 1]
        a, b = (ux - u * mx) * zx, (vx - v * mx) * zx  # texels along a pixel's width
        c, d = (uy - u * my) * zy, (vy - v * my) * zy  # and along its height
        wide, high = a * a + b * b, c * c + d * d
        longer = np.sqrt(np.maximum(np.maximum(wide, high), 1e-12))
        shorter = np.abs(a * d - b * c) / longer
        level = np.log2(np.maximum(np.maximum(shorter, longer / taps), 1.0))
        level = np.minimum(level, LEVELS - 1.001)
        across = wide >= high
        step = np.where(across, a, c) / taps, np.where(across, b, d) / taps
        return u, v, step, level

    def _sampled(
        self,
        place: Indices,
        u: FloatArray,
        v: FloatArray,
        step: tuple[FloatArray, FloatArray],
        at: Sequence[float],
    ) -> ByteArray:
        """The mean at one level over places `at`, in steps along the footprint; rows, padded."""
        sx, sy, x0, y0 = (np.take(column, place, mode="clip") for column in self.placement)
        x, y = _as_rows(u * sx + x0), _as_rows(v * sy + y0)
        if len(at) == 1:
            return cv2.remap(self.world.atlas.image, x, y, cv2.INTER_LINEAR)
        dx, dy = _as_rows(step[0] * sx), _as_rows(step[1] * sy)
        taps = [
            cv2.remap(self.world.atlas.image, x + t * dx, y + t * dy, cv2.INTER_LINEAR) for t in at
        ]
        while len(taps) > 1:
            taps = [
                cv2.addWeighted(one, 0.5, two, 0.5, 0.0)
                for one, two in zip(taps[::2], taps[1::2], strict=True)
            ]
        return taps[0]

    def _light_leaves(self, rgb: ByteArray, index: Indices) -> None:
        gain = np.take(self.gain, index, mode="wrap")
        leafy = np.flatnonzero(gain != 1.0)
        lit = rgb[leafy] * gain[leafy, None]
        rgb[leafy] = np.minimum(lit, 255.0).astype(np.uint8)

    def _paint_sky(self, rgb: ByteArray, hit: Indices, rays: FloatArray) -> None:
        above = np.flatnonzero(hit < 0)
        if self.world.sky is None or not len(above):
            return
        direction = rays[above] @ self.view.world_from_camera[:3, :3].T.astype(np.float32)
        h, w = self.world.sky.shape[:2]
        azimuth = np.arctan2(direction[:, 1], direction[:, 0])
        level = np.arctan2(direction[:, 2], np.hypot(direction[:, 0], direction[:, 1]))
        x = _as_rows((0.5 - azimuth / (2 * np.pi)) * w)
        y = _as_rows((0.5 - level / np.pi) * h)
        sky = cv2.remap(self.world.sky, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        rgb[above] = sky.reshape(-1, 3)[: len(above)]


def _as_rows(values: FloatArray) -> FloatArray:
    """(N,) as an image of 1024 columns, padded by zeros: cv2 takes sides below 32768."""
    rows = -(-len(values) // 1024)
    if rows * 1024 == len(values):
        return values.astype(np.float32, copy=False).reshape(rows, 1024)
    padded = np.zeros(rows * 1024, np.float32)
    padded[: len(values)] = values
    return padded.reshape(rows, 1024)


def look(
    world: World, camera: Camera, world_from_camera: npt.ArrayLike, time_s: float = 0.0
) -> Rendering:
    """A single picture, for tests, pictures and people."""
    return render(world.view(np.asarray(world_from_camera, float), time_s), camera)
