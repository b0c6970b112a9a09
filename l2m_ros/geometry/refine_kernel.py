"""`refine.iterate_numpy` and the rows of `residuals.py` compiled by numba: residuals, weights,
normal equations and noise sums in one pass over the matches, without Python's lock.

    iterate     Gauss-Newton from the first pose to the last
    write_rows  what `residuals.Rows` holds, of one kind of matches

The formulas are those of `residuals.py` and `refine.py`, where they are derived; the tests compare
the two to ten digits. Each match is worked off by scalars in scratch rows:

    e[r]       whitened error
    J[p, r]    its derivative by parameter p < PARAMETERS, then by the keyframe's pixel (x/z, y/z)

All of it is in one file, because numba's cache looks only at the file of the function that Python
calls: a kernel that calls into another file would go on with the old code after an edit there.
Constants come as arguments (`Bounds`) for the same reason.
"""

# mypy: ignore-errors
# Numba finds the types of what it compiles by itself; its decorators have none.

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

# "contract" lets multiply-adds fuse; NaN and infinity keep their meaning.
_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")

SHIFT, PARAMETERS = 6, 7
BY_MATCH, COLUMNS = 7, 9  # of J: the derivatives by the keyframe's pixel, and all
KEYFRAME_DEPTH, QUERY_DEPTH, EPIPOLAR, INFINITY = 0, 1, 2, 3


class Bounds(NamedTuple):
    """The constants of `refine.py`."""

    max_iterations: int
    step_sigmas: float
    converged_sigmas: float
    settled: float
    min_match_factor: float
    min_texture_factor: float
    min_texture_rows: float
    wrong_depth: float
    witness: float
    min_depth_rows: float
    far: float


class Matches(NamedTuple):
    """The arrays of `RayPairs` that residuals are made of."""

    query: np.ndarray  # (2, N)
    keyframe: np.ndarray  # (2, N)
    noise: np.ndarray  # (3, N)
    floor: np.ndarray  # (3, N)
    textured: np.ndarray  # (N,) 1 or 0
    keyframe_m: np.ndarray  # (N,)
    keyframe_variance_factor: np.ndarray  # (N,)
    query_m: np.ndarray  # (N,)
    query_variance_factor: np.ndarray  # (N,)
    slope: np.ndarray  # (2, N)
    depth_noise: np.ndarray  # (3,) constant, proportional, quadratic


@_compiled
def _sigma_m(depth_noise, z):
    return depth_noise[0] + (depth_noise[1] + depth_noise[2] * z) * z


@_compiled
def _positive(best, measured):
    """As np.clip: NaN stays NaN."""
    low, high = 0.2 * measured, 5.0 * measured
    if best < low:
        best = low
    if best > high:
        best = high
    return best


@_compiled
def _whiten(e, J, C, rows, variance, extra, columns):
    """`residuals._whiten` of one match: C is the lower triangle of its covariance, row by row;
    `columns` of J are wanted.

    Returns the match's fraction of the second row's variance, and one over the last row's sigma.
    """
    g0, g1 = J[SHIFT, 0], J[SHIFT, 1]
    length = math.sqrt(g0 * g0 + g1 * g1)
    c, s = 1.0, 0.0
    if length > 1e-12:
        c, s = g0 / length, g1 / length
    cc, cs, ss = c * c, c * s, s * s
    S11 = ss * C[0] - 2.0 * cs * C[1] + cc * C[2]
    S21 = cs * (C[2] - C[0]) + (cc - ss) * C[1]
    S22 = cc * C[0] + 2.0 * cs * C[1] + ss * C[2]
    l11 = math.sqrt(S11)
    l21 = S21 / l11
    match_part = S22 - l21 * l21
    whole = match_part + variance * length * length
    l22 = math.sqrt(whole)
    i11, i22 = 1.0 / l11, 1.0 / l22
    l31 = l32 = 0.0
    i33 = 1.0
    if rows == 3:
        gz = J[SHIFT, 2]
        l31 = (c * C[4] - s * C[3]) * i11
        l32 = (c * C[3] + s * C[4] + variance * length * gz - l31 * l21) * i22
        left = C[5] + variance * gz * gz + extra - l31 * l31 - l32 * l32
        if left < 1e-300:
            left = 1e-300
        i33 = 1.0 / math.sqrt(left)
    u, v = e[0], e[1]
    e[0] = (c * v - s * u) * i11
    e[1] = (c * u + s * v - l21 * e[0]) * i22
    for p in range(columns):
        u, v = J[p, 0], J[p, 1]
        J[p, 0] = (c * v - s * u) * i11
        J[p, 1] = (c * u + s * v - l21 * J[p, 0]) * i22
    if rows == 3:
        e[2] = (e[2] - l31 * e[0] - l32 * e[1]) * i33
        for p in range(columns):
            J[p, 2] = (J[p, 2] - l31 * J[p, 0] - l32 * J[p, 1]) * i33
    return match_part / whole, i33 if rows == 3 else i22


@_compiled
def _discard(e, J, rows, z, far):
    if z > 0.0:
        return
    for r in range(rows):
        e[r] = far
        for p in range(PARAMETERS):
            J[p, r] = 0.0


@_compiled
def _keyframe_depth(i, m, R, Rt_t, z, cov, depth_factor, shift_m, far, e, J, C, columns):
    """`residuals.keyframe_depth_rows`: (rows, the match's fraction, best depth, last 1 / sigma)."""
    k0, k1 = m.keyframe[0, i], m.keyframe[1, i]
    ray0 = R[0, 0] * k0 + R[1, 0] * k1 + R[2, 0]
    ray1 = R[0, 1] * k0 + R[1, 1] * k1 + R[2, 1]
    ray2 = R[0, 2] * k0 + R[1, 2] * k1 + R[2, 2]
    Y0, Y1, Y2 = z * ray0 - Rt_t[0], z * ray1 - Rt_t[1], z * ray2 - Rt_t[2]
    iz = 1.0 / Y2
    x, y = Y0 * iz, Y1 * iz
    scale = z * iz
    xy = x * y
    J[0, 0], J[1, 0], J[2, 0] = -iz, 0.0, x * iz
    J[0, 1], J[1, 1], J[2, 1] = 0.0, -iz, y * iz
    J[3, 0], J[4, 0], J[5, 0] = xy, -1.0 - x * x, y
    J[3, 1], J[4, 1], J[5, 1] = 1.0 + y * y, -xy, -x
    J[SHIFT, 0], J[SHIFT, 1] = (ray0 - x * ray2) * iz, (ray1 - y * ray2) * iz
    slope0, slope1 = m.slope[0, i], m.slope[1, i]
    h00 = scale * (R[0, 0] - x * R[0, 2]) + J[SHIFT, 0] * slope0
    h01 = scale * (R[1, 0] - x * R[1, 2]) + J[SHIFT, 0] * slope1
    h10 = scale * (R[0, 1] - y * R[0, 2]) + J[SHIFT, 1] * slope0
    h11 = scale * (R[1, 1] - y * R[1, 2]) + J[SHIFT, 1] * slope1
    J[BY_MATCH, 0], J[BY_MATCH, 1] = -h00, -h10
    J[BY_MATCH + 1, 0], J[BY_MATCH + 1, 1] = -h01, -h11
    e[0], e[1] = m.query[0, i] - x, m.query[1, i] - y
    xx, xy_, yy = cov
    c0, c1 = h00 * xx + h01 * xy_, h00 * xy_ + h01 * yy
    d0, d1 = h10 * xx + h11 * xy_, h10 * xy_ + h11 * yy
    C[0], C[1], C[2] = c0 * h00 + c1 * h01, d0 * h00 + d1 * h01, d0 * h10 + d1 * h11
    rows, extra = 2, 0.0
    ranged_m = m.query_m[i]
    if math.isfinite(ranged_m):
        rows = 3
        e[2] = ranged_m - Y2
        J[0, 2], J[1, 2], J[2, 2] = 0.0, 0.0, -1.0
        J[3, 2], J[4, 2], J[5, 2] = -Y1, Y0, 0.0
        J[SHIFT, 2] = ray2
        h20 = z * R[0, 2] + ray2 * slope0
        h21 = z * R[1, 2] + ray2 * slope1
        J[BY_MATCH, 2], J[BY_MATCH + 1, 2] = -h20, -h21
        f0, f1 = h20 * xx + h21 * xy_, h20 * xy_ + h21 * yy
        C[3], C[4], C[5] = f0 * h00 + f1 * h01, f0 * h10 + f1 * h11, f0 * h20 + f1 * h21
        sigma_m = _sigma_m(m.depth_noise, Y2)
        extra = depth_factor * m.query_variance_factor[i] * sigma_m * sigma_m
    prior_m = m.keyframe_m[i] + shift_m
    sigma_m = _sigma_m(m.depth_noise, z)
    variance = depth_factor * m.keyframe_variance_factor[i] * sigma_m * sigma_m
    for r in range(rows):
        e[r] -= J[SHIFT, r] * (prior_m - z)
    fraction, last = _whiten(e, J, C, rows, variance, extra, columns)
    moved = 0.0
    for r in range(rows):
        moved += J[SHIFT, r] * e[r]
    _discard(e, J, rows, Y2, far)
    return rows, fraction, _positive(prior_m + variance * moved, prior_m), last


@_compiled
def _lever_columns(J, x, y, iz, w0, w1, w2):
    J[0, 0], J[1, 0], J[2, 0] = iz, 0.0, -x * iz
    J[0, 1], J[1, 1], J[2, 1] = 0.0, iz, -y * iz
    u0, u1, u2 = w0 * iz, w1 * iz, w2 * iz
    J[3, 0], J[4, 0], J[5, 0] = -x * u1, u2 + x * u0, -u1
    J[3, 1], J[4, 1], J[5, 1] = -u2 - y * u1, y * u0, u0


@_compiled
def _by_match_itself(J):
    J[BY_MATCH, 0], J[BY_MATCH, 1], J[BY_MATCH + 1, 0], J[BY_MATCH + 1, 1] = 1.0, 0.0, 0.0, 1.0


@_compiled
def _query_depth(i, m, R, t, z, cov, depth_factor, far, e, J, C, columns):
    """`residuals.query_depth_rows`: (the match's fraction, best depth, by the query's depth)."""
    q0, q1 = m.query[0, i], m.query[1, i]
    ray0 = R[0, 0] * q0 + R[0, 1] * q1 + R[0, 2]
    ray1 = R[1, 0] * q0 + R[1, 1] * q1 + R[1, 2]
    ray2 = R[2, 0] * q0 + R[2, 1] * q1 + R[2, 2]
    w0, w1, w2 = z * ray0, z * ray1, z * ray2
    X2 = w2 + t[2]
    iz = 1.0 / X2
    x, y = (w0 + t[0]) * iz, (w1 + t[1]) * iz
    J[SHIFT, 0], J[SHIFT, 1] = (ray0 - x * ray2) * iz, (ray1 - y * ray2) * iz
    _lever_columns(J, x, y, iz, w0, w1, w2)
    sigma_m = _sigma_m(m.depth_noise, z)
    variance = depth_factor * m.query_variance_factor[i] * sigma_m * sigma_m
    measured_m = m.query_m[i]
    e[0] = m.keyframe[0, i] - x - J[SHIFT, 0] * (measured_m - z)
    e[1] = m.keyframe[1, i] - y - J[SHIFT, 1] * (measured_m - z)
    C[0], C[1], C[2] = cov
    _by_match_itself(J)
    fraction, _ = _whiten(e, J, C, 2, variance, 0.0, columns)
    by_query_m = -J[SHIFT, 0], -J[SHIFT, 1]
    best_m = measured_m + variance * (J[SHIFT, 0] * e[0] + J[SHIFT, 1] * e[1])
    J[SHIFT, 0] = J[SHIFT, 1] = 0.0
    _discard(e, J, 2, X2, far)
    return fraction, _positive(best_m, measured_m), by_query_m


@_compiled
def _epipolar(i, m, R, t, cov, e, J):
    """`residuals.epipolar_rows`; all of its variance is the match's."""
    q0, q1 = m.query[0, i], m.query[1, i]
    v0 = R[0, 0] * q0 + R[0, 1] * q1 + R[0, 2]
    v1 = R[1, 0] * q0 + R[1, 1] * q1 + R[1, 2]
    v2 = R[2, 0] * q0 + R[2, 1] * q1 + R[2, 2]
    line0, line1, line2 = t[1] * v2 - t[2] * v1, t[2] * v0 - t[0] * v2, t[0] * v1 - t[1] * v0
    k0, k1 = m.keyframe[0, i], m.keyframe[1, i]
    raw = k0 * line0 + k1 * line1 + line2
    xx, xy, yy = cov
    to0, to1 = xx * line0 + xy * line1, xy * line0 + yy * line1
    variance = to0 * line0 + to1 * line1
    if variance < 1e-300:
        variance = 1e-300
    k0 -= to0 * (raw / variance)
    k1 -= to1 * (raw / variance)
    inverse_sigma = 1.0 / math.sqrt(variance)
    a0, a1, a2 = k1 * t[2] - t[1], t[0] - k0 * t[2], k0 * t[1] - k1 * t[0]
    J[0, 0] = (k1 * v2 - v1) * inverse_sigma
    J[1, 0] = (v0 - k0 * v2) * inverse_sigma
    J[2, 0] = (k0 * v1 - k1 * v0) * inverse_sigma
    J[3, 0] = (a1 * v2 - a2 * v1) * inverse_sigma
    J[4, 0] = (a2 * v0 - a0 * v2) * inverse_sigma
    J[5, 0] = (a0 * v1 - a1 * v0) * inverse_sigma
    J[SHIFT, 0] = 0.0
    J[BY_MATCH, 0], J[BY_MATCH + 1, 0] = line0 * inverse_sigma, line1 * inverse_sigma
    e[0] = raw * inverse_sigma


@_compiled
def _infinity(i, m, R, cov, far, e, J, C, columns):
    """`residuals.infinity_rows`; all of its variance is the match's."""
    q0, q1 = m.query[0, i], m.query[1, i]
    w0 = R[0, 0] * q0 + R[0, 1] * q1 + R[0, 2]
    w1 = R[1, 0] * q0 + R[1, 1] * q1 + R[1, 2]
    w2 = R[2, 0] * q0 + R[2, 1] * q1 + R[2, 2]
    iz = 1.0 / w2
    x, y = w0 * iz, w1 * iz
    _lever_columns(J, x, y, iz, w0, w1, w2)
    for r in range(2):
        J[0, r] = J[1, r] = J[2, r] = J[SHIFT, r] = 0.0
    e[0], e[1] = m.keyframe[0, i] - x, m.keyframe[1, i] - y
    C[0], C[1], C[2] = cov
    _by_match_itself(J)
    _whiten(e, J, C, 2, 0.0, 0.0, columns)
    _discard(e, J, 2, w2, far)


@_compiled
def _covariance(m, noise, i):
    """(xx, xy, yy) of the keyframe's pixel, and the matches' own share of it."""
    match, texture = noise[0], noise[2]
    own = match * (m.noise[0, i] + m.noise[2, i])
    return (
        match * m.noise[0, i] + texture * m.floor[0, i],
        match * m.noise[1, i] + texture * m.floor[1, i],
        match * m.noise[2, i] + texture * m.floor[2, i],
    ), own / (own + texture * (m.floor[0, i] + m.floor[2, i]))


@_compiled
def write_rows(kind, m, T, noise, shift_m, depth_m, far, e_out, J_out, by_match, of_match,
               of_texture, of_depth, best_m, by_query_m):  # fmt: skip
    """The rows of all matches, of one kind. Outputs, with r rows: e_out (r, N), J_out (7, r, N),
    by_match (2, r, N); the fractions of_match, of_texture and of_depth (r, N); best_m (N,);
    by_query_m (r, N).
    """
    R, t = T[:3, :3].copy(), T[:3, 3].copy()
    Rt_t = np.empty(3)
    for j in range(3):
        Rt_t[j] = R[0, j] * t[0] + R[1, j] * t[1] + R[2, j] * t[2]
    e, J, C = np.zeros(3), np.zeros((COLUMNS, 3)), np.zeros(6)
    most = e_out.shape[0]
    for i in range(m.query.shape[1]):
        cov, own = _covariance(m, noise, i)
        rows, fraction, last, by0, by1 = most, 1.0, 0.0, 0.0, 0.0
        e[2] = 0.0
        J[:, 2] = 0.0
        if kind == KEYFRAME_DEPTH:
            rows, fraction, best_m[i], last = _keyframe_depth(
                i, m, R, Rt_t, depth_m[i], cov, noise[1], shift_m, far, e, J, C, COLUMNS
            )
        elif kind == QUERY_DEPTH:
            fraction, best_m[i], (by0, by1) = _query_depth(
                i, m, R, t, depth_m[i], cov, noise[1], far, e, J, C, COLUMNS
            )
        elif kind == EPIPOLAR:
            _epipolar(i, m, R, t, cov, e, J)
        else:
            _infinity(i, m, R, cov, far, e, J, C, COLUMNS)
        for r in range(most):
            e_out[r, i] = far if e[0] == far else e[r]
            share = 1.0 if r == 0 else (fraction if r == 1 else 0.0)
            of_match[r, i], of_texture[r, i] = share * own, share * (1.0 - own)
            of_depth[r, i] = 1.0 - share
            for p in range(PARAMETERS):
                J_out[p, r, i] = J[p, r]
            by_match[0, r, i], by_match[1, r, i] = J[BY_MATCH, r], J[BY_MATCH + 1, r]
            by_query_m[r, i] = by0 if r == 0 else (by1 if r == 1 else 0.0)
        if rows == 3:
            by_query_m[2, i] = last


@_compiled
def _pass(m, groups, half_weight, left, T, noise, shift_m, depth_m, best_m, far, sums, A, b,
          used, weights):  # fmt: skip
    """Add every match's share to the normal equations and to the sums for the noise.

    sums: match, its rows, depth, its rows, texture, its rows, all rows. A and b are about the axes
    of the keyframe; `used` parameters are. Writes weights (N,) too.
    """
    R, t = T[:3, :3].copy(), T[:3, 3].copy()
    Rt_t = np.empty(3)
    for j in range(3):
        Rt_t[j] = R[0, j] * t[0] + R[1, j] * t[1] + R[2, j] * t[2]
    e, J, C = np.zeros(3), np.zeros((COLUMNS, 3)), np.zeros(6)
    Ag, bg = np.zeros((PARAMETERS, PARAMETERS)), np.zeros(PARAMETERS)
    A[:], b[:], sums[:] = 0.0, 0.0, 0.0
    for kind in range(4):
        index = groups[kind]
        Ag[:], bg[:] = 0.0, 0.0
        most = 1 if kind == EPIPOLAR else 2
        if kind == KEYFRAME_DEPTH:
            for i in index:
                if math.isfinite(m.query_m[i]):
                    most = 3
                    break
        for i in index:
            cov, own = _covariance(m, noise, i)
            rows, fraction = 2, 1.0
            if kind == KEYFRAME_DEPTH:
                rows, fraction, best_m[i], _ = _keyframe_depth(
                    i, m, R, Rt_t, depth_m[i], cov, noise[1], shift_m, far, e, J, C, PARAMETERS
                )
            elif kind == QUERY_DEPTH:
                fraction, best_m[i], _ = _query_depth(
                    i, m, R, t, depth_m[i], cov, noise[1], far, e, J, C, PARAMETERS
                )
            elif kind == EPIPOLAR:
                rows = 1
                _epipolar(i, m, R, t, cov, e, J)
            else:
                _infinity(i, m, R, cov, far, e, J, C, PARAMETERS)
            squared = 0.0
            for r in range(rows):
                squared += e[r] * e[r]
            excess = squared - half_weight[rows]
            if excess > 700.0:
                excess = 700.0
            w = weights[i] = 1.0 / (1.0 + math.exp(0.5 * excess))
            expected = w * left[most]
            for r in range(rows):
                of_match = 1.0 if r == 0 else (fraction if r == 1 else 0.0)
                error2 = w * e[r] * e[r]
                share, textured = of_match * own, of_match * (1.0 - own) * m.textured[i]
                sums[0] += share * error2
                sums[1] += share * expected
                sums[2] += (1.0 - of_match) * error2
                sums[3] += (1.0 - of_match) * expected
                sums[4] += textured * error2
                sums[5] += textured * expected
                sums[6] += expected
            for r in range(rows, 3):  # of the match before
                e[r] = 0.0
                J[:, r] = 0.0
            for p in range(used):
                a0, a1, a2 = w * J[p, 0], w * J[p, 1], w * J[p, 2]
                bg[p] += a0 * e[0] + a1 * e[1] + a2 * e[2]
                for q in range(p, used):
                    Ag[p, q] += a0 * J[q, 0] + a1 * J[q, 1] + a2 * J[q, 2]
        _add_turned(A, b, Ag, bg, R, kind == KEYFRAME_DEPTH)


@_compiled
def _add_turned(A, b, Ag, bg, R, about_camera):
    """Add a group's equations; those about the camera's axes are turned into the keyframe's."""
    for p in range(PARAMETERS):
        for q in range(p):
            Ag[p, q] = Ag[q, p]
    if not about_camera:
        A += Ag
        b += bg
        return
    axes = np.eye(PARAMETERS)
    for p in range(3):
        for q in range(3):
            axes[p, q] = axes[3 + p, 3 + q] = R[p, q]
    half = np.zeros((PARAMETERS, PARAMETERS))
    for p in range(PARAMETERS):
        for q in range(PARAMETERS):
            b[p] += axes[p, q] * bg[q]
            for k in range(PARAMETERS):
                half[p, q] += axes[p, k] * Ag[k, q]
    for p in range(PARAMETERS):
        for q in range(PARAMETERS):
            for k in range(PARAMETERS):
                A[p, q] += half[p, k] * axes[q, k]


@_compiled
def _solve(A, b, free, step):
    """Gaussian elimination with row pivots; False where there is no finite solution."""
    n = len(free)
    M, x = np.empty((n, n)), np.empty(n)
    for p in range(n):
        x[p] = b[free[p]]
        for q in range(n):
            M[p, q] = A[free[p], free[q]]
    for p in range(n):
        pivot = p
        for q in range(p + 1, n):
            if abs(M[q, p]) > abs(M[pivot, p]):
                pivot = q
        if not abs(M[pivot, p]) > 0.0:
            return False
        if pivot != p:
            x[p], x[pivot] = x[pivot], x[p]
            for k in range(n):
                M[p, k], M[pivot, k] = M[pivot, k], M[p, k]
        for q in range(p + 1, n):
            factor = M[q, p] / M[p, p]
            x[q] -= factor * x[p]
            for k in range(p, n):
                M[q, k] -= factor * M[p, k]
    step[:] = 0.0
    for p in range(n - 1, -1, -1):
        for k in range(p + 1, n):
            x[p] -= M[p, k] * x[k]
        x[p] /= M[p, p]
        if not math.isfinite(x[p]):
            return False
        step[free[p]] = x[p]
    return True


@_compiled
def _moved(T, step, metric):
    """`refine._moved`: turned and moved about the fixed axes, the length kept if not metric."""
    x, y, z = step[3], step[4], step[5]
    angle = math.sqrt(x * x + y * y + z * z)
    if angle < 1e-4:  # se3.SMALL_ANGLE_RAD
        a, b = 1.0 - angle * angle / 6.0, 0.5 - angle * angle / 24.0
    else:
        half = math.sin(0.5 * angle)
        a, b = math.sin(angle) / angle, 2.0 * half * half / (angle * angle)
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    moved, E = np.eye(4), np.eye(3)
    for p in range(3):
        for q in range(3):
            E[p, q] += a * K[p, q]
            for k in range(3):
                E[p, q] += b * K[p, k] * K[k, q]
    for p in range(3):
        for q in range(3):
            moved[p, q] = E[p, 0] * T[0, q] + E[p, 1] * T[1, q] + E[p, 2] * T[2, q]
        moved[p, 3] = T[p, 3] + step[p]
    before = math.sqrt(T[0, 3] ** 2 + T[1, 3] ** 2 + T[2, 3] ** 2)
    if not metric and before > 0.0:
        now = math.sqrt(moved[0, 3] ** 2 + moved[1, 3] ** 2 + moved[2, 3] ** 2)
        for p in range(3):  # by slices numba compiles the words of a broadcasting error: seconds
            moved[p, 3] *= before / now
    return moved


@_compiled
def _noise_now(sums, noise, parameters, o):
    """`robust.noise_now` from the sums of `_pass`."""
    left = max(1.0 - parameters / max(sums[6], 1.0), 0.1)
    new = noise.copy()
    new[0] = max(noise[0] * sums[0] / max(left * sums[1], 1e-9), o.min_match_factor)
    rows = left * sums[3]
    if not rows < o.min_depth_rows:
        ratio = sums[2] / rows
        if noise[1] == 1.0 and ratio < 1.0 + 3.0 * math.sqrt(2.0 / rows):
            new[1] = 1.0
        else:
            new[1] = max(1.0, noise[1] * ratio)
    rows = left * sums[5]
    if not rows < o.min_texture_rows:
        least = max(min(new[0], 1.0) ** o.witness, (new[1] - 1.0) / o.wrong_depth)
        least = min(max(o.min_texture_factor, least), 1.0)
        new[2] = min(max(noise[2] * sums[4] / rows, least), 1.0)
    return new


@_compiled
def iterate(
    m, groups, half_weight, left, prior_t, prior_W, shift_sigma_m, free, metric, o, T, noise
):  # fmt: skip
    """(whether there is a solution, at, T, noise before and now, shift before and now, converged,
    (N,) the depths that the last rows belong to, (N,) their weights).

    groups: indices of the four kinds. half_weight, left: by observed rows. prior_W: zeros where
    there is no prior.
    """
    n = m.query.shape[1]
    depth_m, best_m = np.full(n, np.nan), np.full(n, np.nan)
    for i in groups[KEYFRAME_DEPTH]:
        best_m[i] = m.keyframe_m[i]
    for i in groups[QUERY_DEPTH]:
        best_m[i] = m.query_m[i]
    A, b = np.zeros((PARAMETERS, PARAMETERS)), np.zeros(PARAMETERS)
    step, sums, weights = np.zeros(PARAMETERS), np.zeros(7), np.zeros(n)
    used = PARAMETERS if shift_sigma_m > 0.0 else SHIFT  # the shift is not free otherwise
    at, before = T, noise
    shift_m, shift_before, converged, solved = 0.0, 0.0, False, True
    for _ in range(o.max_iterations):
        depth_m, best_m = best_m, depth_m
        _pass(m, groups, half_weight, left, T, noise, shift_m, depth_m, best_m, o.far, sums, A, b,
              used, weights)  # fmt: skip
        for p in range(3):
            for q in range(3):
                A[p, q] += prior_W[p, q]
                b[p] += prior_W[p, q] * (prior_t[q] - T[q, 3])
        if shift_sigma_m > 0.0:
            A[SHIFT, SHIFT] += shift_sigma_m**-2
            b[SHIFT] -= shift_m * shift_sigma_m**-2
        if not metric:
            t = T[:3, 3].copy()
            square = max(t[0] * t[0] + t[1] * t[1] + t[2] * t[2], 1e-12)
            weight = (A[0, 0] + A[1, 1] + A[2, 2]) / square
            for p in range(3):
                for q in range(3):
                    A[p, q] += t[p] * t[q] * weight
        solved = _solve(A, b, free, step)
        if not solved:
            break
        at, before, shift_before = T, noise, shift_m
        noise = _noise_now(sums, noise, len(free), o)
        T, shift_m = _moved(T, step, metric), shift_m + step[SHIFT]
        length = 0.0
        for p in range(PARAMETERS):
            for q in range(PARAMETERS):
                length += step[p] * A[p, q] * step[q]
        converged = length < o.converged_sigmas**2
        if length < o.step_sigmas**2 and abs(noise[0] / before[0] - 1.0) < o.settled:
            break
    return solved, at, T, before, noise, shift_before, shift_m, converged, depth_m, weights
