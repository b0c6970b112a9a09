"""Pose from matches: time and error beside PoseLib's and OpenCV's, same input, same run.

    python benchmarks/pose.py [--matches 2000] [--outliers 0.3] [--trials 30] [--json]

Every solver gets the same matches, the same threshold and, where it takes depth, the same noisy
depth image. Times are medians of one call, the solvers taking turns, so that a busy machine slows
all of them alike. l2m_ros searches with PoseLib's minimal solvers and refines by itself; it returns
a covariance as well, the others return none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable

import blas  # noqa: F401
import cv2
import numpy as np
import poselib

from l2m_ros import compiled
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.depth_image import DepthNoise, sample_surface
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.synthetic import Trial, World, trial
from l2m_ros.types import Camera, FloatArray, Lost

SENSOR = DepthNoise(0.002, 0.002)
MOTION = (0.3, 0.05, 0.1, 0.05, -0.1, 0.02)
THRESHOLD_PX = 2.0
Solver = Callable[[Trial], "FloatArray | None"]


def ours(sources: tuple[str, ...], *, by_numpy: bool = False) -> Solver:
    """by_numpy: without the compiled kernels, as where numba is not installed."""
    options = PoseOptions(threshold_px=THRESHOLD_PX, depth_noise=SENSOR, sources=sources)

    def solve(t: Trial) -> FloatArray | None:
        with compiled.left_out() if by_numpy else contextlib.nullcontext():
            outcome = estimate_pose(t.matches, t.query, t.keyframe, options)
        return None if isinstance(outcome, Lost) else outcome.keyframe_from_camera

    return solve


def opencv_pnp(t: Trial) -> FloatArray | None:
    """solvePnPRansac, then solvePnPRefineLM on its inliers."""
    K = t.keyframe.camera.K
    z = sample_surface(t.keyframe.depth, t.matches.keyframe_px, SENSOR).z_m
    known = np.isfinite(z)
    xy = (t.matches.keyframe_px[known] - K[:2, 2]) / [K[0, 0], K[1, 1]]
    points = np.column_stack([xy, np.ones(len(xy))]) * z[known, None]
    pixels = np.ascontiguousarray(t.matches.query_px[known])
    found, r, translation, inliers = cv2.solvePnPRansac(
        points, pixels, K, None, reprojectionError=THRESHOLD_PX
    )
    if not found:
        return None
    inliers = inliers[:, 0]
    r, translation = cv2.solvePnPRefineLM(points[inliers], pixels[inliers], K, None, r, translation)
    return se3.inverse(se3.transform(cv2.Rodrigues(r)[0], translation[:, 0]))


def opencv_essential(t: Trial) -> FloatArray | None:
    """findEssentialMat(USAC_MAGSAC), then recoverPose."""
    K, a, b = t.keyframe.camera.K, t.matches.query_px, t.matches.keyframe_px
    E, mask = cv2.findEssentialMat(a, b, K, cv2.USAC_MAGSAC, 0.999, THRESHOLD_PX)
    if E is None:
        return None
    _, R, translation, _ = cv2.recoverPose(E, a, b, K, mask=mask)
    return se3.transform(R, translation[:, 0])


def poselib_absolute(t: Trial) -> FloatArray | None:
    """estimate_absolute_pose as it comes: LO-RANSAC and its own refinement."""
    z = sample_surface(t.keyframe.depth, t.matches.keyframe_px, SENSOR).z_m
    known = np.isfinite(z)
    points = unproject(t.keyframe.camera, t.matches.keyframe_px[known]) * z[known, None]
    options = {"max_reproj_error": THRESHOLD_PX}
    pose, info = poselib.estimate_absolute_pose(
        t.matches.query_px[known], points, _poselib_camera(t.query.camera), options, {}
    )
    if not info["num_inliers"]:
        return None
    return se3.inverse(se3.transform(pose.R, pose.t))


def poselib_relative(t: Trial) -> FloatArray | None:
    """estimate_relative_pose as it comes; direction only."""
    a, b = t.matches.query_px, t.matches.keyframe_px
    camera = _poselib_camera(t.query.camera)
    options = {"max_epipolar_error": THRESHOLD_PX}
    pose, info = poselib.estimate_relative_pose(a, b, camera, camera, options, {})
    return se3.transform(pose.R, pose.t) if info["num_inliers"] else None


def _poselib_camera(camera: Camera) -> dict[str, object]:
    K = camera.K
    parameters = [float(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])]
    size = {"width": camera.width, "height": camera.height}
    return {"model": "PINHOLE", **size, "params": parameters}


SOLVERS: dict[str, tuple[Solver, bool]] = {  # whether the length is metric
    "l2m_ros, depth": (ours(("depth",)), True),
    "l2m_ros, depth, NumPy": (ours(("depth",), by_numpy=True), True),
    "PoseLib absolute": (poselib_absolute, True),
    "cv2.solvePnPRansac + RefineLM": (opencv_pnp, True),
    "l2m_ros, no depth": (ours(()), False),
    "l2m_ros, no depth, NumPy": (ours((), by_numpy=True), False),
    "PoseLib relative": (poselib_relative, False),
    "cv2 USAC_MAGSAC + recoverPose": (opencv_essential, False),
}


def errors(T: FloatArray, truth: FloatArray, metric: bool) -> tuple[float, float, float]:
    """(rotation deg, direction deg, position mm)."""
    rotation = np.linalg.norm(se3.rotation_log(T[:3, :3] @ truth[:3, :3].T))
    a, b = T[:3, 3] / np.linalg.norm(T[:3, 3]), truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    direction = 2 * np.arcsin(min(np.linalg.norm(a - b) / 2, 1.0))
    off = np.linalg.norm(T[:3, 3] - truth[:3, 3]) * 1e3 if metric else np.nan
    return float(np.rad2deg(rotation)), float(np.rad2deg(direction)), float(off)


def measure(world: World, trials: int, repeats: int) -> list[dict[str, object]]:
    spent: dict[str, list[float]] = {name: [] for name in SOLVERS}
    missed: dict[str, list[tuple[float, float, float]]] = {name: [] for name in SOLVERS}
    inputs = [trial(world, seed) for seed in range(trials)]
    for solve, _ in SOLVERS.values():
        solve(inputs[0])  # first calls load and allocate
    for t in inputs:
        for name, (solve, metric) in SOLVERS.items():
            for _ in range(repeats):
                started = time.process_time()
                T = solve(t)
                spent[name].append(time.process_time() - started)
            if T is not None:
                missed[name].append(errors(T, t.keyframe_from_camera, metric))
    return [_row(name, spent[name], missed[name], trials) for name in SOLVERS]


def _row(
    name: str, spent: list[float], missed: list[tuple[float, float, float]], trials: int
) -> dict[str, object]:
    rms = np.sqrt(np.mean(np.square(missed), axis=0)) if missed else np.full(3, np.nan)
    return {
        "solver": name,
        "median_ms": float(np.median(spent)) * 1e3,
        "p95_ms": float(np.quantile(spent, 0.95)) * 1e3,
        "rotation_deg": float(rms[0]),
        "direction_deg": float(rms[1]),
        "position_mm": None if np.isnan(rms[2]) else float(rms[2]),
        "posed": len(missed) / trials,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--matches", type=int, default=2000)
    parser.add_argument("--outliers", type=float, default=0.3)
    parser.add_argument("--sigma-px", type=float, default=0.7)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    world = World(
        "speed",
        MOTION,
        matches=args.matches,
        outliers=args.outliers,
        sigma_px=args.sigma_px,
        depth_noise=SENSOR,
    )
    rows = measure(world, args.trials, args.repeats)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    print(
        f"{args.matches} matches, {args.outliers:.0%} outliers, {args.sigma_px} px noise, "
        f"threshold {THRESHOLD_PX} px, {args.trials} trials x {args.repeats}; errors are RMS"
    )
    print(f"{'':32} {'median ms':>9} {'p95 ms':>7} {'rot deg':>8} {'dir deg':>8} {'mm':>7} posed")
    for row in rows:
        mm = "" if row["position_mm"] is None else f"{row['position_mm']:7.3f}"
        print(
            f"{row['solver']:32} {row['median_ms']:9.2f} {row['p95_ms']:7.2f} "
            f"{row['rotation_deg']:8.4f} {row['direction_deg']:8.4f} {mm:>7} {row['posed']:5.0%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
