"""Lens models on normalised coordinates: ideal (x/z, y/z) -> distorted, and back.

    plumb_bob            r <- r (1 + k1 s + k2 s^2 + k3 s^3) + tangential(p1, p2),     s = r^2
    rational_polynomial  r <- r (1 + k1 s + ...) / (1 + k4 s + ...) + tangential
    equidistant          r <- theta (1 + k1 theta^2 + ... + k4 theta^8),  theta = atan r

Each radial profile grows up to a radius where it folds over. Beyond it the polynomial describes
no lens: points there have no image, and pixels there have no ray.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.types import Camera, FloatArray

# 89.4 degrees off the axis: rays are written with z = 1, which ends at 90.
MAX_RADIUS = 100.0
TABLE = 512  # samples of the radial profile that give Newton its start
ITERATIONS = 20
TOLERANCE = 1e-12  # normalised units: 1e-9 px at f = 1000 px


def distort(camera: Camera, xy: FloatArray) -> FloatArray:
    """(N, 2) ideal -> distorted; NaN beyond the fold."""
    if camera.distortion == "none":
        return xy
    s = (xy**2).sum(axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        distorted = _distort(camera, xy, s)
        distorted[~(s <= fold_radius(camera) ** 2)] = np.nan
    return distorted


def undistort(camera: Camera, xy: FloatArray) -> FloatArray:
    """(N, 2) distorted -> ideal; NaN where no ray of the lens arrives or Newton does not."""
    if camera.distortion == "none":
        return xy
    radius = fold_radius(camera)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        ideal = _radial_start(camera, xy, radius)
        for _ in range(ITERATIONS):
            error, J = (
                _distort(camera, ideal, (ideal**2).sum(axis=-1)) - xy,
                jacobian(camera, ideal),
            )
            det = J[:, 0, 0] * J[:, 1, 1] - J[:, 0, 1] * J[:, 1, 0]
            step = np.stack(
                [
                    J[:, 1, 1] * error[:, 0] - J[:, 0, 1] * error[:, 1],
                    J[:, 0, 0] * error[:, 1] - J[:, 1, 0] * error[:, 0],
                ],
                axis=1,
            )
            ideal = ideal - step / det[:, None]
            if not (np.abs(error) > TOLERANCE).any():
                break
        s = (ideal**2).sum(axis=-1)
        missed = np.abs(_distort(camera, ideal, s) - xy).max(axis=1)
        good = (
            (missed < 10 * TOLERANCE * (1 + np.abs(xy).max(axis=1))) & (s <= radius**2) & (det > 0)
        )
    return np.where(good[:, None], ideal, np.nan)


def fold_radius(camera: Camera) -> float:
    """The ideal radius up to which the radial profile grows."""
    if camera.distortion == "none":
        return MAX_RADIUS
    N, D = _radial_polynomials(camera)
    # d/dr of r N/D (or of theta N): N D + 2 s (N' D - N D') in s; the pole D = 0 ends it as well.
    growth = N * D + np.polynomial.Polynomial([0, 2]) * (N.deriv() * D - N * D.deriv())
    roots = np.concatenate([growth.roots(), D.roots()])
    real = roots[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    limit = float(np.sqrt(real.min())) if real.size else np.inf
    if camera.distortion == "equidistant":
        limit = float(np.tan(limit)) if limit < np.arctan(MAX_RADIUS) else np.inf
    return min(limit, MAX_RADIUS)


def _radial_polynomials(
    camera: Camera,
) -> tuple[np.polynomial.Polynomial, np.polynomial.Polynomial]:
    """Numerator and denominator of the radial factor, in s = r^2 (or theta^2)."""
    D = camera.D
    if camera.distortion == "equidistant":
        return np.polynomial.Polynomial([1.0, *D]), np.polynomial.Polynomial([1.0])
    k3 = [D[4]] if D.size > 4 else []
    denominator = [1.0, *D[5:8]] if D.size == 8 else [1.0]
    return np.polynomial.Polynomial([1.0, D[0], D[1], *k3]), np.polynomial.Polynomial(denominator)


def _factor(camera: Camera, s: FloatArray) -> FloatArray:
    """distorted = factor * ideal, without the tangential part."""
    N, D = _radial_polynomials(camera)
    if camera.distortion != "equidistant":
        return np.asarray(N(s) / D(s))
    r = np.sqrt(s)
    theta = np.arctan(r)
    return np.where(r > 1e-8, theta * N(theta**2) / np.maximum(r, 1e-300), 1.0)


def _distort(camera: Camera, xy: FloatArray, s: FloatArray) -> FloatArray:
    distorted = xy * _factor(camera, s)[..., None]
    if camera.distortion != "equidistant":
        p1, p2 = camera.D[2:4]
        x, y = xy[..., 0], xy[..., 1]
        distorted[..., 0] += 2 * p1 * x * y + p2 * (s + 2 * x * x)
        distorted[..., 1] += p1 * (s + 2 * y * y) + 2 * p2 * x * y
    return distorted


def jacobian(camera: Camera, xy: FloatArray) -> FloatArray:
    """(N, 2, 2) of _distort."""
    s = (xy**2).sum(axis=1)
    x, y = xy.T
    slope = _factor_slope(camera, s)  # d factor / d s
    J = 2 * slope[:, None, None] * xy[:, :, None] * xy[:, None, :]
    J[:, [0, 1], [0, 1]] += _factor(camera, s)[:, None]
    if camera.distortion != "equidistant":
        p1, p2 = camera.D[2:4]
        J[:, 0, 0] += 2 * p1 * y + 6 * p2 * x
        J[:, 1, 1] += 6 * p1 * y + 2 * p2 * x
        cross = 2 * p1 * x + 2 * p2 * y
        J[:, 0, 1] += cross
        J[:, 1, 0] += cross
    return J


def _factor_slope(camera: Camera, s: FloatArray) -> FloatArray:
    N, D = _radial_polynomials(camera)
    if camera.distortion != "equidistant":
        return np.asarray((N.deriv()(s) * D(s) - N(s) * D.deriv()(s)) / D(s) ** 2)
    r = np.sqrt(np.maximum(s, 1e-12))  # the slope is finite at 0; 1e-6 is near enough to it
    theta = np.arctan(r)
    t2 = theta**2
    growth = (N(t2) + 2 * t2 * N.deriv()(t2)) / (1 + r * r)  # d (theta N) / d r
    return np.asarray((growth - theta * N(t2) / r) / (2 * r * r))


def _radial_start(camera: Camera, xy: FloatArray, radius: float) -> FloatArray:
    """The ideal point of the same direction whose distorted radius agrees, from a table."""
    # Even in angle, so that a fisheye's 89 degrees get as many samples as its first degree.
    r = np.tan(np.linspace(0.0, np.arctan(radius), TABLE))
    profile = np.maximum.accumulate(r * _factor(camera, r * r))
    wanted = np.sqrt((xy**2).sum(axis=1))
    found = np.interp(wanted, profile, r)
    return np.asarray(xy * (found / np.maximum(wanted, 1e-12))[:, None])
