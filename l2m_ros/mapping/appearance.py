"""Does the picture confirm a pose? Places that look alike differ in detail: a notice, a poster.

The query is drawn as the keyframe's camera would see it, by the keyframe's depth and the pose that
is in question. Where either picture has detail in two directions (corners, print; the edge of a
door is the same in every corridor), the two must correlate within a pixel of each other, once the
sharper one is as blurred as the other. In a look-alike place they do not, however well the geometry
fits. Brightness does not matter, what was moved does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.mapping.surfaces import smoothed_inverse
from l2m_ros.types import Camera, FloatArray, Frame

Grey = npt.NDArray[np.float32]

WIDTH = 320  # of the pictures that are compared; depth has half of it
WINDOW = 7  # letters of a door's number, not its plate: 11 took other numbers for the same
STEP = 2  # each second window is judged
WHOLE = 0.8  # of a window that must be known
BLURS_PX = (0.8, 1.1, 1.4, 1.8, 2.3, 3.0)  # the first against noise, more for the sharper picture
SHARPER = 1.15  # of mean square slopes: a picture that is blurred until it is like the other
MOST_GAIN = 4.0  # of contrast, between two pictures of one place
DETAIL = 12.0  # mean square of the slope across the weaker direction, grey levels a pixel
TOGETHER = 0.7  # correlation of windows that show the same
# A jump: of inverse depth, over so many pixels; less than this (1/m) moves nothing by a pixel.
JUMP, JUMP_PX, JUMP_PER_M = 0.08, 2, 0.012
BEHIND, BEHIND_M = 0.1, 0.1  # a point this much farther than the query sees is hidden there
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # by which a pose may be off in the picture
NOWHERE = -1e4  # pixel


@dataclass(frozen=True)
class Confirmation:
    """How much of the detail that both should see is the same."""

    share: float  # of the windows with detail; NaN where there are none
    area: float  # of the picture, that has detail and is seen by both


NOTHING = Confirmation(np.nan, 0.0)


@dataclass(frozen=True, eq=False)
class Windows:
    """Two pictures of one place, window by window, on the grid of the keyframe's picture."""

    detail: npt.NDArray[np.bool_]  # known to both, and one of them has detail
    same: npt.NDArray[np.bool_]  # they correlate
    known: npt.NDArray[np.bool_]


def compared(query: Frame, keyframe: Frame, keyframe_from_camera: FloatArray) -> Windows | None:
    """By a pose of the query in the keyframe; None where that has no depth."""
    seen = drawn(query, keyframe, keyframe_from_camera)
    if seen is None:
        return None
    kept, moved, known = seen
    known = cv2.erode(known, np.ones((5, 5), np.uint8))  # as far as blur and shift reach
    kept, moved = _as_blurred(kept, _as_bright(moved, kept, known), known)
    whole = _mean(known) > WHOLE
    detail = whole & (np.maximum(_corners(kept), _corners(moved)) > DETAIL)
    return Windows(detail, _agreement(kept, moved, known) > TOGETHER, whole)


def confirmed(windows: Windows) -> Confirmation:
    """The share of the windows with detail that show the same."""
    count = int(windows.detail.sum())
    if not count:
        return NOTHING
    return Confirmation(float(windows.same[windows.detail].mean()), count / windows.detail.size)


def confirmation(query: Frame, keyframe: Frame, keyframe_from_camera: FloatArray) -> Confirmation:
    """Of a pose of the query in the keyframe, which must have depth."""
    windows = compared(query, keyframe, keyframe_from_camera)
    return NOTHING if windows is None else confirmed(windows)


def together(parts: Sequence[Confirmation]) -> Confirmation:
    """What several views say of one pose: shares by their areas."""
    area = sum(part.area for part in parts)
    if area == 0:
        return NOTHING
    share = sum(part.share * part.area for part in parts if part.area > 0) / area
    return Confirmation(share, area / len(parts))


# --- two pictures, window by window --------------------------------------------------------------


def _as_bright(picture: Grey, other: Grey, known: Grey) -> Grey:
    """With the other's contrast and brightness, as far as blur does not change them."""
    seen = known > 0
    if not seen.any():
        return picture
    a, b = (_blurred(each, BLURS_PX[-1])[seen] for each in (picture, other))
    gain = np.clip(b.std() / max(float(a.std()), 1e-3), 1 / MOST_GAIN, MOST_GAIN)
    return np.asarray((picture - a.mean()) * gain + b.mean(), np.float32)


def _as_blurred(a: Grey, b: Grey, known: Grey) -> tuple[Grey, Grey]:
    """Both without noise, the sharper one as blurred as the other: one may have been in motion."""
    softer = [_blurred(picture, BLURS_PX[0]) for picture in (a, b)]
    slopes = [_slope(picture, known) for picture in softer]
    sharper = int(slopes[1] > slopes[0])
    for sigma_px in BLURS_PX[1:]:
        if _slope(softer[sharper], known) <= SHARPER * slopes[1 - sharper]:
            break
        softer[sharper] = _blurred((a, b)[sharper], sigma_px)
    return softer[0], softer[1]


def _slope(picture: Grey, known: Grey) -> float:
    """Sum of squares where both are known."""
    right, down = cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)
    return float(((right * right + down * down) * known).sum())


