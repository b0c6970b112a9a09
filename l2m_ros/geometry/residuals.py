"""Whitened residuals of the matches under a pose, and their derivatives.

With X = z (k, 1) in the keyframe, Y = R^T (X - t) in the camera and pi(Y) = (Y0, Y1) / Y2:

    keyframe depth known   (q - pi(Y), z_q - Y2)      last row only where the query has depth too
    query depth only       k - pi(R z_q (q, 1) + t)
    no depth               (k, 1) . (t x R (q, 1))    the distance from the epipolar line
    at infinity            k - pi(R (q, 1))           no translation to be seen

Each residual's covariance is the match's, carried into it by its derivative H, plus the depth's
along the residual's derivative g by depth:  S = s H C H^T + v g g^T. So noisy depth blurs a match
along its epipolar line only; across the line the match stays exact.

Each depth is an unknown of its own: derivatives are taken at the depth that fits the pose best,
not at the measured one. Otherwise the noise of a network's depth (10 %) biases the translation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from types import ModuleType

import numpy as np

from l2m_ros import compiled
from l2m_ros.geometry.rays import Noise, RayPairs, homogeneous, kernel_matches
from l2m_ros.types import FloatArray

SHIFT = 6  # parameters: x, y, z, rot x, rot y, rot z, and a shift of all depths in metres
PARAMETERS = 7
FAR = 1e3  # standard deviations: an outlier under any weight


@dataclass(frozen=True, eq=False)
class Rows:
    """r whitened rows a match: error e, expected to change by -J delta."""

    error: FloatArray  # (r, N)
    J: FloatArray  # (PARAMETERS, r, N), x y z rot about `axes`
    by_match: FloatArray  # (2, r, N): how the error changes with the keyframe's pixel (x/z, y/z)
    axes: FloatArray  # (3, 3): fixed axes = axes @ the axes of J
    match_fraction: FloatArray  # (r, N): of each row's variance, what the match's factor scales
    texture_fraction: FloatArray  # (r, N): ... and what the texture's factor scales
    depth_fraction: FloatArray  # (r, N): ... and what the depth's factor scales
    observed: FloatArray  # (N,) rows that were observed
    depth_m: FloatArray | None = None  # (N,) the depth that suits the pose best
    by_query_m: FloatArray | None = None  # (r, N) how the error changes with the query's depth

    @property
    def squared(self) -> FloatArray:
        """(N,) Mahalanobis distance squared."""
        return np.asarray((self.error * self.error).sum(axis=0))


RowsAt = Callable[[RayPairs, FloatArray, "FloatArray | None", Noise, float], Rows]


def _by_kernel_where_compiled(kind: str) -> Callable[[RowsAt], RowsAt]:
    """The same rows from `refine_kernel` where numba is; `__wrapped__` is the readable twin."""

    def wrap(rows_at: RowsAt) -> RowsAt:
        @wraps(rows_at)
        def chosen(
            pairs: RayPairs, T: FloatArray, depth_m: FloatArray | None, noise: Noise, shift_m: float
        ) -> Rows:
            kernel = compiled.kernel("refine")
            if kernel is None:
                return rows_at(pairs, T, depth_m, noise, shift_m)
            return _kernel_rows(kernel, kind, pairs, T, depth_m, noise, shift_m)

        return chosen

    return wrap


@_by_kernel_where_compiled("keyframe_depth")
def keyframe_depth_rows(
    pairs: RayPairs, T: FloatArray, depth_m: FloatArray | None, noise: Noise, shift_m: float
) -> Rows:
    """Points lifted in the keyframe, seen in the query, and ranged there where it has depth.

    depth_m: the best depth so far, None at first.
    """
    depth_m = pairs.keyframe_m if depth_m is None else depth_m
    Rt = T[:3, :3].T
    ray = Rt @ homogeneous(pairs.keyframe)  # (3, N)
    Y = depth_m * ray - (Rt @ T[:3, 3])[:, None]
    p, inverse_z = Y[:2] / Y[2], 1.0 / Y[2]
    ranged = np.isfinite(pairs.query_m)
    r = 3 if ranged.any() else 2
    H, J = np.empty((r, 2, len(pairs))), np.empty((PARAMETERS, r, len(pairs)))
    scale = depth_m * inverse_z
    for row in range(2):
        for column in range(2):
            H[row, column] = scale * (Rt[row, column] - p[row] * Rt[2, column])
    J[SHIFT, :2] = (ray[:2] - p * ray[2]) * inverse_z
    _pose_columns(J, p, inverse_z)
    residual = np.empty((r, len(pairs)))
    residual[:2] = pairs.query - p
    extra: FloatArray = np.zeros(len(pairs))
    if r == 3:
        residual[2] = pairs.query_m - Y[2]
        _range_row(J, H, Y, ray[2], depth_m, Rt)
        extra = noise.depth * pairs.query_variance_factor * pairs.depth_noise.sigma_m(Y[2]) ** 2
        residual[2], extra = np.where(ranged, residual[2], 0.0), np.where(ranged, extra, 1.0)
        J[:, 2] *= ranged
        H[2] *= ranged
    # A match that errs looks up the depth beside its own: on a slope, another one.
    H += J[SHIFT, :, None] * pairs.slope
    prior_m = pairs.keyframe_m + shift_m
    variance = (
        noise.depth * pairs.keyframe_variance_factor * pairs.depth_noise.sigma_m(depth_m) ** 2
    )
    residual -= J[SHIFT] * (prior_m - depth_m)
    C = _carried(H, pairs.covariance(noise))
    by_match = -H.transpose(1, 0, 2).copy()
    error, of_match, last = _whiten(residual, J, by_match, C, variance, extra)
    best_m = prior_m + variance * (J[SHIFT] * error).sum(axis=0)
    _discard(error, J, Y[2])
    own, of_texture = _split(of_match, pairs, noise)
    by_query_m = np.zeros_like(error)
    if r == 3:
        by_query_m[2] = ranged * last
    depth_m, rows = _positive(best_m, prior_m), 2.0 + ranged
    return Rows(
        error, J, by_match, Rt.T, own, of_texture, 1.0 - of_match, rows, depth_m, by_query_m
    )


@_by_kernel_where_compiled("query_depth")
def query_depth_rows(
    pairs: RayPairs, T: FloatArray, depth_m: FloatArray | None, noise: Noise, _shift_m: float
) -> Rows:
    """Points lifted in the query, seen in the keyframe."""
    depth_m = pairs.query_m if depth_m is None else depth_m
    ray = T[:3, :3] @ homogeneous(pairs.query)
    lever = depth_m * ray
    X = lever + T[:3, 3:4]
    p, inverse_z = X[:2] / X[2], 1.0 / X[2]
    J = np.zeros((PARAMETERS, 2, len(pairs)))
    J[SHIFT] = (ray[:2] - p * ray[2]) * inverse_z
    _lever_columns(J, p, inverse_z, lever)
    variance = noise.depth * pairs.query_variance_factor * pairs.depth_noise.sigma_m(depth_m) ** 2
    residual = pairs.keyframe - p - J[SHIFT] * (pairs.query_m - depth_m)
    C = _covariance_rows(pairs.covariance(noise))
    by_match = _identity(len(pairs))
    error, of_match, _ = _whiten(residual, J, by_match, C, variance, np.zeros(len(pairs)))
    best_m = pairs.query_m + variance * (J[SHIFT] * error).sum(axis=0)
    by_query_m = -J[SHIFT]
    J[SHIFT] = 0.0  # the shift is the keyframe depth's
    _discard(error, J, X[2])
    own, of_texture = _split(of_match, pairs, noise)
    two, depth_m = np.full(len(pairs), 2.0), _positive(best_m, pairs.query_m)
    return Rows(
        error, J, by_match, np.eye(3), own, of_texture, 1.0 - of_match, two, depth_m, by_query_m
    )


@_by_kernel_where_compiled("epipolar")
def epipolar_rows(
    pairs: RayPairs, T: FloatArray, _depth_m: FloatArray | None, noise: Noise, _shift_m: float
) -> Rows:
    """Distance from the epipolar line; blind to the length of the translation."""
    t = T[:3, 3:4]
    v = T[:3, :3] @ homogeneous(pairs.query)  # (3, N)
    line = cross(t, v)
    k = homogeneous(pairs.keyframe)
    raw = (k * line).sum(axis=0)
    xx, xy, yy = pairs.covariance(noise)
    to_line = np.stack([xx * line[0] + xy * line[1], xy * line[0] + yy * line[1]])
    variance = np.maximum((to_line * line[:2]).sum(axis=0), 1e-300)
    # The derivative belongs to the point ON the line: taken at the noisy one it biases t.
    k[:2] -= to_line * (raw / variance)
    inverse_sigma = 1.0 / np.sqrt(variance)
    J = np.zeros((PARAMETERS, 1, len(pairs)))
    J[0:3, 0] = cross(k, v) * inverse_sigma
    J[3:6, 0] = cross(cross(k, t), v) * inverse_sigma
    own, of_texture = _split(np.ones((1, len(pairs))), pairs, noise)
    by_match = (line[:2] * inverse_sigma)[:, None]
    error = (raw * inverse_sigma)[None]
    one = np.ones(len(pairs))
    return Rows(error, J, by_match, np.eye(3), own, of_texture, np.zeros_like(own), one)


@_by_kernel_where_compiled("infinity")
def infinity_rows(
    pairs: RayPairs, T: FloatArray, _depth_m: FloatArray | None, noise: Noise, _shift_m: float
) -> Rows:
    """Distance from where the ray lies after the rotation alone."""
    ray = T[:3, :3] @ homogeneous(pairs.query)
    p, inverse_z = ray[:2] / ray[2], 1.0 / ray[2]
    J = np.zeros((PARAMETERS, 2, len(pairs)))
    _lever_columns(J, p, inverse_z, ray)
    J[0:3] = 0.0
    C = _covariance_rows(pairs.covariance(noise))
    none = np.zeros(len(pairs))
    by_match = _identity(len(pairs))
    error, of_match, _ = _whiten(pairs.keyframe - p, J, by_match, C, none, none)
    _discard(error, J, ray[2])
    own, of_texture = _split(of_match, pairs, noise)
    two = np.full(len(pairs), 2.0)
    return Rows(error, J, by_match, np.eye(3), own, of_texture, 1.0 - of_match, two)


def _kernel_rows(
    kernel: ModuleType,
    kind: str,
    pairs: RayPairs,
    T: FloatArray,
    depth_m: FloatArray | None,
    noise: Noise,
    shift_m: float,
) -> Rows:
    n, ranged = len(pairs), np.isfinite(pairs.query_m)
    of_keyframe, of_query = kind == "keyframe_depth", kind == "query_depth"
    r = 1 if kind == "epipolar" else 3 if of_keyframe and ranged.any() else 2
    if depth_m is None:
        depth_m = pairs.keyframe_m if of_keyframe else pairs.query_m
    error, of_match, of_texture, of_depth, by_query_m = np.empty((5, r, n))
    J, by_match, best_m = np.empty((PARAMETERS, r, n)), np.empty((2, r, n)), np.empty(n)
    kernel.write_rows(
        getattr(kernel, kind.upper()),
        kernel_matches(kernel, pairs),
        compiled.array(T),
        compiled.array((noise.match, noise.depth, noise.texture)),
        float(shift_m),
        compiled.array(depth_m),
        FAR,
        *(error, J, by_match, of_match, of_texture, of_depth, best_m, by_query_m),
    )
    return Rows(
        error,
        J,
        by_match,
        T[:3, :3] if of_keyframe else np.eye(3),
        of_match,
        of_texture,
        of_depth,
        2.0 + ranged if of_keyframe else np.full(n, float(r)),
        best_m if of_keyframe or of_query else None,
        by_query_m if of_keyframe or of_query else None,
    )


def _split(of_match: FloatArray, pairs: RayPairs, noise: Noise) -> tuple[FloatArray, FloatArray]:
    """(r, N) each: what the match and what the texture make of the variance in `of_match`."""
    own = pairs.match_fraction(noise)
    return of_match * own, of_match * (1.0 - own)


def _pose_columns(J: FloatArray, p: FloatArray, inverse_z: FloatArray) -> None:
    """d pi(Y) for Y = R^T (X - t), dt and dphi about the camera's axes: dY = -dt + Y x dphi."""
    x, y = p
    zero, xy = np.zeros_like(x), x * y
    J[0, 0], J[1, 0], J[2, 0] = -inverse_z, zero, x * inverse_z
    J[0, 1], J[1, 1], J[2, 1] = zero, -inverse_z, y * inverse_z
    J[3, 0], J[4, 0], J[5, 0] = xy, -1.0 - x * x, y
    J[3, 1], J[4, 1], J[5, 1] = 1.0 + y * y, -xy, -x


