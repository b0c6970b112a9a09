"""Does the picture confirm a pose? Places that look alike differ in detail: a notice, a poster.

The query is drawn as the keyframe's camera would see it, by the keyframe's depth and the pose that
is in question. Where either picture has detail, the two must go together; in a look-alike place
they do not, however well the geometry fits. Brightness does not matter, what was moved does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.types import Camera, FloatArray, Frame

Grey = npt.NDArray[np.float32]

WIDTH = 160  # of the small pictures: errors of a pose by a few pixels do not matter there
WINDOW = 7
WHOLE = 0.85  # of a window that must be known
DETAIL_GREY = 8.0  # standard deviation in a window; less is a plain wall
TOGETHER = 0.5  # correlation of windows that show the same
JUMP, JUMP_PX = 0.08, 2  # of inverse depth, over so many pixels
BEHIND, BEHIND_M = 0.1, 0.1  # a point this much farther than the query sees is hidden there


@dataclass(frozen=True)
class Confirmation:
    """How much of the detail that both should see is the same."""

    share: float  # of the windows with detail; NaN where there are none
    area: float  # of the picture, that has detail and is seen by both


def confirmation(query: Frame, keyframe: Frame, keyframe_from_camera: FloatArray) -> Confirmation:
    """Of a pose of the query in the keyframe, which must have depth."""
    seen = drawn(query, keyframe, keyframe_from_camera)
    if seen is None:
        return Confirmation(np.nan, 0.0)
    kept, moved, known = seen
    weight = np.maximum(_mean(known), 1e-6)
    a, b = _mean(kept * known) / weight, _mean(moved * known) / weight
    spread_a = np.maximum(_mean(kept * kept * known) / weight - a * a, 0.0)
    spread_b = np.maximum(_mean(moved * moved * known) / weight - b * b, 0.0)
    shared = _mean(kept * moved * known) / weight - a * b
    correlation = shared / np.sqrt(np.maximum(spread_a * spread_b, 1e-3))
    detail = (weight > WHOLE) & (np.maximum(spread_a, spread_b) > DETAIL_GREY**2)
    count = int(detail.sum())
    share = float((correlation[detail] > TOGETHER).mean()) if count else np.nan
    return Confirmation(share, count / detail.size)


def together(parts: Sequence[Confirmation]) -> Confirmation:
    """What several views say of one pose: shares by their areas."""
    area = sum(part.area for part in parts)
    if area == 0:
        return Confirmation(np.nan, 0.0)
    share = sum(part.share * part.area for part in parts if part.area > 0) / area
    return Confirmation(share, area / len(parts))


def drawn(
    query: Frame, keyframe: Frame, keyframe_from_camera: FloatArray
) -> tuple[Grey, Grey, Grey] | None:
    """The keyframe's picture, the query's as seen from there, and 1 where that is known."""
    if keyframe.depth is None:
        return None
    there, here = _small(keyframe.camera), _small(query.camera)
    depth = _nearest(keyframe.depth, there)
    v, u = np.nonzero(np.isfinite(depth))
    xyz = unproject(there, np.column_stack([u, v]).astype(float)) * depth[v, u][:, None]
    camera_from_keyframe = se3.inverse(keyframe_from_camera)
    xyz = xyz @ camera_from_keyframe[:3, :3].T + camera_from_keyframe[:3, 3]
    ahead = xyz[:, 2] > 0.05
    px = np.full((len(xyz), 2), -1e4)
    px[ahead] = project(here, xyz[ahead])
    inside = np.isfinite(px).all(axis=1)
    inside &= ((px >= 0) & (px <= np.array(here.size) - 1)).all(axis=1)
    if query.depth is not None:
        inside &= ~_hidden(px, xyz[:, 2], _nearest(query.depth, here), inside)
    where = np.full((*depth.shape, 2), -1e4, np.float32)
    where[v[inside], u[inside]] = px[inside]
    known = np.zeros(depth.shape, np.float32)
    known[v[inside], u[inside]] = 1.0
    known[_near_jumps(depth)] = 0.0
    moved = cv2.remap(_grey(query.rgb, here), where, None, cv2.INTER_LINEAR)
    known[moved == 0] = 0.0  # pure black is what nobody saw, as beside an image that was turned
    return _grey(keyframe.rgb, there), np.asarray(moved, np.float32), known


def _near_jumps(depth: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels beside an edge of depth, where a hair's breadth of the pose shows something else.

    Inverse depth is linear along a plane, however it leans.
    """
    inverse = 1.0 / depth
    jumps = np.zeros(depth.shape, np.uint8)
    for axis in (0, 1):
        before, after = (np.roll(inverse, by, axis) for by in (JUMP_PX, -JUMP_PX))
        with np.errstate(invalid="ignore"):
            jumps |= np.abs(before + after - 2 * inverse) > JUMP * inverse
    return np.asarray(cv2.dilate(jumps, np.ones((3, 3), np.uint8)) > 0)


def _hidden(
    px: FloatArray, z_m: FloatArray, seen_m: FloatArray, inside: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Points that the query's own depth lies before."""
    hidden = np.zeros(len(px), bool)
    u, v = np.rint(px[inside]).astype(int).T
    with np.errstate(invalid="ignore"):  # unknown depth hides nothing
        hidden[inside] = z_m[inside] > seen_m[v, u] * (1 + BEHIND) + BEHIND_M
    return hidden


def _small(camera: Camera) -> Camera:
    return camera.resized(WIDTH, max(round(camera.height * WIDTH / camera.width), 1))


def _grey(rgb: npt.NDArray[np.uint8], camera: Camera) -> Grey:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _nearest(depth: FloatArray, camera: Camera) -> FloatArray:
    return np.asarray(cv2.resize(depth, camera.size, interpolation=cv2.INTER_NEAREST))


def _mean(picture: Grey) -> Grey:
    return np.asarray(cv2.boxFilter(picture, -1, (WINDOW, WINDOW)), np.float32)
