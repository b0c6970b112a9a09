"""An image as a few grey samples: enough to tell what has changed in the view, and cheap."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray

Samples = npt.NDArray[np.bool_]
Grey = npt.NDArray[np.float32]

ACROSS = 160  # samples
DETAIL = 8.0  # grey levels from a sample to the next but one
CHANGED = 12.0  # grey levels: more than noise and exposure do


def thinned(rgb: ByteArray) -> Grey:
    height, width = rgb.shape[:2]
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    size = ACROSS, max(2, height * ACROSS // width)
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def has_detail(grey: Grey) -> Samples:
    """Along either axis."""
    across, down = (np.abs(cv2.Sobel(grey, cv2.CV_32F, *d, ksize=1)) for d in ((1, 0), (0, 1)))
    return np.asarray(np.maximum(across, down) > DETAIL)
