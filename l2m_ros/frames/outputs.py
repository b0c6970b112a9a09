"""The node's outputs: pure functions from a tracked frame to a message (None: nothing to send).

A pose is published only if it is metric and passed the gates (`TrackResult.pose`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from l2m_ros.frames.messages import (
    CLOUD_FIELDS,
    UNKNOWN_VARIANCE,
    cloud_message,
    header,
    image_message,
    odometry_message,
    pose_message,
    status_message,
)
from l2m_ros.frames.picture import Caption, tracking_picture
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.tracking import chain
from l2m_ros.tracking.chain import ChainEvent
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.place import Twist
from l2m_ros.tracking.result import TrackResult
from l2m_ros.tracking.scale_evidence import triangulate
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, FloatArray, MetricPose

OK, WARN = 0, 1  # diagnostic_msgs/DiagnosticStatus


@dataclass(frozen=True)
class FrameNames:
    """TF frames of what is published."""

    odom: str = "odom"
    base: str = "base_link"
    keyframe: str = "l2m_keyframe"
    map: str = "map"


@dataclass(frozen=True)
class FrameResult:
    """A tracked frame, and what else its messages need."""

    result: TrackResult
    names: FrameNames = FrameNames()
    base_from_camera: FloatArray | None = None  # None: unknown, so there is no odometry
    rate_hz: float = 0.0

    @property
    def stamp_ns(self) -> int:
        return self.result.frame.stamp_ns

    @property
    def frame_id(self) -> str:
        return self.result.frame.frame_id

    @cached_property
    def camera_in_odom(self) -> tuple[FloatArray, FloatArray] | None:
        """(odom_from_camera, covariance): REP-105's odom is the base where the chain began."""
        pose, covariance = self.result.odom_from_camera, self.result.odom_covariance
        base = self.base_from_camera
        if self.result.pose is None or pose is None or covariance is None or base is None:
            return None
        return chain.compose(base, np.zeros((6, 6)), pose, covariance)

    @cached_property
    def base_in_odom(self) -> tuple[FloatArray, FloatArray] | None:
        """(odom_from_base, covariance)."""
        base = self.base_from_camera
        if self.camera_in_odom is None or base is None:
            return None
        return chain.compose(*self.camera_in_odom, se3.inverse(base), np.zeros((6, 6)))

    @property
    def base_twist(self) -> Twist | None:
        twist, base = self.result.twist, self.base_from_camera
        return None if twist is None or base is None else twist.seen_from(base)

    def transforms(self) -> list[tuple[FloatArray, str, str]]:
        """(parent_from_child, parent, child) for /tf: the base and the keyframe in odom."""
        moved, base = self.base_in_odom, self.base_from_camera
        kept, names = self.result.keyframe, self.names
        if moved is None or base is None or kept is None:
            return []
        odom_from_base = moved[0]
        odom_from_keyframe = base @ kept.odom_from_keyframe
        return [
            (odom_from_base, names.odom, names.base),
            (odom_from_keyframe, names.odom, names.keyframe),
        ]


def pose(tracked: FrameResult) -> Any:
    """geometry_msgs/PoseWithCovarianceStamped: the camera in the keyframe."""
    found = tracked.result.pose
    if found is None:
        return None
    head = header(tracked.stamp_ns, tracked.names.keyframe)
    return pose_message(found.keyframe_from_camera, found.covariance, head)


def relative(tracked: FrameResult) -> Any:
    """nav_msgs/Odometry: the same with the keyframe's own name, an edge for a pose graph."""
    found, keyframe = tracked.result.pose, tracked.result.keyframe
    if found is None or keyframe is None:
        return None
    head = header(tracked.stamp_ns, keyframe_name(tracked, keyframe))
    return odometry_message(found.keyframe_from_camera, found.covariance, head, tracked.frame_id)


def edges(tracked: FrameResult) -> tuple[Any, ...]:
    """The edge that this frame gives a graph of poses, after the one that is missing before it."""
    return missing_edge(tracked), relative(tracked)


def missing_edge(tracked: FrameResult) -> Any:
    """nav_msgs/Odometry: two keyframes that no pose connects, of a variance that says so."""
    event = tracked.result.chain_event
    if event is None or event.before is None:
        return None
    head = header(tracked.stamp_ns, f"{tracked.names.keyframe}/{event.before}")
    unknown = UNKNOWN_VARIANCE * np.eye(6)
    return odometry_message(np.eye(4), unknown, head, f"{tracked.names.keyframe}/{event.keyframe}")


def keyframe_name(tracked: FrameResult, keyframe: Keyframe) -> str:
    return f"{tracked.names.keyframe}/{keyframe.id}"


def odometry(tracked: FrameResult) -> Any:
    """nav_msgs/Odometry: keyframes chained, the base in odom."""
    if tracked.base_in_odom is None:
        return None
    head = header(tracked.stamp_ns, tracked.names.odom)
    return odometry_message(*tracked.base_in_odom, head, tracked.names.base, tracked.base_twist)


def chain_status(tracked: FrameResult) -> Any:
    """diagnostic_msgs/DiagnosticStatus: which chain odom goes along, and what broke before it."""
    event = tracked.result.chain_event
    if event is None:
        return None
    level, words, values = chain_words(event, tracked.names.keyframe)
    return status_message(level, "l2m: chain", words, values)


