"""The matcher node, configured and activated: camera topics in, poses and correspondences out.

ros2 launch l2m_ros matcher.launch.py image:=/camera/image_raw depth:=/camera/depth
"""

import os
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events import Shutdown, matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

ARGUMENTS = [
    DeclareLaunchArgument("image", default_value="image", description="image topic"),
    DeclareLaunchArgument(
        "camera_info",
        default_value="",
        description="its camera_info topic; empty = the one beside the image",
    ),
    DeclareLaunchArgument(
        "depth",
        default_value="depth",
        description="depth topic, registered to the image; used while somebody publishes it",
    ),
    DeclareLaunchArgument(
        "right",
        default_value="right/image",
        description="right image of a rectified stereo pair (its camera_info lies beside it); "
        "used while somebody publishes it",
    ),
    DeclareLaunchArgument(
        "odom",
        default_value="odom",
        description="odometry of the base, the scale of a single camera; used while somebody "
        "publishes it",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="raw, or compressed: <image>/compressed; empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="matcher: lite, l2m, sift, orb, ... or an exported model's folder; empty = as "
        "in params_file",
    ),
    DeclareLaunchArgument(
        "backend",
        default_value="",
        choices=["", "auto", "tensorrt", "onnxruntime", "torch"],
        description="what runs the network; empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "queue",
        default_value="",
        choices=["", "latest", "all"],
        description="latest = real time, all = drop nothing (replays); empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "matcher.yaml"),
        description="parameters; presets: jetson_orin.yaml, laptop_cpu.yaml, desktop_gpu.yaml in "
        "share/l2m_ros/config",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="time from /clock (simulation, bags)",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="configure and activate the node; false where a life-cycle manager does it",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="the node's log level",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="namespace of the node and its topics"
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="show images, matches, points and poses in RViz",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=["true", "false"],
        description="start the node again 2 s after it died",
    ),
    DeclareLaunchArgument(
        "on_exit",
        default_value="nothing",
        choices=["nothing", "shutdown"],
        description="what the end of the node ends: nothing, or the whole launch",
    ),
    DeclareLaunchArgument(
        "large_images",
        default_value="true",
        choices=["true", "false"],
        description="give Fast DDS shared memory for large images (config/"
        "fastdds_large_images.xml); start the camera driver with the same environment",
    ),
]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])


def _actions(context):
    value = {arg.name: LaunchConfiguration(arg.name).perform(context) for arg in ARGUMENTS}
    node = LifecycleNode(
        package="l2m_ros",
        executable="matcher",
        name="l2m",
        namespace=value["namespace"],
        parameters=[value["params_file"], _overrides(value)],
        remappings=_remappings(value),
        arguments=["--ros-args", "--log-level", value["log_level"]],
        respawn=value["respawn"] == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    actions = [*_environment(value), *_handlers(value, node), node]
    if value["rviz"] == "true":
        actions.append(_rviz(value))
    return actions


def _overrides(value):
    """What the arguments say beats the file; the launch file itself drives the life cycle."""
    given = {
        name: value[name]
        for name in ("image_transport", "model", "backend", "queue")
        if value[name]
    }
    return {**given, "use_sim_time": value["use_sim_time"] == "true", "autostart": False}


def _remappings(value):
    beside = {name: _info_beside(value[name]) for name in ("image", "right")}
    return [
        ("image", value["image"]),
        ("camera_info", value["camera_info"] or beside["image"]),
        ("depth", value["depth"]),
        ("right/image", value["right"]),
        ("right/camera_info", beside["right"]),
        ("odom", value["odom"]),
    ]


def _info_beside(topic):
    """/camera/image_raw -> /camera/camera_info, as image_transport finds it."""
    return "/".join([*topic.split("/")[:-1], "camera_info"])


def _environment(value):
    """A profile that the user has chosen is left alone."""
    if value["large_images"] != "true" or any(name in os.environ for name in PROFILES):
        return []
    profile = str(SHARE / "config" / "fastdds_large_images.xml")
    return [SetEnvironmentVariable(name, profile) for name in PROFILES]


def _handlers(value, node):
    handlers = []
    if value["autostart"] == "true":
        # At each start, so that a respawned node is configured as well.
        handlers += [
            OnProcessStart(
                target_action=node, on_start=[_change(node, Transition.TRANSITION_CONFIGURE)]
            ),
            OnStateTransition(
                target_lifecycle_node=node,
                start_state="configuring",
                goal_state="inactive",
                entities=[_change(node, Transition.TRANSITION_ACTIVATE)],
            ),
        ]
    if value["on_exit"] == "shutdown":
        end = EmitEvent(event=Shutdown(reason="the matcher has ended"))
        handlers.append(OnProcessExit(target_action=node, on_exit=[end]))
    return [RegisterEventHandler(handler) for handler in handlers]


def _change(node, transition):
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    return EmitEvent(event=event)


def _rviz(value):
    return Node(
        package="rviz2",
        executable="rviz2",
        name="l2m_rviz",
        namespace=value["namespace"],
        arguments=["-d", str(SHARE / "config" / "rviz" / "l2m.rviz")],
        parameters=[{"use_sim_time": value["use_sim_time"] == "true"}],
        output="log",
    )
