"""Are the covariances honest? Errors against the Cramér-Rao bound, and NEES, on synthetic truth.

    python benchmarks/covariance.py [--trials 200] [--only NAME] [--json]

error / bound   RMS of the error in units of the smallest covariance that any unbiased estimate of
                these matches can have (true noise, true inliers, true depth): 1 is perfect
ANEES           average of e^T P^-1 e with the covariance P that was returned, over its degrees of
                freedom, with the 95 % interval of chi-square: below it, the pose is better than it
                says; above it, it is over-confident
shipped         ANEES with the options that ship: they allow for errors that matches of one region
                have in common, which the drawn noise of this benchmark has not, so it lies below 1
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass

import blas  # noqa: F401
import numpy as np
from scipy import stats

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.covariance import across_direction
from l2m_ros.geometry.depth_image import NO_NOISE, DepthNoise, sample_surface
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.rays import Noise, ray_pairs
from l2m_ros.geometry.residuals import epipolar_rows, keyframe_depth_rows, query_depth_rows
from l2m_ros.geometry.scale import Depths, ScaleEvidence
from l2m_ros.geometry.synthetic import FISHEYE, Trial, World, keyframe_depth, trial
from l2m_ros.types import Correspondences, FloatArray, Lost, RelativePose

SENSOR = DepthNoise(0.002, 0.002)
SIDEWAYS = (0.3, 0.05, 0.1, 0.05, -0.1, 0.02)
TURN = (0.01, 0.0, 0.005, 0.05, -0.15, 0.03)
FORWARD = (0.0, 0.01, 0.4, 0.01, -0.02, 0.01)


@dataclass(frozen=True)
class Configuration:
    """A world, what the estimate is told of it, and whether its noise is what it assumes."""

    world: World
    holds: bool = True
    odometry_sigma_m: float = 0.0
    scale_sigma: float = 0.0


def configurations() -> list[Configuration]:
    worlds = [
        World("parallax", SIDEWAYS),
        World("planar", SIDEWAYS, surface="plane"),
        World("near pure rotation", TURN),
        World("forward motion", FORWARD),
        World("30 % outliers", SIDEWAYS, outliers=0.3),
        World("60 % outliers", SIDEWAYS, outliers=0.6),
        World("80 % outliers", SIDEWAYS, outliers=0.8),
        World("depth noise", SIDEWAYS, depth_noise=SENSOR),
        World("depth noise x 4", SIDEWAYS, depth_noise=DepthNoise(0.008, 0.008)),
        World("depth in both", SIDEWAYS, query_depth=True, depth_noise=SENSOR),
        World("depth in the query", SIDEWAYS, keyframe_depth=False, query_depth=True),
        World("wide angle (fisheye)", SIDEWAYS, camera=FISHEYE),
        World("few matches (20)", SIDEWAYS, matches=20),
        World("few matches (40), 30 % outliers", SIDEWAYS, matches=40, outliers=0.3),
        World("no depth: direction", SIDEWAYS, keyframe_depth=False),
        World("no depth: forward", FORWARD, keyframe_depth=False, outliers=0.3),
    ]
    odometry = World("odometry", SIDEWAYS, keyframe_depth=False, outliers=0.3)
    scale = World("depth scale 1 %", SIDEWAYS, depth_noise=SENSOR)
    broken = [
        World("correlated, 20 px", SIDEWAYS, correlation_px=20.0),
        World("correlated, 60 px", SIDEWAYS, correlation_px=60.0),
        World("heavy tails (t, 3)", SIDEWAYS, tails=3.0),
    ]
    return [
        *map(Configuration, worlds),
        Configuration(odometry, odometry_sigma_m=0.01),
        Configuration(scale, scale_sigma=0.01),
        *(Configuration(world, holds=False) for world in broken),
    ]


@dataclass(frozen=True)
class Row:
    name: str
    holds: bool
    trials: int
    lost: int
    error_over_bound: float
    anees: float  # over its degrees of freedom
    low: float
    high: float
    sigma_m: float  # median of what was claimed
    error_m: float  # RMS
    anees_shipped: float = float("nan")  # with the shipped options

    @property
    def verdict(self) -> str:
        if not self.holds:
            return "ok" if self.anees <= 1.5 * self.high and not self.lost else "OVERCONFIDENT"
        inside = self.low <= self.anees <= self.high and self.error_over_bound <= 1.2
        return "ok" if inside and not self.lost else "MISSED"


def measure(configuration: Configuration, trials: int) -> Row:
    """One line of the table."""
    nees, bound, errors, sigmas, lost, dof = [], [], [], [], 0, 6
    nees_shipped: list[float] = []
    for seed in range(trials):
        t = trial(configuration.world, seed)
        rng = np.random.default_rng([seed, 1])
        evidence, options, prior = told(configuration, t, rng)
        outcome = estimate_pose(t.matches, t.query, t.keyframe, options, evidence)
        if isinstance(outcome, Lost) or outcome.covariance is None:
            lost += 1
            continue
        truth = t.keyframe_from_camera
        basis = np.eye(6)
        if isinstance(outcome, RelativePose):
            truth = se3.transform(truth[:3, :3], truth[:3, 3] / np.linalg.norm(truth[:3, 3]))
            basis, dof = across_direction(outcome.keyframe_from_camera[:3, 3]), 5
        e = basis.T @ se3.difference(outcome.keyframe_from_camera, truth)
        nees.append(e @ np.linalg.solve(basis.T @ outcome.covariance @ basis, e))
        nees_shipped += _shipped_nees(t, options, evidence, basis, truth)
        information = true_information(configuration, t, truth, prior)
        bound.append(e @ basis.T @ information @ basis @ e)
        errors.append(np.linalg.norm((basis @ e)[:3]))
        sigmas.append(np.sqrt(np.trace(outcome.covariance[:3, :3])))
    n = max(len(nees), 1)
    low, high = stats.chi2.ppf([0.025, 0.975], dof * n) / (dof * n)
    return Row(
        configuration.world.name,
        configuration.holds,
        trials,
        lost,
        float(np.sqrt(np.mean(bound) / dof)) if bound else np.nan,
        float(np.mean(nees) / dof) if nees else np.nan,
        float(low),
        float(high),
        float(np.median(sigmas)) if sigmas else np.nan,
        float(np.sqrt(np.mean(np.square(errors)))) if errors else np.nan,
        float(np.mean(nees_shipped) / dof) if nees_shipped else np.nan,
    )


def _shipped_nees(
    t: Trial, options: PoseOptions, evidence: ScaleEvidence, basis: FloatArray, truth: FloatArray
) -> list[float]:
    """e^T P^-1 e of the same trial with the shipped options; nothing where there is no pose."""
    shipped = PoseOptions(
        depth_noise=options.depth_noise, depth_scale_sigma=options.depth_scale_sigma
    )
    outcome = estimate_pose(t.matches, t.query, t.keyframe, shipped, evidence)
    if isinstance(outcome, Lost) or outcome.covariance is None:
        return []
    e = basis.T @ se3.difference(outcome.keyframe_from_camera, truth)
    return [float(e @ np.linalg.solve(basis.T @ outcome.covariance @ basis, e))]


def told(
    configuration: Configuration, t: Trial, rng: np.random.Generator
) -> tuple[ScaleEvidence, PoseOptions, FloatArray]:
    """(evidence, options, the information that a prior adds); may falsify the depth's scale."""
    world, prior = configuration.world, np.zeros((6, 6))
    evidence = ScaleEvidence()
    sigma_m = configuration.odometry_sigma_m
    if sigma_m > 0:
        measured = t.keyframe_from_camera.copy()
        measured[:3, 3] += rng.normal(0, sigma_m, 3)
        evidence = ScaleEvidence(
            odometry=measured, odometry_covariance=np.diag([sigma_m**2] * 3 + [1e-4] * 3)
        )
        prior[:3, :3] = np.eye(3) / sigma_m**2
    options = PoseOptions.exactly_calibrated(
        depth_noise=world.depth_noise,
        depth_scale_sigma=configuration.scale_sigma,
    )
    if configuration.scale_sigma > 0 and t.keyframe.depth is not None:
        factor = 1.0 + rng.normal(0, configuration.scale_sigma)
        object.__setattr__(t.keyframe, "depth", (t.keyframe.depth * factor).astype(np.float32))
    return evidence, options, prior


