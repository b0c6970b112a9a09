"""Depth of a left image from its right one, rectified or not; no network.

    rectified pair -> semi-global matching, at most SEARCH_WIDTH wide -> disparity within a pixel
                   -> Lucas and Kanade along the row, about every pixel -> some hundredths of one
                   -> z = f b / d, with the sigma of d at every pixel

Where the window has no texture along the row, where two surfaces meet in it, and where d is
within its own noise of infinity, there is no depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.rectification import RectifiedPair, rectified_pair
from l2m_ros.types import Frame

F32 = npt.NDArray[np.float32]

SEARCH_WIDTH = 800  # of the image that is searched; finer, and only the last pixel is lost
BLOCK = 5  # of the search
ITERATIONS = 3
WINDOW = 9  # of the refinement: its matches share the texture of this many pixels
SMOOTH = 5  # mean of the search's steps; keeps planes
STEP_PX = 1.0  # between a pixel and the mean about it: more is an edge
EDGE_RATIO, EDGE_PX = 0.1, 1.0  # a span of disparities about a pixel beyond both is an edge
# Measured on rendered pairs with known depth, and held against a car's (docs/benchmarks.md).
NOISE_GREY = 2.0  # of a pixel
SHARED = 2.5  # interpolated pixels share their noise: residuals tell too little of it
FLOOR_PX = 0.1  # no disparity is known better
MAX_SIGMA_PX = 0.5
FAR_SIGMAS = 3.0  # from a disparity of zero; nearer to infinity, a depth is noise


@dataclass(frozen=True, eq=False)
class StereoDepth:
    """Depth of the left image."""

    depth_m: F32  # (H, W), NaN = unknown
    sigma_px: F32  # (H, W) of the disparity

    @property
    def known(self) -> float:
        """Share of the pixels with depth."""
        return float(np.isfinite(self.depth_m).mean())


def stereo_depth(frame: Frame) -> StereoDepth | None:
    """None where the frame has no right image."""
    pair = rectified_pair(frame)
    return None if pair is None else depth_of_pair(pair)


def depth_of_pair(pair: RectifiedPair) -> StereoDepth:
    disparity_px, sigma_px = disparity(pair)
    parallax_px = disparity_px - pair.infinity_px
    with np.errstate(divide="ignore", invalid="ignore"):
        far = parallax_px <= FAR_SIGMAS * sigma_px
        z = np.where(far, np.nan, pair.focal_px * pair.baseline_m / parallax_px)
    return StereoDepth(*pair.in_left_image(z.astype(np.float32), sigma_px))


def disparity(pair: RectifiedPair) -> tuple[F32, F32]:
    """(H, W) left u - right u, NaN = unknown, and its standard deviation."""
    left, right = pair.left.astype(np.float32), pair.right.astype(np.float32)
    found = _refined(_blurred(left), _blurred(right), _searched(pair))
    d, sigma = found
    span = _span(d)
    with np.errstate(invalid="ignore"):
        good = (sigma < MAX_SIGMA_PX) & (span < EDGE_PX + EDGE_RATIO * np.abs(d))
    return np.where(good, d, np.float32(np.nan)), sigma


def _searched(pair: RectifiedPair) -> F32:
    """Semi-global matching, full size, NaN = unknown; steps of its own resolution."""
    height, width = pair.left.shape
    shrink = -(-width // SEARCH_WIDTH)
    size = (width // shrink, height // shrink)
    left, right = (
        image if shrink == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        for image in (pair.left, pair.right)
    )
    least = int(np.floor(pair.infinity_px / shrink))
    count = (size[0] // 8 + 15) & -16  # as OpenCV's stereo_match chooses it
    matcher = cv2.StereoSGBM.create(
        minDisparity=least,
        numDisparities=count,
        blockSize=BLOCK,
        P1=8 * BLOCK**2,
        P2=32 * BLOCK**2,
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
    )
    # Without a margin, the first `count` columns would have no disparity.
    margin = count + max(least, 0)
    left, right = (
        cv2.copyMakeBorder(image, 0, 0, margin, 0, cv2.BORDER_REPLICATE) for image in (left, right)
    )
    found = matcher.compute(left, right)[:, margin:].astype(np.float32)
    d = np.where(found < 16 * least, np.float32(np.nan), found / 16.0)
    if shrink > 1:
        exact = np.float32(width / size[0])
        d = cv2.resize(d * exact, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(d, np.float32)


def _refined(left: F32, right: F32, d: F32) -> tuple[F32, F32]:
    """left(u) - right(u - d) made small over a window about each pixel, light offset aside.

    The window moves as a whole by the step, so slanted surfaces keep their slant.
    """
    known = np.isfinite(d)
    weight = known.astype(np.float32)
    counted = np.maximum(_sum(weight, WINDOW), 1.0)
    start = d = np.where(known, d, np.float32(0.0))
    rows, columns = left.shape
    v, u = np.mgrid[:rows, :columns].astype(np.float32)
    slope_left = _slope(left)
    for _ in range(ITERATIONS):
        d = _smoothed(d, weight)
        seen = cv2.remap(right, u - d, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        slope = _centred(0.5 * (slope_left + _slope(seen)), weight, counted)
        error = _centred(left - seen, weight, counted)
        power = np.maximum(_sum(slope * slope * weight, WINDOW), 1e-3)
        step = -_sum(slope * error * weight, WINDOW) / power
        d = d + np.clip(step, -STEP_PX, STEP_PX)
    # What the last step explained is no noise any more.
    rest = np.maximum(_sum(error * error * weight, WINDOW) - power * step * step, 0.0) / counted
    sigma = np.sqrt(SHARED * np.maximum(rest, NOISE_GREY**2) / power + FLOOR_PX**2)
    good = known & (np.abs(d - start) < 2.0 * STEP_PX)
    return np.where(good, d, np.float32(np.nan)), sigma.astype(np.float32)


def _smoothed(d: F32, weight: F32) -> F32:
    """The mean about each pixel where it lies on one surface."""
    mean = _sum(d * weight, SMOOTH) / np.maximum(_sum(weight, SMOOTH), 1.0)
    return np.where(np.abs(mean - d) < STEP_PX, mean, d)


def _span(d: F32) -> F32:
    """Largest less smallest disparity in the SMOOTH pixels about each."""
    kernel = np.ones((SMOOTH, SMOOTH), np.uint8)
    known = np.isfinite(d)
    high = cv2.dilate(np.where(known, d, np.float32(-1e6)), kernel)
    low = cv2.erode(np.where(known, d, np.float32(1e6)), kernel)
    return np.asarray(high - low, np.float32)


def _centred(values: F32, weight: F32, counted: F32) -> F32:
    return np.asarray(values - _sum(values * weight, WINDOW) / counted, np.float32)


def _sum(values: F32, window: int) -> F32:
    out: F32 = cv2.boxFilter(
        values, cv2.CV_32F, (window, window), normalize=False, borderType=cv2.BORDER_REFLECT
    )
    return out


def _slope(image: F32) -> F32:
    out: F32 = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    return out


def _blurred(image: F32) -> F32:
    out: F32 = cv2.GaussianBlur(image, (0, 0), 0.7)
    return out
