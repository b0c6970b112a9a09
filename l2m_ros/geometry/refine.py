"""Refines a pose over all matches: Gauss-Newton on the robust cost of `robust.py`.

How noisy the matches are is estimated with the pose, at each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from l2m_ros import compiled
from l2m_ros.geometry import robust, se3
from l2m_ros.geometry.rays import Index, Noise, RayPairs, kernel_matches
from l2m_ros.geometry.residuals import (
    FAR,
    PARAMETERS,
    SHIFT,
    Rows,
    epipolar_rows,
    infinity_rows,
    keyframe_depth_rows,
    query_depth_rows,
)
from l2m_ros.geometry.scale import TranslationPrior
from l2m_ros.types import FloatArray

MAX_ITERATIONS = 20
STEP_SIGMAS = 0.1  # done when a step is shorter; the next would be a tenth of that
CONVERGED_SIGMAS = 1.0  # a last step that is longer says that there is no answer
SETTLED = 0.05  # ... and the match noise changes by no more than this share
NONE = np.zeros(0, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Terms:
    """What the pose is estimated from: groups of matches, a prior, the free parameters."""

    keyframe_depth: Index = field(default_factory=lambda: NONE)
    query_depth: Index = field(default_factory=lambda: NONE)
    epipolar: Index = field(default_factory=lambda: NONE)
    infinity: Index = field(default_factory=lambda: NONE)
    prior: TranslationPrior | None = None
    shift_sigma_m: float = 0.0
    free: Index = field(default_factory=lambda: np.arange(6))

    @property
    def metric(self) -> bool:
        """Whether any term determines the length of the translation."""
        return bool(len(self.keyframe_depth) or len(self.query_depth) or self.prior is not None)


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of the normal equations of one group of matches, at the solution."""

    index: Index  # (N,) which matches
    error: FloatArray  # (r, N) whitened
    J: FloatArray  # (7, r, N), axes of the keyframe
    by_match: FloatArray  # (2, r, N) by the keyframe's pixel, normalised
    by_bias: FloatArray  # (r, N) by the error that all depths have in common
    weights: FloatArray  # (N,)
    by_depth: FloatArray | None = None  # (2, r, N) by what the depths of a region share, one sigma

    @property
    def weighted(self) -> FloatArray:
        """(r, N)"""
        return self.weights * self.error


@dataclass(frozen=True, eq=False)
class Fit:
    """A pose and what its covariance is computed from."""

    pose: FloatArray  # 4x4 keyframe_from_camera
    information: FloatArray  # (7, 7): sum of w J^T J and the priors, axes of the keyframe
    free: Index  # the parameters that were estimated
    weights: FloatArray  # (N,) in [0, 1]
    parts: list[Part]
    noise: Noise
    noise_rows: float  # how many residuals the match noise was estimated from
    weight_factor: float  # covariance of the estimate over inverse information, by the weights
    shift_m: float
    converged: bool = True
    fewer: Fit | None = None  # the fit before matches without depth joined in

    def over(self, index: Index, n: int) -> Fit:
        """The same fit with weights for all n matches, of which `index` were fitted."""
        weights = np.zeros(n)
        weights[index] = self.weights
        parts = [replace(part, index=index[part.index]) for part in self.parts]
        return replace(self, weights=weights, parts=parts)


def depth_terms(pairs: RayPairs, *, shift_sigma_m: float = 0.0, epipolar: bool = False) -> Terms:
    """Each match by the depth that it has."""
    in_keyframe, in_query = np.isfinite(pairs.keyframe_m), np.isfinite(pairs.query_m)
    return Terms(
        keyframe_depth=np.flatnonzero(in_keyframe),
        query_depth=np.flatnonzero(in_query & ~in_keyframe),
        epipolar=np.flatnonzero(~in_query & ~in_keyframe) if epipolar else NONE,
        shift_sigma_m=shift_sigma_m,
        free=np.arange(7 if shift_sigma_m > 0 else 6),
    )


def epipolar_terms(pairs: RayPairs, prior: TranslationPrior | None = None) -> Terms:
    """Rotation and direction; the length too where a prior knows it."""
    return Terms(epipolar=np.arange(len(pairs)), prior=prior)


def rotation_terms(pairs: RayPairs) -> Terms:
    """Rotation alone: everything at infinity."""
    return Terms(infinity=np.arange(len(pairs)), free=np.arange(3, 6))


def refine(pairs: RayPairs, T: FloatArray, terms: Terms, noise: Noise) -> Fit | None:
    """From a pose that is about right; None where the matches do not determine one."""
    groups, kernel = _groups(pairs, terms), compiled.kernel("refine")
    if kernel is None:
        last = iterate_numpy(groups, T, terms, noise)
    else:
        last = _iterate_compiled(kernel, groups, pairs, T, terms, noise)
    if last is None:
        return None
    # The rows belong to the last point but one; the step between them is far below the noise.
    A, _ = _normal_equations(groups, terms, last.at, last.shift_m, gauge=False)
    fit = _fit(len(pairs), groups, terms, last.pose, last.shift_m, A, last.noise)
    return replace(fit, converged=last.converged)


@dataclass(frozen=True, eq=False)
class Settled:
    """A pose and which matches agree on it."""

    pose: FloatArray  # 4x4 keyframe_from_camera
    weights: FloatArray  # (N,) in [0, 1]


def settle(pairs: RayPairs, T: FloatArray, terms: Terms, noise: Noise) -> Settled | None:
    """`refine` without what a covariance needs: for poses on the way to another one."""
    kernel = compiled.kernel("refine")
    if kernel is None:
        fit = refine(pairs, T, terms, noise)
        return None if fit is None else Settled(fit.pose, fit.weights)
    solved, _, pose, *_, weights = _run_kernel(kernel, pairs, T, terms, noise)
    return Settled(pose, weights) if solved else None


@dataclass(frozen=True, eq=False)
class Iterated:
    """Where the iterations ended; the groups hold the rows at the last point but one."""

    at: FloatArray  # 4x4 the last point but one
    pose: FloatArray  # 4x4
    noise: Noise
    shift_m: float
    converged: bool


def iterate_numpy(
    groups: list[_Group], T: FloatArray, terms: Terms, noise: Noise
) -> Iterated | None:
    """The iterations, readable; `refine_kernel.iterate` does the same ten times as fast."""
    shift_m, converged = 0.0, False
    for _ in range(MAX_ITERATIONS):
        for group in groups:
            group.evaluate(T, noise, shift_m)
        A, b = _normal_equations(groups, terms, T, shift_m)
        step = _solve(A, b, terms.free)
        if step is None:
            return None
        before, at = noise, T
        noise = robust.noise_now(groups, noise, len(terms.free))
        T, shift_m = _moved(T, step, terms), shift_m + float(step[SHIFT])
        length = float(step @ A @ step)
        done, converged = length < STEP_SIGMAS**2, length < CONVERGED_SIGMAS**2
        if done and abs(noise.match / before.match - 1.0) < SETTLED:
            break
    return Iterated(at, T, noise, shift_m, converged)


def _iterate_compiled(
    kernel: ModuleType,
    groups: list[_Group],
    pairs: RayPairs,
    T: FloatArray,
    terms: Terms,
    noise: Noise,
) -> Iterated | None:
    """The iterations by the compiled kernel, then the last rows."""
    result = _run_kernel(kernel, pairs, T, terms, noise)
    solved, at, pose, before, now, shift_before_m, shift_m, converged, depth_m, _ = result
    if not solved:
        return None
    for group in groups:
        group.evaluate(at, Noise(*before.tolist()), shift_before_m, depth_m[group.index])
    return Iterated(at, pose, Noise(*now.tolist()), shift_m, converged)


def _run_kernel(
    kernel: ModuleType, pairs: RayPairs, T: FloatArray, terms: Terms, noise: Noise
) -> Any:
    return kernel.iterate(
        kernel_matches(kernel, pairs),
        tuple(compiled.array(index, np.intp) for index in _indices(terms)),
        robust.HALF_WEIGHT,
        np.array([0.0, *(robust.calibration(rows)[0] for rows in (1, 2, 3))]),
        *(compiled.array(part) for part in _prior(terms)),
        float(terms.shift_sigma_m),
        compiled.array(terms.free, np.intp),
        terms.metric,
        _kernel_bounds(kernel),
        compiled.array(T),
        compiled.array((noise.match, noise.depth, noise.texture)),
    )


def _kernel_bounds(kernel: ModuleType) -> Any:
    return kernel.Bounds(
        MAX_ITERATIONS,
        STEP_SIGMAS,
        CONVERGED_SIGMAS,
        SETTLED,
        robust.MIN_MATCH_FACTOR,
        robust.MIN_TEXTURE_FACTOR,
        robust.MIN_TEXTURE_ROWS,
        robust.WRONG_DEPTH,
        float(robust.WITNESS),
        robust.MIN_DEPTH_ROWS,
        FAR,
    )


def _prior(terms: Terms) -> tuple[FloatArray, FloatArray]:
    """(translation, information), zeros without a prior."""
    if terms.prior is None:
        return np.zeros(3), np.zeros((3, 3))
    translation_m = np.asarray(terms.prior.translation_m, np.float64)
    return translation_m, np.linalg.inv(terms.prior.covariance)


class _Group:
    """Matches with the same residual, and their latest rows."""

    def __init__(self, index: Index, pairs: RayPairs, rows: Callable[..., Rows]) -> None:
        self.index = index
        self._pairs, self._rows_at = pairs, rows
        self.textured = False if pairs.textured is None else pairs.textured
        self._depth_m: FloatArray | None = None

    def evaluate(
        self, T: FloatArray, noise: Noise, shift_m: float, depth_m: FloatArray | None = None
    ) -> None:
        """depth_m: to go on from, in place of those that the last evaluation left."""
        if depth_m is not None:
            self._depth_m = depth_m
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            self.rows = self._rows_at(self._pairs, T, self._depth_m, noise, shift_m)
        self._depth_m = self.rows.depth_m
        self.weights = robust.weights_of(self.rows)

    def part(self, noise: Noise) -> Part:
        J = self.rows.J.copy()
        for at in (slice(0, 3), slice(3, 6)):
            J[at] = np.tensordot(self.rows.axes, self.rows.J[at], axes=1)
        by_bias = self.rows.J[SHIFT] * self._pairs.bias_m
        rows, by_depth = self.rows, self._by_depth(noise)
        return Part(self.index, rows.error, J, rows.by_match, by_bias, self.weights, by_depth)

    def _by_depth(self, noise: Noise) -> FloatArray | None:
        """(2, r, N): of the keyframe's depths, and of the query's."""
        pairs, by_query_m = self._pairs, self.rows.by_query_m
        if by_query_m is None or pairs.depth_shared == 0.0:
            return None
        sigma_m = (
            np.nan_to_num(pairs.depth_noise.sigma_m(z)) for z in (pairs.keyframe_m, pairs.query_m)
        )
        sides = zip((-self.rows.J[SHIFT], by_query_m), sigma_m, strict=True)
        share = pairs.depth_shared * np.sqrt(noise.depth)
        return np.asarray(share * np.stack([by_m * sigma for by_m, sigma in sides]))


def _indices(terms: Terms) -> tuple[Index, Index, Index, Index]:
    """In the order of the kernel's kinds."""
    return terms.keyframe_depth, terms.query_depth, terms.epipolar, terms.infinity


def _groups(pairs: RayPairs, terms: Terms) -> list[_Group]:
    kinds = keyframe_depth_rows, query_depth_rows, epipolar_rows, infinity_rows
    return [
        _Group(index, pairs.select(index), rows)
        for index, rows in zip(_indices(terms), kinds, strict=True)
        if len(index)
    ]


def _normal_equations(
    groups: list[_Group], terms: Terms, T: FloatArray, shift_m: float, *, gauge: bool = True
) -> tuple[FloatArray, FloatArray]:
    A, b = np.zeros((PARAMETERS, PARAMETERS)), np.zeros(PARAMETERS)
    for group in groups:
        J = group.rows.J.reshape(PARAMETERS, -1)
        Jw = (group.rows.J * group.weights).reshape(PARAMETERS, -1)
        axes = np.eye(PARAMETERS)
        axes[:3, :3] = axes[3:6, 3:6] = group.rows.axes
        A += axes @ (Jw @ J.T) @ axes.T
        b += axes @ (Jw @ group.rows.error.ravel())
    if terms.prior is not None:
        translation_m, W = _prior(terms)
        A[:3, :3] += W
        b[:3] += W @ (translation_m - T[:3, 3])
    if terms.shift_sigma_m > 0:
        A[SHIFT, SHIFT] += terms.shift_sigma_m**-2
        b[SHIFT] -= shift_m * terms.shift_sigma_m**-2
    if gauge and not terms.metric:
        # Nothing holds the length of t: keep it, or the equations would be singular.
        t = T[:3, 3]
        A[:3, :3] += np.outer(t, t) * (np.trace(A[:3, :3]) / max(float(t @ t), 1e-12))
    return A, b


def _solve(A: FloatArray, b: FloatArray, free: Index) -> FloatArray | None:
    step = np.zeros(PARAMETERS)
    try:
        step[free] = np.linalg.solve(A[np.ix_(free, free)], b[free])
    except np.linalg.LinAlgError:
        return None
    return step if np.isfinite(step).all() else None


def _moved(T: FloatArray, step: FloatArray, terms: Terms) -> FloatArray:
    moved = se3.perturb(T, step[:6])
    length = float(np.linalg.norm(T[:3, 3]))
    if not terms.metric and length > 0:
        moved[:3, 3] *= length / np.linalg.norm(moved[:3, 3])
    return moved


def _fit(
    n: int,
    groups: list[_Group],
    terms: Terms,
    T: FloatArray,
    shift_m: float,
    A: FloatArray,
    noise: Noise,
) -> Fit:
    weights, noise_rows, factor = np.zeros(n), 0.0, 0.0
    for group in groups:
        weights[group.index] = group.weights
        fraction = group.rows.match_fraction + group.rows.texture_fraction
        seen = group.weights * robust.observed_rows(group.rows) * fraction
        noise_rows += float(seen.sum())
        factor += robust.calibration(int(group.rows.observed.max()))[1] * group.weights.sum()
    return Fit(
        pose=T,
        information=A,
        free=terms.free,
        weights=weights,
        parts=[group.part(noise) for group in groups],
        noise=noise,
        noise_rows=noise_rows,
        weight_factor=factor / max(float(weights.sum()), 1e-9),
        shift_m=shift_m,
    )
