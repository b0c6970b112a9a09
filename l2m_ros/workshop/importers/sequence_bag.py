"""Writes an imported sequence as a ROS 2 bag, with the topics of `l2m simulate`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from l2m_ros.bags.writer import open_bag_writer
from l2m_ros.workshop.importers.dataset import Dataset, Shot

WORLD, OPTICAL, RIGHT = "world", "camera_optical_frame", "camera_right_optical_frame"


def write_bag(out: Path, dataset: Dataset, shots: Iterable[Shot], *, force: bool = False) -> int:
    """Image, camera_info, depth, right image and the true pose; how many frames."""
    about = {"source": dataset.published_at, "licence": dataset.licence}
    count = 0
    with open_bag_writer(out, force=force, custom_data=about) as writer:
        make = writer.messages
        for shot in shots:
            frame, stamp_ns = shot.frame, shot.frame.stamp_ns
            head = make.header(stamp_ns, OPTICAL)
            messages = {
                "/camera/camera_info": make.camera_info(head, frame.camera),
                "/camera/image_raw": make.image(head, frame.rgb),
            }
            if frame.depth is not None:
                late = make.header(frame.depth_stamp_ns, OPTICAL)
                messages["/camera/depth"] = make.depth(late, frame.depth, "16UC1")
            if frame.right_rgb is not None and frame.right_camera is not None:
                right = make.header(stamp_ns, RIGHT)
                baseline_m = -float(np.asarray(frame.right_from_camera)[0, 3])
                info = make.camera_info(right, frame.right_camera, baseline_m)
                messages["/camera/right/camera_info"] = info
                messages["/camera/right/image_raw"] = make.image(right, frame.right_rgb)
            if shot.world_from_camera is not None:
                pose = make.pose(shot.world_from_camera)
                header = make.header(stamp_ns, WORLD)
                truth = make.new("geometry_msgs/PoseStamped", header=header, pose=pose)
                messages["/ground_truth/pose"] = truth
            for topic, message in messages.items():
                writer.write(topic, stamp_ns, message)
            count += 1
    return count
