"""The Map-free relocalization benchmark: one reference image, metres, its own figures.

    SCENE/intrinsics.txt    frame fx fy cx cy width height
    SCENE/poses.txt         frame qw qx qy qz tx ty tz      camera_from_world, metres
    SCENE/seq0/*, seq1/*    the reference seq0/frame_00000.jpg, whose camera is the world; queries

Every fifth query counts. Scenes whose poses are withheld (all zero) are estimated and not scored.

VCRE: 196 virtual points before the true camera are seen by the estimated one, too; the mean
distance of both views in pixels. Precision is a share of all queries, also those without a pose.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text, whole_file
from l2m_ros.geometry import se3
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.mono_depth import DepthReader
from l2m_ros.matching.sampling import correspondences
from l2m_ros.tracking.scale_evidence import read_off
from l2m_ros.types import Camera, FloatArray, Frame, MetricPose
from l2m_ros.workshop.evaluation.metrics import rotation_error_deg
from l2m_ros.workshop.evaluation.scenes import read_rgb

REFERENCE = "seq0/frame_00000.jpg"
EVERY = 5  # queries
POSE_LIMITS = (0.25, 5.0)  # metres, degrees
VCRE_LIMIT_PX = 90.0
POINT_STEP_M, NEAREST_M = 0.3, 1.8
SURE_M = 1e-3  # a standard deviation below it makes no pose surer


@dataclass(frozen=True, eq=False)
class Query:
    name: str  # seq1/frame_00005.jpg
    camera: Camera
    camera_from_reference: FloatArray | None  # 4x4; None: withheld


@dataclass(frozen=True, eq=False)
class MapFreeScene:
    folder: Path
    reference: Camera
    queries: list[Query]

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True, eq=False)
class Estimate:
    camera_from_reference: FloatArray  # 4x4
    confidence: float  # 0 or more; only its order counts


@dataclass(frozen=True)
class QueryError:
    translation_m: float  # between the two camera centres
    rotation_deg: float
    vcre_px: float
    confidence: float


@dataclass
class SceneResult:
    """What became of the queries of one scene."""

    name: str
    errors: list[QueryError] = field(default_factory=list)
    failures: int = 0  # queries without a pose
    estimates: dict[str, Estimate] = field(default_factory=dict)


# --- reading ----------------------------------------------------------------------------------


def find_scenes(folder: Path) -> list[MapFreeScene]:
    """Scenes directly in `folder`, or in one of its splits (val, then test)."""
    for place in (folder, folder / "val", folder / "test"):
        found = sorted(path.parent for path in place.glob("*/intrinsics.txt"))
        if found:
            return [read_scene(path) for path in found]
    raise InvalidInput(
        f"{folder} holds no SCENE/intrinsics.txt: name the folder that the benchmark's val.zip or "
        "test.zip was unpacked to"
    )


def read_scene(folder: Path) -> MapFreeScene:
    cameras = {name: _camera(row, folder) for name, row in _rows(folder / "intrinsics.txt", 6)}
    if REFERENCE not in cameras:
        raise InvalidInput(f"{folder}/intrinsics.txt has no line for {REFERENCE}")
    posed = [(n, row) for n, row in _rows(folder / "poses.txt", 7) if n != REFERENCE]
    queries = []
    for name, row in posed[::EVERY]:
        if name not in cameras:
            raise InvalidInput(f"{folder}/intrinsics.txt has no line for {name}")
        queries.append(Query(name, cameras[name], _pose(row)))
    if not queries:
        raise InvalidInput(f"{folder}/poses.txt names no query image")
    for name in (REFERENCE, *(query.name for query in queries)):  # before hours of work
        if not (folder / name).is_file():
            raise InvalidInput(f"{folder / name}, which poses.txt asks for, is not there")
    return MapFreeScene(folder, cameras[REFERENCE], queries)


def _rows(path: Path, numbers: int) -> Iterable[tuple[str, list[float]]]:
    for count, line in enumerate(read_text(path).splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        try:
            values = [float(part) for part in parts[1:]]
        except ValueError as error:
            raise InvalidInput(f"{path}, line {count}: {error}") from error
        if len(values) != numbers or not np.isfinite(values).all():
            raise InvalidInput(f"{path}, line {count}: expected a name and {numbers} numbers")
        yield parts[0], values


def _camera(row: Sequence[float], folder: Path) -> Camera:
    fx, fy, cx, cy, width, height = row
    try:
        return Camera(round(width), round(height), np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    except InvalidInput as error:
        raise InvalidInput(f"{folder}/intrinsics.txt: {error}") from error


def _pose(row: Sequence[float]) -> FloatArray | None:
    w, x, y, z = row[:4]
    length = float(np.linalg.norm(row[:4]))
    if length < 1e-6:
        return None
    q = np.array([x, y, z, w]) / length
    return se3.transform(se3.rotation_from_quaternion(q), np.array(row[4:]))


# --- estimating -------------------------------------------------------------------------------


def run_scene(
    scene: MapFreeScene,
    matcher: Matcher,
    done: Callable[[], None] = lambda: None,
    depth_reader: DepthReader | None = None,
) -> SceneResult:
    """Every query of a scene against its reference. depth_reader: of the reference's metres."""
    keyframe = Frame(read_rgb(scene.folder / REFERENCE), scene.reference)
    features = matcher.encode(keyframe.rgb)
    reference, metres = matcher.reference(features), ScaleEvidence()
    if depth_reader is not None:
        metres = read_off(depth_reader.read(keyframe.rgb, keyframe.camera, features))
    result = SceneResult(scene.name)
    for query in scene.queries:
        frame = Frame(read_rgb(scene.folder / query.name), query.camera)
        pairs = correspondences(matcher.match(matcher.encode(frame.rgb), reference))
        pose = estimate_pose(pairs, frame, keyframe, evidence=metres)
        if isinstance(pose, MetricPose):
            add_estimate(result, query, estimate_of(pose))
        else:
            result.failures += query.camera_from_reference is not None
        done()
    return result


