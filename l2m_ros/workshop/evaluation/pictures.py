"""A pair of images as a picture for people: its matches, and its warp where it is dense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2m_ros import drawing
from l2m_ros.errors import InvalidInput
from l2m_ros.images import read_rgb, write_rgb
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.types import ByteArray, DenseMatch, FloatArray
from l2m_ros.workshop.evaluation import metrics
from l2m_ros.workshop.evaluation.scenes import Pair, Scene, View, shrunk_pair


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture and the figures beside it."""

    picture: ByteArray
    figures: dict[str, Any]


def picture_of_files(
    a: Path, b: Path, matcher: Matcher, *, size_px: int | None, lines: int
) -> Shown:
    """Two image files, about whose truth nothing is known."""
    views = [View(read_rgb(path), None, None).shrunk(size_px) for path in (a, b)]
    return _shown(matcher, views[0], views[1], None, lines)


def picture_of(
    scene: Scene, index: int, matcher: Matcher, *, size_px: int | None, lines: int
) -> Shown:
    """A pair of a scene."""
    if not 0 <= index < len(scene.pairs):
        raise InvalidInput(f"{scene.folder} has pairs 0 to {len(scene.pairs) - 1}, not {index}")
    pair = scene.pairs[index]
    full_a, full_b = (scene.view(name) for name in (pair.a, pair.b))
    a, b = full_a.shrunk(size_px), full_b.shrunk(size_px)
    pair = shrunk_pair(pair, full_a.size, a.size, full_b.size, b.size)
    return _shown(matcher, a, b, pair, lines)


def _shown(matcher: Matcher, a: View, b: View, pair: Pair | None, lines: int) -> Shown:
    match = matcher.match(matcher.encode(a.rgb), matcher.reference(matcher.encode(b.rgb)))
    pairs = correspondences(match)
    figures: dict[str, Any] = {"matches": len(pairs)}
    truth = None if pair is None else metrics.true_keyframe_px(pairs.query_px, pair, a, b)
    colours: FloatArray | None = None
    if truth is not None:
        errors = metrics.match_errors_px(pairs.keyframe_px, truth)
        colours = drawing.error_colours(errors)
        shares = metrics.precision_percent(errors, (1, 3, 5))
        figures["right_within_3_px_percent"] = None if shares is None else shares[1]
    rows = [drawing.draw_matches(a.rgb, b.rgb, pairs, lines=lines, colours=colours)]
    if isinstance(match, DenseMatch):
        figures["certain_percent"] = 100.0 * float((match.certainty > 0.5).mean())
        rows.append(drawing.draw_warp(a.rgb, b.rgb, match))
    return Shown(drawing.stacked(rows), figures)


def write_picture(path: Path, rgb: ByteArray) -> None:
    """By the suffix: .jpg or .png."""
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise InvalidInput(f"{path}: a picture ends in .jpg or .png")
    write_rgb(path, rgb)