def true_information(
    configuration: Configuration, t: Trial, truth: FloatArray, prior: FloatArray
) -> FloatArray:
    """6x6 inverse of the Cramér-Rao bound: true inliers, noise, depth and pose."""
    world, inlier = configuration.world, t.inlier
    exact = Correspondences(
        t.matches.query_px[inlier], t.keyframe_px[inlier], np.ones(inlier.sum())
    )
    pairs = ray_pairs(exact, world.camera, world.camera)
    noise = Noise(match=world.sigma_px**2)
    if world.keyframe_depth or world.query_depth:
        depths = _true_depths(world, t, exact, t.depth_m[inlier])
        pairs = pairs.with_depths(depths, world.camera)
        kind = keyframe_depth_rows if world.keyframe_depth else query_depth_rows
    else:
        kind = epipolar_rows
    rows = kind(pairs, truth, None, noise, 0.0)
    J = rows.J.reshape(7, -1)
    axes = np.kron(np.eye(2), rows.axes)
    A = axes @ (J @ J.T)[:6, :6] @ axes.T + prior
    if configuration.scale_sigma > 0:
        P, tt = np.linalg.inv(A), np.zeros((6, 6))
        tt[:3, :3] = np.outer(truth[:3, 3], truth[:3, 3]) * configuration.scale_sigma**2
        A = np.linalg.inv(P + tt)
    return A