def estimate_of(pose: MetricPose) -> Estimate:
    """The surer the place, the more confident."""
    sigma_m = float(np.sqrt(np.trace(pose.covariance[:3, :3])))
    return Estimate(se3.inverse(pose.keyframe_from_camera), 1.0 / (SURE_M + sigma_m))


def add_estimate(result: SceneResult, query: Query, estimate: Estimate) -> None:
    result.estimates[query.name] = estimate
    truth = query.camera_from_reference
    if truth is not None:
        result.errors.append(query_error(estimate, truth, query.camera))


def query_error(estimate: Estimate, truth: FloatArray, camera: Camera) -> QueryError:
    T = estimate.camera_from_reference
    centres = [se3.inverse(pose)[:3, 3] for pose in (T, truth)]
    return QueryError(
        float(np.linalg.norm(centres[0] - centres[1])),
        rotation_error_deg(T, truth),
        vcre_px(T, truth, camera),
        estimate.confidence,
    )


def vcre_px(estimate: FloatArray, truth: FloatArray, camera: Camera) -> float:
    """Of two camera_from_world; pixels are clipped to the image's width and height."""
    points = virtual_points()
    moved = estimate @ se3.inverse(truth) @ np.column_stack([points, np.ones(len(points))]).T
    seen, wanted = (_clipped(p, camera) for p in (moved[:3].T, points))
    return float(np.linalg.norm(seen - wanted, axis=1).mean())


def virtual_points() -> FloatArray:
    """(196, 3) metres: a block of 7 x 4 x 7 points in front of the camera."""
    x, y = POINT_STEP_M * np.arange(-3, 4), POINT_STEP_M * (np.arange(4) - 1.5)
    z = NEAREST_M + POINT_STEP_M * np.arange(7)
    return np.stack(np.meshgrid(x, y, z, indexing="ij"), axis=-1).reshape(-1, 3)


def _clipped(points: FloatArray, camera: Camera) -> FloatArray:
    seen = points @ camera.K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = seen[:, :2] / seen[:, 2:]
    return np.clip(np.nan_to_num(pixels), 0, camera.size)


# --- figures ----------------------------------------------------------------------------------


def figures(results: Sequence[SceneResult]) -> dict[str, Any]:
    """What the benchmark's table has; None where no query got a pose."""
    errors = [error for result in results for error in result.errors]
    failures = sum(result.failures for result in results)
    total = len(errors) + failures
    if total == 0:
        raise InvalidInput("no query has a true pose: nothing to score (test poses are withheld)")
    medians = [_medians(result.errors) for result in results if result.errors]
    pose = [e.translation_m < POSE_LIMITS[0] and e.rotation_deg < POSE_LIMITS[1] for e in errors]
    vcre = [e.vcre_px < VCRE_LIMIT_PX for e in errors]
    confidence = [e.confidence for e in errors]
    mean = np.mean(medians, axis=0) if medians else [None] * 3
    return {
        "scenes": len(results),
        "queries": total,
        "estimated_percent": 100.0 * len(errors) / total,
        "median_translation_m": _rounded(mean[0]),  # of each scene, then the mean
        "median_rotation_deg": _rounded(mean[1]),
        "median_vcre_px": _rounded(mean[2]),
        "precision_pose_percent": 100.0 * sum(pose) / total,
        "auc_pose": average_precision(confidence, pose, total),
        "precision_vcre_percent": 100.0 * sum(vcre) / total,
        "auc_vcre": average_precision(confidence, vcre, total),
    }


def _medians(errors: Sequence[QueryError]) -> list[float]:
    return [
        float(np.median([getattr(error, name) for error in errors]))
        for name in ("translation_m", "rotation_deg", "vcre_px")
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def average_precision(confidence: Sequence[float], good: Sequence[bool], total: int) -> float:
    """Area under precision over recall as confidence falls; equal confidences count at once."""
    if not confidence:
        return 0.0
    order = np.argsort(-np.asarray(confidence), kind="stable")
    sure, right = np.asarray(confidence)[order], np.cumsum(np.asarray(good, float)[order])
    last = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)  # of each level of confidence
    precision, recall = right[last] / (last + 1), (last + 1) / total
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def table(name: str, values: Mapping[str, Any]) -> str:
    """The figures as words, one a line."""
    width = max(map(len, values))
    lines = [f"{name} on Map-free ({values['scenes']} scenes)"]
    for key, value in values.items():
        shown = "none" if value is None else f"{value:.3f}" if isinstance(value, float) else value
        lines.append(f"  {key:<{width}}  {shown}")
    return "\n".join(lines)


def write_submission(path: Path, results: Sequence[SceneResult]) -> None:
    """The zip that the benchmark's site takes: pose_SCENE.txt, one line an estimate."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
        for result in results:
            lines = [_line(name, estimate) for name, estimate in result.estimates.items()]
            file.writestr(f"pose_{result.name}.txt", "".join(lines))


def _line(name: str, estimate: Estimate) -> str:
    x, y, z, w = se3.quaternion(estimate.camera_from_reference[:3, :3])
    t = estimate.camera_from_reference[:3, 3]
    numbers = " ".join(f"{value:.8f}" for value in (w, x, y, z, *t))
    return f"{name} {numbers} {estimate.confidence:.6g}\n"
