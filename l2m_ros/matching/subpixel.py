"""The few matches that a pose uses, refined at full resolution.

A dense warp ends at a quarter of the input. Here every chosen pair is aligned once more by its
own patch of pixels (Lucas and Kanade, Gauss-Newton):

    keyframe(p + A o) = gain query(q + o) + offset        for all o of a small patch about q

A is the warp's own Jacobian, so that scale, rotation and shear are in it; gain and offset take
the light out of it. Only the point p moves. What the normal equations know of its error becomes
the pair's precision. A pair is not confirmed where the patch has no texture, does not resemble its
counterpart afterwards, or asks for a long way; then it stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros import compiled
from l2m_ros.matching.matcher import Match
from l2m_ros.matching.sampling import THRESHOLD
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, FloatArray

F32 = npt.NDArray[np.float32]
FLAT = 1e-6  # gradients smaller than this (squared, grey levels) are no texture at all


@dataclass(frozen=True)
class SubpixelOptions:
    """How far, how alike, how often. Calibrated on half of the scenes (docs/benchmarks.md)."""

    radius: int = 4  # patch of (2 radius + 1)^2 px of the query
    iterations: int = 3
    move_px: float = 3.0  # a longer way is refused
    alike: float = 0.7  # correlation of the patches at the end, at least
    texture: float = 0.5  # grey levels: root of the weaker eigenvalue of the mean squared gradient
    levels: int = 1  # pyramid levels at most, where the scales of the two images differ
    floor_px: float = 0.1  # no pair is known better than this
    shared: float = 2.5  # bilinear samples share pixels: the residual tells too little noise
    noise_grey: float = 2.0  # of a camera's pixel, grey levels
    most_texture: float = 3.0  # times the usual: more of it draws no more pairs
    fewest: int = 30  # confirmed pairs from which the others are left out


OPTIONS = SubpixelOptions()


def texture(match: DenseMatch, rgb: ByteArray, options: SubpixelOptions = OPTIONS) -> F32:
    """(h, w) of the match: how well a patch of the query can be placed, 1 where it is as usual.

    By the weaker direction of its slopes, so an edge alone has none. Usual is the median where the
    match is certain.
    """
    rows, columns = match.certainty.shape
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    x = cv2.Sobel(grey, cv2.CV_16S, 1, 0).astype(np.float32)
    y = cv2.Sobel(grey, cv2.CV_16S, 0, 1).astype(np.float32)
    xx, yy, xy = (
        cv2.blur(cv2.resize(product, (columns, rows), interpolation=cv2.INTER_AREA), (3, 3))
        for product in (x * x, y * y, x * y)
    )
    slope = np.sqrt(_weaker(xx, xy, yy))
    certain = match.certainty > THRESHOLD
    usual = float(np.median(slope[certain])) if certain.any() else 0.0
    if usual <= 0.0:
        return np.ones_like(slope)
    return np.minimum(slope / usual, options.most_texture)


def refined(
    pairs: Correspondences,
    jacobian: FloatArray,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    options: SubpixelOptions = OPTIONS,
) -> tuple[Correspondences, npt.NDArray[np.bool_]]:
    """The pairs, keyframe_px and precision refined where the pixels allow; and where they did.

    jacobian (N, 2, 2): keyframe px by query px, from `jacobian_at`.
    """
    confirmed = np.zeros(len(pairs), bool)
    if not len(pairs):
        return pairs, confirmed
    query, keyframe = _pyramid(query_rgb, options), _pyramid(keyframe_rgb, options)
    at, jacobian = pairs.query_px.astype(np.float32), jacobian.astype(np.float32)
    scale = np.sqrt(np.abs(np.linalg.det(jacobian)).clip(1e-4, 1e4))
    level = np.round(np.log2(scale)).clip(-options.levels, options.levels).astype(int)
    point = np.array(pairs.keyframe_px, np.float32)
    precision = _precision_or_nan(pairs)
    for each in np.unique(level):
        chosen = np.flatnonzero(level == each)
        looser, finer = max(0, -int(each)), max(0, int(each))
        patches = _Patches(
            query[looser], keyframe[finer], looser, finer,
            at[chosen], point[chosen], jacobian[chosen],
        )  # fmt: skip
        aligned = _align(patches, options)
        kept = chosen[aligned.good]
        point[kept] = aligned.point[aligned.good]
        precision[kept] = aligned.precision[aligned.good]
        confirmed[kept] = True
    known = None if np.isnan(precision).any() else precision
    return replace(pairs, keyframe_px=point, precision=known), confirmed


def refined_pairs(
    match: Match,
    pairs: Correspondences,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    options: SubpixelOptions = OPTIONS,
) -> Correspondences:
    """Pairs of a dense match, refined; sparse ones come from detectors that do so themselves."""
    if not isinstance(match, DenseMatch):
        return pairs
    return refined(pairs, jacobian_at(match, pairs.query_px), query_rgb, keyframe_rgb, options)[0]


def jacobian_at(match: DenseMatch, query_px: FloatArray) -> FloatArray:
    """(N, 2, 2) of the warp about pixels of the query: slopes over three cells each way."""
    rows, columns = match.certainty.shape
    step = np.array([match.query_size[0] / columns, match.query_size[1] / rows], np.float32)
    cell = np.floor((query_px + 0.5) / step).astype(int)
    u, v = cell[:, 0].clip(0, columns - 1), cell[:, 1].clip(0, rows - 1)
    out = np.empty((len(query_px), 2, 2), np.float32)
    for axis, (dx, dy) in enumerate(((1, 0), (0, 1))):
        # Sobel's weights 1 2 1 across, a difference of two cells along: eight times the slope.
        slope = cv2.Sobel(match.warp_px, cv2.CV_32F, dx, dy, ksize=3, scale=1 / 8)
        out[:, :, axis] = slope[v, u] / step[axis]
    return np.where(_sane(out)[:, None, None], out, np.eye(2, dtype=np.float32))


def _sane(jacobian: FloatArray) -> npt.NDArray[np.bool_]:
    """Finite, not mirrored, and neither a fold nor an edge between two surfaces."""
    size = (jacobian**2).sum(axis=(1, 2))
    determinant = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    with np.errstate(invalid="ignore"):
        good: npt.NDArray[np.bool_] = (size < 50.0) & (determinant > 0.1 * size / 2)
    return good & np.isfinite(jacobian).all(axis=(1, 2))


def _precision_or_nan(pairs: Correspondences) -> F32:
    if pairs.precision is None:
        return np.full((len(pairs), 2, 2), np.nan, np.float32)
    return np.array(pairs.precision, np.float32)


def _pyramid(rgb: ByteArray, options: SubpixelOptions) -> list[F32]:
    """Grey images, each half of the one before."""
    levels = [cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)]
    for _ in range(options.levels):
        height, width = levels[-1].shape
        half = (max(1, width // 2), max(1, height // 2))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return levels


@dataclass(frozen=True, eq=False)
class _Patches:
    """Where patches lie in both images, each an image of its own pyramid level."""

    query: F32
    keyframe: F32
    query_level: int
    keyframe_level: int
    query_px: FloatArray  # (N, 2)
    keyframe_px: FloatArray  # (N, 2)
    jacobian: FloatArray  # (N, 2, 2) of the keyframe's by the query's


@dataclass(frozen=True)
class _Aligned:
    point: FloatArray  # (N, 2) px of the keyframe
    precision: F32  # (N, 2, 2) 1 / px^2
    good: npt.NDArray[np.bool_]


def _align(patches: _Patches, options: SubpixelOptions) -> _Aligned:
    """Gauss-Newton over the shift of every patch."""
    kernel = compiled.kernel("subpixel")
    if kernel is None:
        found = _shifts(patches, options)
    else:
        found = _shifts_compiled(kernel, patches, options)
    way, xx, xy, yy, gain, left, power = found
    determinant = np.maximum(xx * yy - xy * xy, FLAT)
    weakest = _weaker(xx, xy, yy)
    alike = np.sqrt(np.maximum(0.0, 1.0 - left / np.maximum(power, FLAT)))
    # Slopes are zero-mean and free of the template: what remains of them is what a shift explains.
    count = (2 * options.radius + 1) ** 2
    good = (alike > options.alike) & (gain > 0.2) & (gain < 5.0)
    good &= weakest / count > options.texture**2
    good &= np.hypot(way[:, 0], way[:, 1]) <= options.move_px
    variance = np.maximum(left / (count - 4), options.noise_grey**2) / np.maximum(gain, 0.2) ** 2
    variance *= options.shared * 4.0**patches.query_level
    covariance = _covariance(xx, xy, yy, determinant, variance, patches.jacobian)
    covariance += np.eye(2) * options.floor_px**2
    covariance[~good] = np.eye(2)  # without texture there is nothing to invert
    return _Aligned(patches.keyframe_px + way, _inverses(covariance), good)


def _weaker(xx: F32, xy: F32, yy: F32) -> F32:
    """The smaller eigenvalue of symmetric 2x2 matrices."""
    out: F32 = np.maximum(0.5 * (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy * xy)), 0.0)
    return out


# way (N, 2) px of the keyframe; slopes xx, xy, yy, gain, squares left over, squares seen: (N,) each
_Shifts = tuple[F32, F32, F32, F32, F32, F32, F32]


def _shifts(patches: _Patches, options: SubpixelOptions) -> _Shifts:
    """Where the patches go, and what is left over there; readable twin of `subpixel_kernel`."""
    keyframe_px, jacobian = patches.keyframe_px, patches.jacobian
    coarser = np.float32(2.0**patches.query_level)
    offsets = _offsets(options.radius) * coarser  # (P, 2) px of the query
    template, slope_x, slope_y = _template(
        patches.query, patches.query_level, patches.query_px, options.radius
    )
    reach = offsets @ jacobian.transpose(0, 2, 1)  # (N, P, 2) px of the keyframe
    xx, xy, yy = _dot(slope_x, slope_x), _dot(slope_x, slope_y), _dot(slope_y, slope_y)
    determinant = np.maximum(xx * yy - xy * xy, FLAT)
    strength = _dot(template, template)
    shift = np.zeros((len(keyframe_px), 2), np.float32)  # px of the query's level
    for _ in range(options.iterations):
        moved = keyframe_px + _moved(jacobian, shift * coarser)
        seen = _sampled(patches.keyframe, patches.keyframe_level, moved[:, None] + reach)
        gain, rest = _rest(seen, template, strength)
        bx, by = _dot(slope_x, rest) / gain, _dot(slope_y, rest) / gain
        step = np.stack([yy * bx - xy * by, xx * by - xy * bx], axis=1) / determinant[:, None]
        shift -= step.clip(-1.0, 1.0)
    way = np.asarray(_moved(jacobian, shift * coarser), np.float32)
    seen = _sampled(patches.keyframe, patches.keyframe_level, (keyframe_px + way)[:, None] + reach)
    gain, rest = _rest(seen, template, strength)
    return way, xx, xy, yy, gain, _dot(rest, rest), _dot(seen, seen)


def _shifts_compiled(kernel: ModuleType, patches: _Patches, options: SubpixelOptions) -> _Shifts:
    p, n = patches, len(patches.query_px)
    way, sums = np.empty((n, 2), np.float32), np.empty((n, 6), np.float32)
    given = (compiled.array(a, np.float32) for a in (p.query_px, p.keyframe_px, p.jacobian))
    kernel.align(
        compiled.array(p.query, np.float32), compiled.array(p.keyframe, np.float32),
        p.query_level, p.keyframe_level, *given, options.radius, options.iterations, way, sums,
    )  # fmt: skip
    xx, xy, yy, gain, left, power = np.ascontiguousarray(sums.T)
    return way, xx, xy, yy, gain, left, power


def _offsets(radius: int) -> F32:
    """((2 r + 1)^2, 2) x and y, row by row."""
    span = np.arange(-radius, radius + 1, dtype=np.float32)
    x, y = np.meshgrid(span, span)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _template(query: F32, level: int, query_px: FloatArray, radius: int) -> tuple[F32, F32, F32]:
    """(N, P) each: zero-mean patches and their slopes, the slopes free of the patch itself."""
    side = 2 * radius + 3
    around = _offsets(radius + 1) * 2.0**level
    wide = _samples(query, level, query_px[:, None] + around).reshape(-1, side, side)
    count = (2 * radius + 1) ** 2
    patch = _zero_mean(wide[:, 1:-1, 1:-1].reshape(-1, count))
    slope_x = _zero_mean(0.5 * (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]).reshape(-1, count))
    slope_y = _zero_mean(0.5 * (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]).reshape(-1, count))
    strength = np.maximum(_dot(patch, patch), FLAT)
    for slope in (slope_x, slope_y):
        slope -= patch * (_dot(slope, patch) / strength)[:, None]
    return patch, slope_x, slope_y


def _rest(seen: F32, template: F32, strength: F32) -> tuple[F32, F32]:
    """The gain between patches, and what it does not explain."""
    slope = _dot(seen, template) / np.maximum(strength, FLAT)
    gain: F32 = np.where(np.abs(slope) < 1e-3, 1e-3, slope).astype(np.float32)
    return gain, np.asarray(seen - gain[:, None] * template, np.float32)


def _sampled(image: F32, level: int, pixels: FloatArray) -> F32:
    return _zero_mean(_samples(image, level, pixels))


def _samples(image: F32, level: int, pixels: FloatArray) -> F32:
    """Bilinear at (N, P, 2) pixels of the full size; beyond the border its last pixel."""
    if level:
        factor = np.float32(0.5**level)
        pixels = (pixels + np.float32(0.5)) * factor - np.float32(0.5)
    out: F32 = cv2.remap(image, pixels, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return out


def _zero_mean(values: F32) -> F32:
    out: F32 = values - values.mean(axis=1, keepdims=True)
    return out


def _dot(a: F32, b: F32) -> F32:
    out: F32 = np.einsum("np,np->n", a, b)
    return out


def _moved(jacobian: FloatArray, shift: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("nij,nj->ni", jacobian, shift))


def _covariance(
    xx: F32, xy: F32, yy: F32, determinant: F32, variance: FloatArray, jacobian: FloatArray
) -> FloatArray:
    """(N, 2, 2) px^2 of the keyframe: A (variance H^-1) A^T."""
    inverse = np.stack([yy, -xy, -xy, xx], axis=1).astype(np.float64) / determinant[:, None]
    local = (inverse * variance[:, None]).reshape(-1, 2, 2)
    return np.asarray(jacobian @ local @ jacobian.transpose(0, 2, 1))


def _inverses(covariance: FloatArray) -> F32:
    """(N, 2, 2). numpy.linalg.inv wakes OpenBLAS's second thread, which then spins for 26 ms."""
    adjugate = np.empty(covariance.shape, np.float32)
    a, b, d = covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1]
    adjugate[:, 0, 0], adjugate[:, 1, 1] = d, a
    adjugate[:, 0, 1] = adjugate[:, 1, 0] = -b
    return np.asarray(adjugate / (a * d - b * b)[:, None, None], np.float32)