def _range_row(
    J: FloatArray,
    H: FloatArray,
    Y: FloatArray,
    slope: FloatArray,
    depth_m: FloatArray,
    Rt: FloatArray,
) -> None:
    """d Y2, by the same parameters, by depth and by the keyframe's pixel."""
    J[0, 2], J[1, 2], J[2, 2] = 0.0, 0.0, -1.0
    J[3, 2], J[4, 2], J[5, 2] = -Y[1], Y[0], 0.0
    J[SHIFT, 2] = slope
    H[2, 0], H[2, 1] = depth_m * Rt[2, 0], depth_m * Rt[2, 1]


def _lever_columns(J: FloatArray, p: FloatArray, inverse_z: FloatArray, w: FloatArray) -> None:
    """d pi(X) for X = w + t with w turned about the fixed axes: dX = dt + dphi x w."""
    x, y = p
    J[0, 0], J[2, 0] = inverse_z, -x * inverse_z
    J[1, 1], J[2, 1] = inverse_z, -y * inverse_z
    u = w * inverse_z
    J[3, 0], J[4, 0], J[5, 0] = -x * u[1], u[2] + x * u[0], -u[1]
    J[3, 1], J[4, 1], J[5, 1] = -u[2] - y * u[1], y * u[0], u[0]


def _carried(H: FloatArray, noise: FloatArray) -> list[list[FloatArray]]:
    """Lower triangle of H C H^T."""
    xx, xy, yy = noise
    HC = [(h[0] * xx + h[1] * xy, h[0] * xy + h[1] * yy) for h in H]
    return [[HC[i][0] * H[j, 0] + HC[i][1] * H[j, 1] for j in range(i + 1)] for i in range(len(H))]


