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
I32 = np.int32
ONE, HALF, TICKS, TICK = F32(1.0), F32(0.5), F32(32.0), F32(1.0 / 32.0)


@_compiled
def _sample_all(image, level, x, y, ticks_x, ticks_y, out):
    """cv2.remap, INTER_LINEAR, BORDER_REPLICATE, at positions in pixels of the full size.

    In two loops, and without borders where there are none: the compiler vectorises them then.
    """
    height, width = image.shape
    factor, low, high = F32(0.5**level), I32(0), I32(0)
    for p in range(len(x)):
        u, v = x[p], y[p]
        if level:
            u, v = (u + HALF) * factor - HALF, (v + HALF) * factor - HALF
        ticks_x[p], ticks_y[p] = I32(np.rint(u * TICKS)), I32(np.rint(v * TICKS))
        low = min(low, min(ticks_x[p], ticks_y[p]))
        high = max(high, max(ticks_x[p] - width * 32, ticks_y[p] - height * 32))
    inside = low >= 0 and high < -32
    for p in range(len(x)):
        column, row = ticks_x[p] >> 5, ticks_y[p] >> 5
        fx, fy = F32(ticks_x[p] & 31) * TICK, F32(ticks_y[p] & 31) * TICK
        right, below = column + 1, row + 1
        if not inside:
            column, right = min(max(column, 0), width - 1), min(max(right, 0), width - 1)
            row, below = min(max(row, 0), height - 1), min(max(below, 0), height - 1)
        upper = image[row, column] * (ONE - fx) + image[row, right] * fx
        lower = image[below, column] * (ONE - fx) + image[below, right] * fx
        out[p] = upper * (ONE - fy) + lower * fy


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
def _template(query, level, u, v, radius, work, patch, slope_x, slope_y):
    """Zero-mean patch and its slopes, the slopes free of the patch itself; its strength."""
    side, step = 2 * radius + 3, F32(2.0**level)
    x, y, ticks_x, ticks_y, wide = work
    for p in range(side * side):
        x[p] = u + F32(p % side - radius - 1) * step
        y[p] = v + F32(p // side - radius - 1) * step
    _sample_all(query, level, x, y, ticks_x, ticks_y, wide)
    p = 0
    for j in range(1, side - 1):
        for at in range(j * side + 1, j * side + side - 1):
            patch[p] = wide[at]
            slope_x[p] = HALF * (wide[at + 1] - wide[at - 1])
            slope_y[p] = HALF * (wide[at + side] - wide[at - side])
            p += 1
    _zero_mean(patch)
    _zero_mean(slope_x)
    _zero_mean(slope_y)
    strength = max(_dot(patch, patch), FLAT)
    along_x, along_y = _dot(slope_x, patch) / strength, _dot(slope_y, patch) / strength
    for p in range(len(patch)):
        slope_x[p] -= patch[p] * along_x
        slope_y[p] -= patch[p] * along_y
    return strength


@_compiled
def _compare(keyframe, level, u, v, A, offsets, work, patch, strength, seen, rest):
    """Gain of the patch about (u, v) over the template; `seen` and what the gain leaves over."""
    x, y, ticks_x, ticks_y, _ = work
    for p in range(len(seen)):
        dx, dy = offsets[0, p], offsets[1, p]
        x[p], y[p] = u + (A[0, 0] * dx + A[0, 1] * dy), v + (A[1, 0] * dx + A[1, 1] * dy)
    n = len(seen)
    _sample_all(keyframe, level, x[:n], y[:n], ticks_x, ticks_y, seen)
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
    width, count, most = 2 * radius + 1, (2 * radius + 1) ** 2, (2 * radius + 3) ** 2
    work = (
        np.empty(most, F32), np.empty(most, F32), np.empty(most, I32), np.empty(most, I32),
        np.empty(most, F32),
    )  # fmt: skip
    patch, slope_x, slope_y = np.empty(count, F32), np.empty(count, F32), np.empty(count, F32)
    seen, rest = np.empty(count, F32), np.empty(count, F32)
    coarser = F32(2.0**query_level)
    offsets = np.empty((2, count), F32)  # px of the query
    for p in range(count):
        offsets[0, p] = F32(p % width - radius) * coarser
        offsets[1, p] = F32(p // width - radius) * coarser
    for n in range(len(query_px)):
        A, u, v = jacobian[n], keyframe_px[n, 0], keyframe_px[n, 1]
        strength = _template(
            query, query_level, query_px[n, 0], query_px[n, 1], radius, work, patch, slope_x,
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
                keyframe, keyframe_level, u + dx, v + dy, A, offsets, work, patch, strength,
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
