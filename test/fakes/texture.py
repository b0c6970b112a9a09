"""Pictures with much to match: overlapping shapes of every size, corners everywhere."""

import cv2
import numpy as np


def texture(width, height, seed=0):
    """(height, width, 3) uint8; drawn twice as large and averaged, so that edges are soft."""
    rng = np.random.default_rng(seed)
    image = np.full((2 * height, 2 * width, 3), 120, np.uint8)
    for i in range(width * height // 60):
        colour = rng.integers(0, 255, 3).tolist()
        centre = rng.uniform(0, 1, 2) * (2 * width, 2 * height)
        size = rng.uniform(4, 40) * (1.0 - 0.7 * i * 60 / (width * height))
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 6)))
        corners = centre + size * np.column_stack([np.cos(angles), np.sin(angles)])
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], colour)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def turned_view(rgb, degrees=12.0, scale=0.9, tilt=1e-4):
    """The image seen turned, smaller and tilted, and the homography from it back into `rgb`."""
    h, w = rgb.shape[:2]
    out_from_in = np.eye(3)
    out_from_in[:2] = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, scale)
    out_from_in[2, 0] = tilt
    seen = cv2.warpPerspective(rgb, out_from_in, (w, h), flags=cv2.INTER_LINEAR)
    return seen, np.linalg.inv(out_from_in)


def mapped(H, px):
    moved = np.column_stack([px, np.ones(len(px))]) @ np.asarray(H).T
    return moved[:, :2] / moved[:, 2:]