def _covariance_rows(noise: FloatArray) -> list[list[FloatArray]]:
    return [[noise[0]], [noise[1], noise[2]]]


def _whiten(
    residual: FloatArray,
    J: FloatArray,
    by_match: FloatArray,
    C: list[list[FloatArray]],
    variance: FloatArray,
    extra: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(error, match's fraction of its variance, how the last row changes with its
    residual); J and by_match are whitened in place.

    The first two rows are turned into one across the epipolar line, where depth has no say, and
    one along it; then e = L^-1 r with L L^T = S. `extra` is the last row's own variance.
    """
    g = J[SHIFT, :2]
    length = np.sqrt(g[0] * g[0] + g[1] * g[1])
    seen = length > 1e-12
    c = np.where(seen, g[0], 1.0) / np.where(seen, length, 1.0)
    s = np.where(seen, g[1], 0.0) / np.where(seen, length, 1.0)
    _turn(residual, c, s)
    _turn(J, c, s)
    _turn(by_match, c, s)
    cc, cs, ss = c * c, c * s, s * s
    S11 = ss * C[0][0] - 2 * cs * C[1][0] + cc * C[1][1]
    S21 = cs * (C[1][1] - C[0][0]) + (cc - ss) * C[1][0]
    S22 = cc * C[0][0] + 2 * cs * C[1][0] + ss * C[1][1]
    l11 = np.sqrt(S11)
    l21 = S21 / l11
    match_part = S22 - l21 * l21
    whole = match_part + variance * length * length
    l22 = np.sqrt(whole)
    match_fraction = np.zeros(residual.shape)
    match_fraction[0], match_fraction[1] = 1.0, match_part / whole
    lower = [(l11,), (l21, l22)]
    if len(residual) == 3:
        h, gz = C[2], J[SHIFT, 2]
        l31 = (c * h[1] - s * h[0]) / l11
        l32 = (c * h[0] + s * h[1] + variance * length * gz - l31 * l21) / l22
        S33 = h[2] + variance * gz * gz + extra
        lower.append((l31, l32, np.sqrt(np.maximum(S33 - l31 * l31 - l32 * l32, 1e-300))))
    _forward(residual[None], lower)
    _forward(J, lower)
    _forward(by_match, lower)
    return residual, match_fraction, 1.0 / lower[-1][-1]


def _turn(rows: FloatArray, c: FloatArray, s: FloatArray) -> None:
    """Rows (u, v) -> (across, along) the direction (c, s), in place; rows are the last but one."""
    u, v = rows[..., 0, :], rows[..., 1, :]
    across, along = c * v - s * u, c * u + s * v
    rows[..., 0, :], rows[..., 1, :] = across, along


def _forward(rows: FloatArray, lower: list[tuple[FloatArray, ...]]) -> None:
    """rows <- L^-1 rows, in place; rows are (columns, r, N)."""
    for i, entries in enumerate(lower):
        for j in range(i):
            rows[:, i] -= entries[j] * rows[:, j]
        rows[:, i] /= entries[i]


def _discard(error: FloatArray, J: FloatArray, z: FloatArray) -> None:
    """Points at or behind the camera become outliers without derivatives."""
    behind = ~(z > 0)
    if behind.any():
        error[:, behind] = FAR
        J[:, :, behind] = 0.0


def _identity(n: int) -> FloatArray:
    """(2, 2, n)"""
    return np.repeat(np.eye(2)[:, :, None], n, axis=2)


def _positive(best_m: FloatArray, measured_m: FloatArray) -> FloatArray:
    """A mismatch may ask for any depth: no further than a factor of five from the measured one."""
    return np.clip(best_m, 0.2 * measured_m, 5.0 * measured_m)


def cross(a: FloatArray, b: FloatArray) -> FloatArray:
    """a x b of (3, N) arrays; np.cross takes four times as long."""
    return np.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )
