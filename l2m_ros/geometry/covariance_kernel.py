"""Sums over regions of the image that `covariance.py` needs, compiled by numba; its NumPy functions
`_block_equations_numpy` and `_shared_sums_numpy` are the readable twins.
"""

# mypy: ignore-errors
# Numba finds the types of what it compiles by itself; its decorators have none.

from __future__ import annotations

import numba

_compiled = numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")


@_compiled
def add_block_equations(cell, J, error, weights, A, b):
    """Add each match's share of the normal equations to its block's.

    A (blocks, 7, 7), b (blocks, 7), J (7, r, N), error (r, N), weights (N,), cell (N,).
    """
    parameters, rows, n = J.shape
    for i in range(n):
        at, w = cell[i], weights[i]
        for r in range(rows):
            for p in range(parameters):
                Jw = w * J[p, r, i]
                b[at, p] += Jw * error[r, i]
                for q in range(p, parameters):
                    A[at, p, q] += Jw * J[q, r, i]
    for at in range(len(A)):
        for p in range(parameters):
            for q in range(p):
                A[at, p, q] = A[at, q, p]


@_compiled
def add_shared_sums(J, weights, by_match, region, by_depth, cell, by_bias, shift, shifts, depths,
                    bias, shifted):  # fmt: skip
    """Add what errors that matches share do to the normal equations.

    by_match (2, r, N) and by_depth (2, r, N); region, cell (N,); by_bias (r, N); shift (m, 2, N).
    shifts (7, 2, regions), depths (2, 7, cells), bias (7,), shifted (7, m).
    """
    parameters, rows, n = J.shape
    for i in range(n):
        for p in range(parameters):
            u, v, of_bias, of_keyframe, of_query = 0.0, 0.0, 0.0, 0.0, 0.0
            for r in range(rows):
                Jw = weights[i] * J[p, r, i]
                u += Jw * by_match[0, r, i]
                v += Jw * by_match[1, r, i]
                of_bias += Jw * by_bias[r, i]
                of_keyframe += Jw * by_depth[0, r, i]
                of_query += Jw * by_depth[1, r, i]
            shifts[p, 0, region[i]] += u
            shifts[p, 1, region[i]] += v
            depths[0, p, cell[i]] += of_keyframe
            depths[1, p, cell[i]] += of_query
            bias[p] += of_bias
            for k in range(len(shift)):
                shifted[p, k] += u * shift[k, 0, i] + v * shift[k, 1, i]