def chain_words(event: ChainEvent, keyframe: str) -> tuple[int, str, dict[str, str]]:
    """(level, words, values) of a chain's beginning, its end or its being found again."""
    values = {
        "chain": str(event.chain),
        "keyframe": f"{keyframe}/{event.keyframe}",
        "stamp_ns": str(event.stamp_ns),
    }
    words = f"chain {event.chain} at {values['keyframe']}: {event.why}"
    if event.before is None:
        return (WARN if event.anew else OK), words, values
    values["missing_edge"] = f"{keyframe}/{event.before} -> {values['keyframe']}"
    values["before_chain"] = str(event.before_chain)
    values["bridged_by"] = event.bridged_by
    values["bridge_sigma_m"] = f"{event.sigma_m:.3f}"
    values["bridge_sigma_rad"] = f"{event.sigma_rad:.3f}"
    words += (
        f"; no pose connects it with {keyframe}/{event.before} of chain {event.before_chain}: "
        f"odom goes on by {event.bridged_by}, +-{event.sigma_m:.2f} m"
    )
    return WARN, words, values


def correspondences(tracked: FrameResult) -> Any:
    """sensor_msgs/PointCloud2 in the keyframe's frame, CLOUD_FIELDS per point."""
    pairs, keyframe = tracked.result.correspondences, tracked.result.keyframe
    if pairs is None or keyframe is None:
        return None
    columns = np.empty((len(pairs), len(CLOUD_FIELDS)), np.float32)
    columns[:, :3] = points_m(pairs, keyframe, tracked)
    columns[:, 3:5], columns[:, 5:7] = pairs.query_px, pairs.keyframe_px
    columns[:, 7] = pairs.confidence
    inliers = getattr(tracked.result.outcome, "inliers", None)
    columns[:, 8] = 0.0 if inliers is None else inliers
    return cloud_message(columns, header(tracked.stamp_ns, tracked.names.keyframe))


def points_m(pairs: Correspondences, keyframe: Keyframe, tracked: FrameResult) -> FloatArray:
    """(N, 3) in the keyframe's frame by its depth, else by triangulation; NaN where unknown."""
    camera = keyframe.frame.camera
    depth = keyframe.seen_depth
    if depth is not None:
        finite = np.nan_to_num(pairs.keyframe_px, nan=0.0)
        u, v = np.rint(finite).astype(int).T
        z = depth[v.clip(0, camera.height - 1), u.clip(0, camera.width - 1)]
    elif isinstance(tracked.result.outcome, MetricPose):
        camera_from_keyframe = se3.inverse(tracked.result.outcome.keyframe_from_camera)
        z = triangulate(
            pairs.keyframe_px,
            pairs.query_px,
            camera,
            tracked.result.frame.camera,
            camera_from_keyframe,
        )
    else:
        return np.full((len(pairs), 3), np.nan)
    return unproject(camera, pairs.keyframe_px) * z[:, None]


def warp(tracked: FrameResult) -> Any:
    """sensor_msgs/Image 32FC2: pixel of the keyframe per cell of the frame; NaN where invalid."""
    match = tracked.result.match
    if not isinstance(match, DenseMatch):
        return None
    return image_message(match.warp_px, "32FC2", header(tracked.stamp_ns, tracked.frame_id))


def certainty(tracked: FrameResult) -> Any:
    """sensor_msgs/Image 32FC1 in [0, 1], on the grid of ~/warp; NaN where the warp is."""
    match = tracked.result.match
    if not isinstance(match, DenseMatch):
        return None
    undefined = np.isnan(match.warp_px[..., 0])
    values = np.where(undefined, np.float32(np.nan), match.certainty)
    return image_message(values, "32FC1", header(tracked.stamp_ns, tracked.frame_id))


def matches_picture(tracked: FrameResult) -> ByteArray | None:
    """The frame beside its keyframe with the matches drawn, or None."""
    result = tracked.result
    if result.keyframe is None:
        return None
    found = result.pose
    caption = Caption(
        state=result.state.value,
        detail=result.reason,
        rate_hz=tracked.rate_hz,
        scale=found.scale_source if found else "no pose",
    )
    return tracking_picture(
        result.frame.rgb,
        result.keyframe.frame.rgb,
        result.correspondences or Correspondences.empty(),
        getattr(result.outcome, "inliers", None),
        caption,
    )


def matches(tracked: FrameResult) -> Any:
    """sensor_msgs/Image rgb8: the frame beside its keyframe with the matches drawn."""
    picture = matches_picture(tracked)
    if picture is None:
        return None
    return image_message(picture, "rgb8", header(tracked.stamp_ns, tracked.frame_id))


def keyframe(tracked: FrameResult) -> Any:
    """sensor_msgs/Image rgb8 of the keyframe; its frame_id holds the keyframe's number."""
    kept = tracked.result.keyframe
    if kept is None:
        return None
    head = header(kept.frame.stamp_ns, keyframe_name(tracked, kept))
    return image_message(kept.frame.rgb, "rgb8", head)


@dataclass(frozen=True)
class Output:
    """A topic below ~: its type, what makes its message, and how it is offered."""

    type: str
    make: Callable[[FrameResult], Any]  # a message, None, or a tuple of those
    depth: int = 10
    latched: bool = False  # transient local; once per keyframe, or whenever `make` has something
    per_keyframe: bool = False
    dense: bool = False  # there is nothing to publish with a sparse matcher


OUTPUTS: dict[str, Output] = {
    "pose": Output("geometry_msgs/PoseWithCovarianceStamped", pose),
    "relative": Output("nav_msgs/Odometry", edges),
    "odometry": Output("nav_msgs/Odometry", odometry),
    "chain": Output("diagnostic_msgs/DiagnosticStatus", chain_status, depth=1, latched=True),
    "correspondences": Output("sensor_msgs/PointCloud2", correspondences, depth=5),
    "warp": Output("sensor_msgs/Image", warp, depth=2, dense=True),
    "certainty": Output("sensor_msgs/Image", certainty, depth=2, dense=True),
    "matches": Output("sensor_msgs/Image", matches, depth=2),
    "keyframe": Output("sensor_msgs/Image", keyframe, depth=1, latched=True, per_keyframe=True),
}
