"""Messages about a map: keyframes, coloured points, a path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from l2m_ros.frames.messages import fill_data, message_class, plain_pose
from l2m_ros.types import ByteArray, FloatArray

FLOAT32 = 7  # of sensor_msgs/PointField
STEP = 16  # bytes a point: x, y, z, rgb


def pose_array(poses: Sequence[FloatArray], head: Any) -> Any:
    """geometry_msgs/PoseArray."""
    return message_class("geometry_msgs/PoseArray")(
        header=head, poses=[plain_pose(T) for T in poses]
    )


def stop(pose: FloatArray, head: Any) -> Any:
    """geometry_msgs/PoseStamped: one of a path."""
    return message_class("geometry_msgs/PoseStamped")(header=head, pose=plain_pose(pose))


def path(stops: Iterable[Any], head: Any) -> Any:
    """nav_msgs/Path of what `stop` made."""
    return message_class("nav_msgs/Path")(header=head, poses=list(stops))


def coloured_cloud(xyz: FloatArray, rgb: ByteArray, head: Any) -> Any:
    """sensor_msgs/PointCloud2 of x, y, z and rgb packed into a float, as RViz reads it."""
    PointCloud2 = message_class("sensor_msgs/PointCloud2")
    PointField = message_class("sensor_msgs/PointField")
    table = np.zeros(len(xyz), [("xyz", "<f4", 3), ("bgr0", "u1", 4)])
    table["xyz"], table["bgr0"][:, :3] = xyz, rgb[:, ::-1]
    fields = [
        PointField(name=name, offset=4 * i, datatype=FLOAT32, count=1)
        for i, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message = PointCloud2(
        header=head,
        height=1,
        width=len(xyz),
        fields=fields,
        is_bigendian=False,
        point_step=STEP,
        row_step=STEP * len(xyz),
        is_dense=True,
    )
    fill_data(message, table)
    return message