def _agreement(a: Grey, b: Grey, known: Grey) -> Grey:
    """Correlation in each window, of the best shift of b."""
    weight = np.maximum(_mean(known), 1e-6)
    mean_a = _mean(a * known) / weight
    spread_a = np.maximum(_mean(a * a * known) / weight - mean_a**2, 0.0)
    best = np.full(mean_a.shape, -1.0, np.float32)
    for shifted in _shifted(b):
        mean_b = _mean(shifted * known) / weight
        spread_b = np.maximum(_mean(shifted * shifted * known) / weight - mean_b**2, 0.0)
        shared = _mean(a * shifted * known) / weight - mean_a * mean_b
        np.maximum(best, shared / np.sqrt(np.maximum(spread_a * spread_b, 1e-3)), out=best)
    return best


def _shifted(picture: Grey) -> Iterator[Grey]:
    for right, down in SHIFTS:
        yield np.roll(picture, (down, right), (0, 1))


def _corners(picture: Grey) -> Grey:
    """Mean square of the slope across the weaker of two directions, in each window."""
    # OpenCV's Sobel of 3 pixels is 8 times the slope, and is divided by 4 here.
    weaker = cv2.cornerMinEigenVal(picture, WINDOW, ksize=3) / 4.0
    return np.asarray(weaker[::STEP, ::STEP], np.float32)


def _mean(picture: Grey) -> Grey:
    return np.asarray(cv2.boxFilter(picture, -1, (WINDOW, WINDOW))[::STEP, ::STEP], np.float32)


def _blurred(picture: Grey, sigma_px: float) -> Grey:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.float32)


# --- the query as the keyframe's camera would see it ---------------------------------------------


def drawn(
    query: Frame, keyframe: Frame, keyframe_from_camera: FloatArray
) -> tuple[Grey, Grey, Grey] | None:
    """The keyframe's picture, the query's as seen from there, and 1 where that is known.

    Where it is not, the keyframe's own picture stands in for the query's.
    """
    if keyframe.depth is None:
        return None
    width = min(WIDTH, keyframe.camera.width, query.camera.width)
    there, here = _small(keyframe.camera, width), _small(query.camera, width)
    px = _pixels(query, keyframe, keyframe_from_camera, max(width // 2, 1))
    px = (px + 0.5) * (width / query.camera.width) - 0.5
    where = cv2.resize(px.astype(np.float32), there.size, interpolation=cv2.INTER_LINEAR)
    x, y = where[..., 0], where[..., 1]
    with np.errstate(invalid="ignore"):  # NaN is nowhere
        known = (x >= 0) & (y >= 0) & (x <= here.width - 1) & (y <= here.height - 1)
    where[~known] = NOWHERE
    kept = _grey(keyframe.rgb, there)
    moved = cv2.remap(_grey(query.rgb, here), where, None, cv2.INTER_LINEAR)
    known &= moved > 0  # pure black is what nobody saw, as beside an image that was turned
    return kept, np.where(known, moved, kept), known.astype(np.float32)


def _pixels(query: Frame, keyframe: Frame, T: FloatArray, width: int) -> FloatArray:
    """(h, w, 2) pixels of the query at which it sees what lies at those of the small keyframe."""
    there = _small(keyframe.camera, width)
    inverse = smoothed_inverse(_nearest(keyframe.depth, there))
    seen = np.isfinite(inverse) & ~_near_jumps(inverse)
    v, u = np.nonzero(seen)
    xyz = unproject(there, np.column_stack([u, v]).astype(float)) / inverse[v, u][:, None]
    camera_from_keyframe = se3.inverse(T)
    xyz = xyz @ camera_from_keyframe[:3, :3].T + camera_from_keyframe[:3, 3]
    px = project(query.camera, xyz)
    px[~(xyz[:, 2] > 0.05)] = np.nan
    if query.depth is not None:
        px[_hidden(px, xyz[:, 2], query.depth)] = np.nan
    where = np.full((*inverse.shape, 2), np.nan)
    where[v, u] = px
    return where


def _near_jumps(inverse: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels beside an edge of depth, where a hair's breadth of the pose shows something else.

    Inverse depth is linear along a plane, however it leans.
    """
    jumps = np.zeros(inverse.shape, np.uint8)
    for axis in (0, 1):
        before, after = (np.roll(inverse, by, axis) for by in (JUMP_PX, -JUMP_PX))
        with np.errstate(invalid="ignore"):
            jumps |= np.abs(before + after - 2 * inverse) > JUMP * inverse + JUMP_PER_M
    return np.asarray(cv2.dilate(jumps, np.ones((3, 3), np.uint8)) > 0)


def _hidden(px: FloatArray, z_m: FloatArray, depth_m: FloatArray) -> npt.NDArray[np.bool_]:
    """Points that the query's own depth lies before."""
    height, width = depth_m.shape
    with np.errstate(invalid="ignore"):  # unknown depth hides nothing
        u, v = np.nan_to_num(np.rint(px), nan=NOWHERE).astype(int).T
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        seen_m = depth_m[np.where(inside, v, 0), np.where(inside, u, 0)]
        return np.asarray(inside & (z_m > seen_m * (1 + BEHIND) + BEHIND_M))


def _small(camera: Camera, width: int) -> Camera:
    return camera.resized(width, max(round(camera.height * width / camera.width), 1))


def _grey(rgb: npt.NDArray[np.uint8], camera: Camera) -> Grey:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, camera.size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _nearest(depth: FloatArray | None, camera: Camera) -> FloatArray:
    return np.asarray(cv2.resize(np.asarray(depth), camera.size, interpolation=cv2.INTER_NEAREST))
