"""A rolling shutter: an image's rows are seen one after another while the camera moves.

    rho     a pixel's row over the image's height, -1/2 at the top and 1/2 at the bottom
    f       how fast the image moves there: of a point X of known depth, under the camera's twist
    seen    pixel = true pixel + f rho tau          tau: seconds from the first row to the last

A match errs by what both images err, k in the keyframe and q in the query, carried into the
keyframe: (f_k rho_k - f_q rho_q) tau. It does not cancel where the camera's velocity changed. The
residuals show tau: as one more unknown beside the pose (`unseen_readout`), which a tracker learns
over many frames (`tracking.readout`), because it is a constant of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.covariance import inflation
from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.rays import RayPairs, homogeneous
from l2m_ros.geometry.refine import Fit
from l2m_ros.types import FloatArray, ShutterHint


@dataclass(frozen=True, eq=False)
class ImageRows:
    """(N,) rho of each match in the keyframe, and in the query."""

    keyframe: FloatArray
    query: FloatArray


def shift_by_readout(
    pairs: RayPairs,
    keyframe_from_camera: FloatArray,
    depth_m: FloatArray,
    rows: ImageRows,
    motion: ImageMotion,
) -> FloatArray:
    """(2, N) by how much the matches in the keyframe are off, for each second of read-out.

    depth_m (N,) in the keyframe; where it is unknown, the median stands in.
    """
    T, known = keyframe_from_camera, np.isfinite(depth_m) & (depth_m > 0)
    if not known.any():
        return np.zeros_like(pairs.keyframe)
    R, z = T[:3, :3], np.where(known, depth_m, np.median(depth_m[known]))
    X = homogeneous(pairs.keyframe) * z
    Y = R.T @ (X - T[:3, 3:4])
    f_k = flow(X, motion.keyframe_twist)
    f_q = flow(Y, motion.query_twist(T)) * Y[2]
    carried = R[:, :2] @ f_q  # (3, N) metres a second along the query's image plane
    f_q_in_keyframe = (carried[:2] - pairs.keyframe * carried[2]) / X[2]
    return np.asarray(f_k * rows.keyframe - f_q_in_keyframe * rows.query)


def shift_by_velocity(
    pairs: RayPairs, depth_m: FloatArray, rows: ImageRows, motion: ImageMotion
) -> FloatArray:
    """(6, 2, N) the same by one sigma of each component of the velocity; of both images together.

    Errors of the query's velocity move the matches as those of the keyframe's do.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    if not known.any():
        return np.zeros((6, 2, len(pairs)))
    X = homogeneous(pairs.keyframe) * np.where(known, depth_m, np.median(depth_m[known]))
    both = np.sqrt(2.0) * np.diag(motion.twist_sigma)
    return np.stack([flow(X, one) * rows.keyframe for one in both])


def beside_pose(shift: FloatArray, pairs: RayPairs, depth_m: FloatArray) -> FloatArray:
    """What no pose absorbs of shifts (K, 2, N) of the matches in the keyframe.

    depth_m (N,) in the keyframe; where it is unknown, the median stands in.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    if not known.any():
        return np.zeros_like(shift)
    X = homogeneous(pairs.keyframe) * np.where(known, depth_m, np.median(depth_m[known]))
    by_pose = np.stack([flow(X, one).ravel() for one in np.eye(6)], axis=1)  # (2 N, 6)
    flat = shift.reshape(len(shift), -1).T
    taken = np.linalg.lstsq(by_pose, flat, rcond=None)[0]
    return np.asarray((flat - by_pose @ taken).T.reshape(shift.shape))


def flow(points: FloatArray, twist: FloatArray) -> FloatArray:
    """(2, N) normalised units a second: of points (3, N) before a camera with this twist (6,)."""
    moved = -twist[:3, None] - se3.skew(twist[3:]) @ points
    with np.errstate(divide="ignore", invalid="ignore"):
        px_s = (moved[:2] - points[:2] / points[2] * moved[2]) / points[2]
    return np.asarray(np.nan_to_num(px_s))


def unseen_readout(fit: Fit, query: FloatArray, shift: FloatArray) -> ShutterHint | None:
    """The read-out time that the residuals still show, beside the pose; None where they do not.

    shift (2, N): by `shift_by_readout`. One Gauss-Newton step of the normal equations that have
    the read-out as one more unknown.
    """
    by_pose, by_both, by_itself, own = np.zeros(7), np.zeros(7), 0.0, 0.0
    for part in fit.parts:
        column = np.einsum("krn,kn->rn", part.by_match, shift[:, part.index])
        Jw, weighted = part.J * part.weights, column * part.weights
        by_pose += np.einsum("irn,rn->i", Jw, part.error)
        by_both += np.einsum("irn,rn->i", Jw, column)
        by_itself += float((weighted * column).sum())
        own += float((weighted * part.error).sum())
    A = fit.information[np.ix_(fit.free, fit.free)]
    taken = np.linalg.solve(A, by_both[fit.free])
    information = by_itself - float(by_both[fit.free] @ taken)
    if not information > 0.0:
        return None
    estimate_s = (own - float(by_pose[fit.free] @ taken)) / information
    return ShutterHint(estimate_s, information / inflation(fit, query))