def _true_depths(world: World, t: Trial, exact: Correspondences, z: FloatArray) -> Depths:
    """True depths with the shares of noise that interpolated samples have."""
    unknown = np.full(len(exact), np.nan)
    Y = _lifted(world, exact.keyframe_px, z, t.keyframe_from_camera)
    sides = []
    for frame, pixels, depth_m in (
        (t.keyframe, exact.keyframe_px, z),
        (t.query, exact.query_px, Y),
    ):
        if frame.depth is None:
            sides += [unknown, unknown]
            continue
        seen = sample_surface(frame.depth, pixels, world.depth_noise)
        # Where an occlusion hides the sample there is none; elsewhere the truth takes its place.
        sides += [np.where(np.isfinite(seen.z_m), depth_m, np.nan), seen.variance_factor]
    truth = keyframe_depth(world) if world.keyframe_depth else None
    slope = sample_surface(truth, exact.keyframe_px, NO_NOISE).slope
    return Depths(*sides, world.depth_noise, slope)


def _lifted(world: World, pixels: FloatArray, z: FloatArray, T: FloatArray) -> FloatArray:
    """Depth in the query."""
    X = unproject(world.camera, pixels) * z[:, None]
    return np.asarray(((X - T[:3, 3]) @ T[:3, :3])[:, 2])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--only", help="configurations whose name contains this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    chosen = [c for c in configurations() if not args.only or args.only in c.world.name]
    head = f"{'configuration':32} {'error/bound':>11} {'ANEES':>6} {'95 % interval':>15} "
    head += f"{'shipped':>7} "
    if not args.json:
        print(head + f"{'error m':>9} {'sigma m':>9} {'lost':>4}  verdict")
    rows = []
    for configuration in chosen:
        row = measure(configuration, args.trials)
        rows.append({**row.__dict__, "verdict": row.verdict})
        if not args.json:
            limit = f"{row.low:.3f} .. {row.high:.3f}" if row.holds else f"<= {1.5 * row.high:.3f}"
            print(
                f"{row.name:32} {row.error_over_bound:11.3f} {row.anees:6.3f} {limit:>15} "
                f"{row.anees_shipped:7.3f} "
                f"{row.error_m:9.5f} {row.sigma_m:9.5f} {row.lost:4d}  {row.verdict}",
                flush=True,
            )
    if args.json:
        print(json.dumps(rows, indent=1))
    return int(any(row["verdict"] != "ok" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
