"""The inner loops of the CPU rasterizer, compiled by numba and without Python's lock."""

from __future__ import annotations

import math

import numba
import numpy as np

MAX_ALPHA = 0.99
LEAST_TRANSMITTANCE = 1e-4

_compiled = numba.njit(nogil=True, cache=True, fastmath=True, boundscheck=False)


@_compiled
def row_span(dy, a, b, c, reach, x, width):
    """First and last pixel of a row inside the ellipse a dx^2 + 2 b dx dy + c dy^2 <= 2 reach."""
    inside = b * b * dy * dy - a * (c * dy * dy - 2 * reach)
    if inside <= 0:
        return 0, -1
    half = math.sqrt(inside) / a
    middle = x - b * dy / a
    first = max(0, math.ceil(middle - half))
    return first, min(width - 1, math.floor(middle + half))


@_compiled
def forward_band(
    first_row, end_row, order, means, conics, opacities, channels, reach, half_height,
    image, passing, last, dominant,
):  # fmt: skip
    width, depth = image.shape[1], image.shape[2]
    best = np.zeros((end_row - first_row, width), image.dtype)
    for k in range(len(order)):
        i = order[k]
        x, y, opacity = means[i, 0], means[i, 1], opacities[i]
        a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
        top = max(first_row, math.ceil(y - half_height[i]))
        bottom = min(end_row - 1, math.floor(y + half_height[i]))
        for row in range(top, bottom + 1):
            dy = row - y
            left, right = row_span(dy, a, b, c, reach[i], x, width)
            for column in range(left, right + 1):
                light = passing[row, column]
                if light < LEAST_TRANSMITTANCE:
                    continue
                dx = column - x
                exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(opacity * math.exp(-exponent), MAX_ALPHA)
                weight = light * alpha
                for channel in range(depth):
                    image[row, column, channel] += weight * channels[i, channel]
                passing[row, column] = light - weight
                last[row, column] = k
                if weight > best[row - first_row, column]:
                    best[row - first_row, column] = weight
                    dominant[row, column] = i


@_compiled
def backward_band(
    first_row, end_row, order, means, conics, opacities, channels, reach, half_height,
    g_image, g_alpha, passing, last, out,
):  # fmt: skip
    """out (len(order), 6 + C): gradients to mean x, y, conic a, b, c, opacity, channels."""
    width, depth = g_image.shape[1], g_image.shape[2]
    light = passing[first_row:end_row].copy()  # that passes the Gaussians gone through
    behind = -g_alpha[first_row:end_row] * light
    for k in range(len(order) - 1, -1, -1):
        i = order[k]
        x, y, opacity = means[i, 0], means[i, 1], opacities[i]
        a, b, c = conics[i, 0], conics[i, 1], conics[i, 2]
        top = max(first_row, math.ceil(y - half_height[i]))
        bottom = min(end_row - 1, math.floor(y + half_height[i]))
        for row in range(top, bottom + 1):
            dy, r = row - y, row - first_row
            left, right = row_span(dy, a, b, c, reach[i], x, width)
            for column in range(left, right + 1):
                if k > last[row, column]:
                    continue
                dx = column - x
                exponent = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                falloff = math.exp(-exponent)
                alpha = min(opacity * falloff, MAX_ALPHA)
                arriving = light[r, column] / (1 - alpha)
                weight = arriving * alpha
                dot = 0.0 * weight
                for channel in range(depth):
                    g = g_image[row, column, channel]
                    dot += g * channels[i, channel]
                    out[k, 6 + channel] += weight * g
                g_here = arriving * dot - behind[r, column] / (1 - alpha)
                behind[r, column] += weight * dot
                light[r, column] = arriving
                if opacity * falloff < MAX_ALPHA:
                    out[k, 5] += falloff * g_here
                    g_exponent = -alpha * g_here
                    out[k, 0] -= g_exponent * (a * dx + b * dy)
                    out[k, 1] -= g_exponent * (c * dy + b * dx)
                    out[k, 2] += g_exponent * 0.5 * dx * dx
                    out[k, 3] += g_exponent * dx * dy
                    out[k, 4] += g_exponent * 0.5 * dy * dy
