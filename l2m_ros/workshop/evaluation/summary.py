"""What the pairs of a scene sum up to: numbers for machines (JSON), tables for people.

The JSON: {"scenes": [{"name", "matcher", "kind", "auc": {"5", "10", "20"}, ...}, ...],
           "mean": {...}, "settings": {...}}
A planar scene has corner_auc {"3", "5", "10"} instead of auc. `mean` averages the scenes of a
matcher; with several matchers it is keyed by the matcher's name: mean["sift"]["auc"]["10"].
What is not known is left out or null, never NaN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from l2m_ros.workshop.evaluation import metrics
from l2m_ros.workshop.evaluation.benchmark import BenchmarkOptions, PairResult
from l2m_ros.workshop.evaluation.scenes import Scene

ANGLES_DEG = (5, 10, 20)
CORNERS_PX = (3, 5, 10)
MATCH_PX = (1, 3, 5)
GOOD_POSE = 0.05, 5.0  # metres and degrees: a pose as 7-Scenes counts a good one
STAGES = ("encode", "reference", "match", "second_look", "subpixel", "pose", "metric_pose")
SHOWN = STAGES[:-1]
AVERAGED = ("auc", "corner_auc", "posed_percent", "precision", "warp", "metric", "ms")


def scene_summary(scene: Scene, matcher: str, results: Sequence[PairResult]) -> dict[str, Any]:
    """One entry of `scenes`."""
    planar = scene.kind == "homography"
    thresholds = CORNERS_PX if planar else ANGLES_DEG
    auc = metrics.auc_percent([r.error for r in results], thresholds)
    summary: dict[str, Any] = {
        "name": scene.name,
        "matcher": matcher,
        "kind": scene.kind,
        "pairs": len(results),
        "posed_percent": _share(not r.lost for r in results),
        "corner_auc" if planar else "auc": _by_threshold(thresholds, auc),
        "median_error": _finite(np.median([r.error for r in results])),
        "matches": float(np.mean([len(r.matches) for r in results])),
        "inliers": float(np.mean([r.inliers for r in results])),
        "lost": dict(Counter(r.lost for r in results if r.lost)),
        "precision": _precision(results),
        "warp": _warp(results),
        "metric": _metric(results),
        "ms": {s: _median(r.ms[s] for r in results if s in r.ms) for s in STAGES},
    }
    summary["ms"] = {stage: value for stage, value in summary["ms"].items() if value is not None}
    return {key: value for key, value in summary.items() if value is not None}


def report(scenes: Sequence[dict[str, Any]], options: BenchmarkOptions) -> dict[str, Any]:
    """The whole JSON."""
    matchers = list(dict.fromkeys(scene["matcher"] for scene in scenes))
    means = {name: mean([s for s in scenes if s["matcher"] == name]) for name in matchers}
    return {
        "scenes": list(scenes),
        "mean": means[matchers[0]] if len(matchers) == 1 else means,
        "matchers": matchers,
        "settings": asdict(options),
    }


def mean(scenes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every scene counts the same, whatever its number of pairs; only where it has the figure."""
    out = {key: _mean([s[key] for s in scenes if key in s]) for key in AVERAGED}
    return {"scenes": len(scenes), **{key: value for key, value in out.items() if value}}


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables, poses and homographies, with a row of means for each matcher."""
    parts = []
    for key, columns in (("auc", _POSE_COLUMNS), ("corner_auc", _PLANE_COLUMNS)):
        rows = [scene for scene in report["scenes"] if key in scene]
        if not rows:
            continue
        if len({row["name"] for row in rows}) > 1:
            for name in report["matchers"]:
                own = [row for row in rows if row["matcher"] == name]
                rows.append({"name": "**mean**", "matcher": name, **mean(own)})
        parts.append(_table(rows, columns))
    return "\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any]) -> str:
    used = {title: read for title, read in columns.items() if any(read(row) for row in rows)}
    lines = ["| " + " | ".join(used) + " |", "|" + " --- |" * len(used)]
    lines += ["| " + " | ".join(read(row) for read in used.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _path(*keys: str, digits: int = 1) -> Any:
    """Reads row[keys...]; dictionaries are written a / b / c, what is absent as nothing."""

    def read(row: Mapping[str, Any]) -> str:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, Mapping):
            return " / ".join(_number(v, digits) for v in value.values())
        return value if isinstance(value, str) else _number(value, digits)

    return read


def _stages(row: Mapping[str, Any]) -> str:
    ms = row.get("ms", {})
    return " / ".join(_number(ms.get(stage), 0) for stage in SHOWN if stage in ms)


def _number(value: Any, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


_COMMON = {
    "matches": _path("matches", digits=0),
    "right within 1/3/5 px, %": _path("precision"),
    "whole warp: median px": _path("warp", "median_px", digits=2),
    "within 5 px, %": _path("warp", "within_percent", "5"),
    "ms encode/reference/match[/second_look][/subpixel]/pose": _stages,
}
_POSE_COLUMNS = {
    "scene": _path("name"),
    "matcher": _path("matcher"),
    "AUC@5/10/20 deg": _path("auc"),
    "posed %": _path("posed_percent", digits=0),
    "metric: posed %": _path("metric", "posed_percent", digits=0),
    "median m": _path("metric", "translation_m", digits=3),
    "%": _path("metric", "translation_percent"),
    "deg": _path("metric", "rotation_deg", digits=2),
    "within 5 cm, 5 deg %": _path("metric", "good_percent", digits=0),
    "NEES median": _path("metric", "nees", "median"),
    **_COMMON,
}
_PLANE_COLUMNS = {
    "scene": _path("name"),
    "matcher": _path("matcher"),
    "corner AUC@3/5/10 px": _path("corner_auc"),
    "posed %": _path("posed_percent", digits=0),
    **_COMMON,
}


def _precision(results: Sequence[PairResult]) -> dict[str, float] | None:
    """Over all matches of the scene whose truth is known."""
    known = [r.match_errors_px for r in results if r.match_errors_px is not None]
    shares = metrics.precision_percent(np.concatenate(known), MATCH_PX) if known else None
    return None if shares is None else _by_threshold(MATCH_PX, shares)


def _warp(results: Sequence[PairResult]) -> dict[str, Any] | None:
    """Of dense matchers: the error at all pixels that both images see, certain or not."""
    known = [r.warp_errors_px for r in results if r.warp_errors_px is not None]
    errors = np.concatenate(known) if known else np.zeros(0)
    if not len(errors):
        return None
    within = [100.0 * float((errors <= limit).mean()) for limit in MATCH_PX]
    return {
        "median_px": _finite(np.median(errors)),
        "within_percent": _by_threshold(MATCH_PX, within),
    }


def _metric(results: Sequence[PairResult]) -> dict[str, Any] | None:
    tried = [r for r in results if r.metric is not None or r.metric_lost]
    posed = [r.metric for r in tried if r.metric is not None]
    if not tried:
        return None
    low, high = metrics.nees_interval()
    metres, degrees = GOOD_POSE
    good = sum(e.translation_m <= metres and e.rotation_deg <= degrees for e in posed)
    moved = [e for e in posed if e.baseline_m > metrics.STANDING_STILL]
    return {
        "posed_percent": 100.0 * len(posed) / len(tried),
        "translation_m": _median(e.translation_m for e in posed),
        "translation_percent": _median(100 * e.translation_m / e.baseline_m for e in moved),
        "rotation_deg": _median(e.rotation_deg for e in posed),
        "good_percent": 100.0 * good / len(tried),
        "nees": {
            "median": _median(e.nees for e in posed),
            "mean": float(np.mean([e.nees for e in posed])) if posed else None,
            "within_95_percent": _share(low <= e.nees <= high for e in posed),
            "overconfident_percent": _share(e.nees > high for e in posed),
        },
        "lost": dict(Counter(r.metric_lost for r in tried if r.metric_lost)),
    }


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of dictionaries key by key; reasons of failure are counted, not averaged."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    if isinstance(values[0], Mapping):
        keys = [key for key in dict.fromkeys(k for v in values for k in v) if key != "lost"]
        return {key: _mean([v[key] for v in values if key in v]) for key in keys}
    return float(np.mean(values))


def _by_threshold(thresholds: Iterable[int], values: Iterable[float]) -> dict[str, float]:
    return {str(t): value for t, value in zip(thresholds, values, strict=True)}


def _median(values: Iterable[float]) -> float | None:
    listed = list(values)
    return _finite(np.median(listed)) if listed else None


def _share(flags: Iterable[bool]) -> float | None:
    listed = list(flags)
    return 100.0 * sum(map(bool, listed)) / len(listed) if listed else None


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
