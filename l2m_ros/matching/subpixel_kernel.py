"""The loops of `subpixel.py` compiled by numba: each pair's patch from sample to shift at once.

NumPy goes over all patches for each step (6 MB an array, from and to memory each time); here a
patch stays in the cache until it is done. Sampling is cv2.remap's: positions are rounded to 1/32 of
a pixel. The formulas are explained in `subpixel.py`, and tested against it.
"""

# mypy: ignore-errors
# Numba finds the types of what it compiles by itself; its decorators have none.

from __future__ import annotations

import numba
import numpy as np

# Sums may be reordered, so that they are vectorised; NaN and infinity keep their meaning.
_compiled = numba.njit(
    nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy"
)

F32 = np.float32
FLAT = F32(1e-6)  # of `subpixel.py`
HALF, TICKS = F32(0.5), F32(32.0)


@_compiled
def _sample(image, x, y):
    """cv2.remap, INTER_LINEAR, BORDER_REPLICATE."""
    height, width = image.shape
    ix, iy = int(np.rint(x * TICKS)), int(np.rint(y * TICKS))
    fx, fy = F32(ix & 31) / TICKS, F32(iy & 31) / TICKS
    column, row = ix >> 5, iy >> 5
    left, right = min(max(column, 0), width - 1), min(max(column + 1, 0), width - 1)
    above, below = min(max(row, 0), height - 1), min(max(row + 1, 0), height - 1)
    one = F32(1.0)
    upper = image[above, left] * (one - fx) + image[above, right] * fx
    lower = image[below, left] * (one - fx) + image[below, right] * fx
    return upper * (one - fy) + lower * fy


@_compiled
def _zero_mean(values):
    mean = F32(0.0)
    for p in range(len(values)):
        mean += values[p]
    mean /= F32(len(values))
    for p in range(len(values)):
        values[p] -= mean


@_compiled
def _dot(a, b):
    total = F32(0.0)
    for p in range(len(a)):
        total += a[p] * b[p]
    return total


@_compiled
def _template(query, level, u, v, radius, wide, patch, slope_x, slope_y):
    """Zero-mean patch and its slopes, the slopes free of the patch itself; its strength."""
    reach, side = radius + 1, 2 * radius + 3
    step, factor = F32(2.0**level), F32(0.5**level)
    for j in range(side):
        for i in range(side):
            x, y = u + F32(i - reach) * step, v + F32(j - reach) * step
            if level:
                x, y = (x + HALF) * factor - HALF, (y + HALF) * factor - HALF
            wide[j, i] = _sample(query, x, y)
    p = 0
    for j in range(1, side - 1):
        for i in range(1, side - 1):
            patch[p] = wide[j, i]
            slope_x[p] = HALF * (wide[j, i + 1] - wide[j, i - 1])
            slope_y[p] = HALF * (wide[j + 1, i] - wide[j - 1, i])
            p += 1
    _zero_mean(patch)
    _zero_mean(slope_x)
    _zero_mean(slope_y)
    strength = max(_dot(patch, patch), FLAT)
    along_x, along_y = _dot(slope_x, patch) / strength, _dot(slope_y, patch) / strength
    for p in range(len(patch)):
        slope_x[p] -= patch[p] * along_x
        slope_y[p] -= patch[p] * along_y
    return max(_dot(patch, patch), FLAT)


@_compiled
def _compare(keyframe, level, u, v, A, radius, coarser, patch, strength, seen, rest):
    """Gain of the patch about (u, v) over the template; `seen` and what the gain leaves over."""
    factor = F32(0.5**level)
    p = 0
    for j in range(-radius, radius + 1):
        for i in range(-radius, radius + 1):
            dx, dy = F32(i) * coarser, F32(j) * coarser
            x, y = u + (A[0, 0] * dx + A[0, 1] * dy), v + (A[1, 0] * dx + A[1, 1] * dy)
            if level:
                x, y = (x + HALF) * factor - HALF, (y + HALF) * factor - HALF
            seen[p] = _sample(keyframe, x, y)
            p += 1
    _zero_mean(seen)
    gain = _dot(seen, patch) / strength
    if abs(gain) < F32(1e-3):
        gain = F32(1e-3)
    for p in range(len(seen)):
        rest[p] = seen[p] - gain * patch[p]
    return gain


@_compiled
def align(query, keyframe, query_level, keyframe_level, query_px, keyframe_px, jacobian, radius,
          iterations, way, sums):  # fmt: skip
    """way (N, 2): px of the keyframe that each pair moves. sums (N, 6): slopes xx, xy, yy; gain;
    squares left over; squares seen.
    """
    count, side = (2 * radius + 1) ** 2, 2 * radius + 3
    wide = np.empty((side, side), F32)
    patch, slope_x, slope_y = np.empty(count, F32), np.empty(count, F32), np.empty(count, F32)
    seen, rest = np.empty(count, F32), np.empty(count, F32)
    coarser = F32(2.0**query_level)
    for n in range(len(query_px)):
        A, u, v = jacobian[n], keyframe_px[n, 0], keyframe_px[n, 1]
        strength = _template(
            query, query_level, query_px[n, 0], query_px[n, 1], radius, wide, patch, slope_x,
            slope_y,
        )  # fmt: skip
        xx, xy, yy = _dot(slope_x, slope_x), _dot(slope_x, slope_y), _dot(slope_y, slope_y)
        determinant = max(xx * yy - xy * xy, FLAT)
        shift_x, shift_y = F32(0.0), F32(0.0)
        dx, dy, gain = F32(0.0), F32(0.0), F32(1.0)
        for k in range(iterations + 1):
            dx = A[0, 0] * (shift_x * coarser) + A[0, 1] * (shift_y * coarser)
            dy = A[1, 0] * (shift_x * coarser) + A[1, 1] * (shift_y * coarser)
            gain = _compare(
                keyframe, keyframe_level, u + dx, v + dy, A, radius, coarser, patch, strength,
                seen, rest,
            )  # fmt: skip
            if k == iterations:
                break
            bx, by = _dot(slope_x, rest) / gain, _dot(slope_y, rest) / gain
            step_x = (yy * bx - xy * by) / determinant
            step_y = (xx * by - xy * bx) / determinant
            shift_x -= min(max(step_x, F32(-1.0)), F32(1.0))
            shift_y -= min(max(step_y, F32(-1.0)), F32(1.0))
        way[n, 0], way[n, 1] = dx, dy
        sums[n, 0], sums[n, 1], sums[n, 2], sums[n, 3] = xx, xy, yy, gain
        sums[n, 4], sums[n, 5] = _dot(rest, rest), _dot(seen, seen)
