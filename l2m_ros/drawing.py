"""Pictures of matches for people: pairs as lines, a dense warp as images, words on top.

All images are (H, W, 3) uint8 RGB and all values in [0, 1], yellow = sure, violet = doubtful.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, Correspondences, DenseMatch

Array = npt.NDArray[Any]

LINES = 200  # more hide the images
GAP_PX = 6
DIM = 0.65  # images are darkened, so that the lines stand out
LINE_HEIGHT_PX = 22
# Error in pixels up to which a match has this colour.
ERROR_COLOURS = ((1.0, (70, 210, 90)), (3.0, (200, 220, 60)), (5.0, (250, 160, 40)))
WRONG_COLOUR = (230, 50, 60)
UNKNOWN_COLOUR = (150, 150, 150)


def confidence_colours(values: Array) -> Array:
    """(N,) or (h, w) in [0, 1] -> the same with 3 more: plasma from violet to yellow."""
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    flat = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_PLASMA)
    return np.ascontiguousarray(flat[:, 0, ::-1]).reshape(*levels.shape, 3)


def error_colours(errors_px: Array) -> Array:
    """(N,) pixels, NaN = unknown -> (N, 3): green up to 1, yellow 3, orange 5, then red."""
    colours = np.tile(np.array(WRONG_COLOUR, np.uint8), (len(errors_px), 1))
    for limit, colour in reversed(ERROR_COLOURS):
        colours[errors_px <= limit] = colour
    colours[np.isnan(errors_px)] = UNKNOWN_COLOUR
    return colours


def draw_matches(
    query: ByteArray,
    keyframe: ByteArray,
    pairs: Correspondences,
    *,
    width_px: int = 640,
    lines: int = LINES,
    colours: Array | None = None,
) -> ByteArray:
    """Both images side by side, each `width_px` wide, with at most `lines` of the pairs.

    The pairs drawn are spread over the list. colours: (N, 3) uint8, else by confidence.
    """
    left, right = (_dimmed(_fitted(image, width_px)) for image in (query, keyframe))
    picture = beside(left, right)
    if not len(pairs):
        return with_words(picture, ["no matches"])
    chosen = np.linspace(0, len(pairs) - 1, min(lines, len(pairs))).astype(int)
    paint = confidence_colours(pairs.confidence[chosen]) if colours is None else colours[chosen]
    starts = _scaled(pairs.query_px[chosen], query, left)
    ends = _scaled(pairs.keyframe_px[chosen], keyframe, right) + (left.shape[1] + GAP_PX, 0)
    for a, b, colour in zip(starts.tolist(), ends.tolist(), paint.tolist(), strict=True):
        _line(picture, a, b, colour)
    return picture


def draw_warp(query: ByteArray, keyframe: ByteArray, match: DenseMatch) -> ByteArray:
    """Two rows: query, keyframe / keyframe warped into the query where certain, certainty."""
    h, w = query.shape[:2]
    warped = warped_keyframe(query, keyframe, match)
    certainty = cv2.resize(match.certainty, (w, h), interpolation=cv2.INTER_LINEAR)
    other = _fitted(keyframe, w)[:h]
    other = np.pad(other, ((0, h - other.shape[0]), (0, 0), (0, 0)))
    return stacked(
        [
            beside(
                with_words(query.copy(), ["query"]),
                with_words(other, ["keyframe"]),
            ),
            beside(
                with_words(warped, ["keyframe warped onto the query"]),
                with_words(confidence_colours(certainty), ["certainty: violet 0, yellow 1"]),
            ),
        ]
    )


def warped_keyframe(query: ByteArray, keyframe: ByteArray, match: DenseMatch) -> ByteArray:
    """The keyframe's colours on the query's grid, fading to dark grey where uncertain."""
    h, w = query.shape[:2]
    if (w, h) != match.query_size:
        raise InvalidInput(f"the match is of a query of {match.query_size}, the image is {(w, h)}")
    maps = np.where(np.isfinite(match.warp_px), match.warp_px, -1e4).astype(np.float32)
    if maps.shape[:2] != (h, w):
        maps = cv2.resize(maps, (w, h), interpolation=cv2.INTER_LINEAR)
    colours = cv2.remap(np.ascontiguousarray(keyframe), maps, None, cv2.INTER_LINEAR)
    weight = cv2.resize(match.certainty, (w, h), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.asarray(colours * weight + 24 * (1 - weight), np.uint8)


def with_words(picture: ByteArray, lines: Sequence[str]) -> ByteArray:
    """Words in the upper left on a dark bar, written into the picture; ASCII only."""
    bar = min(picture.shape[0], 8 + LINE_HEIGHT_PX * len(lines))
    picture[:bar] = picture[:bar] // 3
    for row, line in enumerate(lines):
        plain = line.encode("ascii", "replace").decode()
        place = (8, LINE_HEIGHT_PX * (row + 1) - 3)
        cv2.putText(
            picture, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (245, 245, 245), 1, cv2.LINE_AA
        )
    return picture


def beside(left: ByteArray, right: ByteArray) -> ByteArray:
    """Left and right with a gap; the lower one is filled with dark grey."""
    height, width = max(left.shape[0], right.shape[0]), left.shape[1] + GAP_PX + right.shape[1]
    picture = np.full((height, width, 3), 24, np.uint8)
    picture[: left.shape[0], : left.shape[1]] = left
    picture[: right.shape[0], left.shape[1] + GAP_PX :] = right
    return picture


def stacked(pictures: Sequence[ByteArray]) -> ByteArray:
    """One above the other with a gap; narrower ones are filled with dark grey."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        room = width - picture.shape[1]
        rows.append(np.pad(picture, ((0, GAP_PX), (0, room), (0, 0)), constant_values=24))
    return np.concatenate(rows)[:-GAP_PX]


def _fitted(image: ByteArray, width_px: int) -> ByteArray:
    height = max(1, round(image.shape[0] * width_px / image.shape[1]))
    shrinks = width_px < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width_px, height), interpolation=method), np.uint8)


def _dimmed(image: ByteArray) -> ByteArray:
    return np.asarray(cv2.convertScaleAbs(image, alpha=DIM), np.uint8)


def _scaled(pixels: Array, image: ByteArray, shown: ByteArray) -> Array:
    scale = np.array([shown.shape[1] / image.shape[1], shown.shape[0] / image.shape[0]])
    return np.asarray(np.rint((pixels + 0.5) * scale - 0.5), int)


def _line(picture: ByteArray, a: list[int], b: list[int], colour: list[int]) -> None:
    cv2.line(picture, a, b, colour, 1, cv2.LINE_AA)
    for end in (a, b):
        cv2.circle(picture, end, 2, colour, -1, cv2.LINE_AA)
