"""Points to pixels and back, for every lens that CameraInfo names.

    pixel = K (distorted x, distorted y, 1)^T      the lenses are in `lens.py`

Pixel centres lie at integers. Points are (N, 3) in the camera's optical frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.lens import distort, undistort
from l2m_ros.types import DISTORTION_LENGTHS, Camera, FloatArray

# Other names that drivers write for the same models.
MODEL_NAMES = {"": "none", "radtan": "plumb_bob", "fisheye": "equidistant"}


def project(camera: Camera, points: FloatArray) -> FloatArray:
    """(N, 3) points -> (N, 2) pixels; NaN at or behind the camera's plane and off the lens."""
    points = np.asarray(points, dtype=np.float64)
    z = points[:, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        xy = points[:, :2] / np.where(z > 0, z, np.nan)[:, None]
    return pixels_of(camera, distort(camera, xy))


def unproject(camera: Camera, pixels: FloatArray) -> FloatArray:
    """(N, 2) pixels -> (N, 3) rays with z = 1; NaN where the lens sends none."""
    pixels = np.asarray(pixels, dtype=np.float64)
    K = camera.K
    rays = np.ones((len(pixels), 3))
    rays[:, 1] = (pixels[:, 1] - K[1, 2]) / K[1, 1]
    rays[:, 0] = (pixels[:, 0] - K[0, 2] - K[0, 1] * rays[:, 1]) / K[0, 0]
    if camera.distortion != "none":
        rays[:, :2] = undistort(camera, rays[:, :2])
        rays[np.isnan(rays[:, 0]), 2] = np.nan
    return rays


def pixels_of(camera: Camera, distorted: FloatArray) -> FloatArray:
    """(N, 2) distorted normalised coordinates -> pixels."""
    return np.asarray(distorted @ camera.K[:2, :2].T + camera.K[:2, 2])


def rays(camera: Camera) -> FloatArray:
    """(H, W, 3): the ray of every pixel, z = 1; NaN where the lens sends none."""
    return unproject(camera, _grid(camera)).reshape(camera.height, camera.width, 3)


def undistort_maps(camera: Camera) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(map_x, map_y) for cv2.remap: the image of `camera` -> the image of camera.pinhole()."""
    ideal = unproject(camera.pinhole(), _grid(camera))
    maps = pixels_of(camera, distort(camera, ideal[:, :2]))
    # cv2.remap needs numbers: what the lens never sees is fetched from outside of the image.
    maps = np.where(np.isfinite(maps), maps, -1e4).astype(np.float32)
    shape = (camera.height, camera.width)
    return maps[:, 0].reshape(shape), maps[:, 1].reshape(shape)


def camera_from_info(
    *,
    width: int,
    height: int,
    K: npt.ArrayLike,
    distortion_model: str = "",
    D: npt.ArrayLike = (),
    P: npt.ArrayLike | None = None,
    binning: tuple[int, int] = (1, 1),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    rectified: bool = False,
) -> Camera:
    """The camera of the image that a sensor_msgs/CameraInfo travels with.

    width, height, K and P describe the full sensor; roi is (x, y, width, height) in its pixels,
    all 0 = all of it; binning averages blocks, 0 counts as 1. `rectified`: the image has been
    undistorted already, so P holds its intrinsics.
    """
    if rectified:
        if P is None:
            raise InvalidInput("a rectified image needs the matrix P of its camera_info")
        camera = Camera(width, height, np.asarray(P, dtype=np.float64).reshape(3, 4)[:, :3])
    else:
        K = np.asarray(K, dtype=np.float64).reshape(3, 3)
        camera = Camera(width, height, K, *_lens_of(distortion_model, np.ravel(D)))
    if roi[2] > 0 and roi[3] > 0:
        camera = camera.cropped(x=roi[0], y=roi[1], width=roi[2], height=roi[3])
    return _binned(camera, max(int(binning[0]), 1), max(int(binning[1]), 1))


def _binned(camera: Camera, x: int, y: int) -> Camera:
    """A binned pixel sits in the middle of its block: u' = (u - (x - 1) / 2) / x."""
    if (x, y) == (1, 1):
        return camera
    whole = camera.cropped(x=0, y=0, width=camera.width // x * x, height=camera.height // y * y)
    return whole.resized(whole.width // x, whole.height // y)


def _lens_of(model: str, D: FloatArray) -> tuple[str, FloatArray]:
    """The model and as many coefficients as it takes; zeros too many are cut, others refused."""
    name = MODEL_NAMES.get(model, model)
    D = np.asarray(D, dtype=np.float64)
    if name == "none" or (name != "equidistant" and not D.any()):
        if D.any():
            raise InvalidInput(
                f"camera_info has coefficients D = {D.tolist()} but no distortion_model: "
                "set it to plumb_bob, rational_polynomial or equidistant"
            )
        return "none", np.zeros(0)
    lengths = DISTORTION_LENGTHS.get(name, ())
    if lengths and D.size > lengths[-1] and not D[lengths[-1] :].any():
        D = D[: lengths[-1]]
    return name, D


def undistorted(camera: Camera, pixels: FloatArray) -> FloatArray:
    """(N, 2): where the pixels lie in the image of camera.pinhole()."""
    ideal = unproject(camera, pixels)[:, :2]
    return pixels_of(camera, ideal)


def _grid(camera: Camera) -> FloatArray:
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
