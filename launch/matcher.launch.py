"""The matcher node, configured and activated: camera topics in, poses and correspondences out.

ros2 launch l2m_ros matcher.launch.py image:=/camera/image_raw depth:=/camera/depth
"""

import os
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from l2m_ros.node.fastdds import PROFILE_VARIABLES
from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]

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
        description="right image of a stereo pair, raw or rectified (with the camera_info beside "
        "it); used while somebody publishes it",
    ),
    DeclareLaunchArgument(
        "odom",
        default_value="odom",
        description="odometry of the base: gives the metres where there is no depth; used while "
        "somebody publishes it",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="raw, or compressed: <image>/compressed; empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "depth_transport",
        default_value="",
        choices=["", "raw", "compressedDepth"],
        description="raw, or compressedDepth: <depth>/compressedDepth; empty = as in params_file",
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
        choices=["", "auto", "tensorrt", "onnxruntime", "openvino", "torch"],
        description="what runs the network; empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "queue",
        default_value="",
        choices=["", "latest", "all"],
        description="latest = real time, all = drop nothing (replays); empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "map", default_value="", description="a map: a .l2m file or postgresql://... (map.path)"
    ),
    DeclareLaunchArgument(
        "map_mode",
        default_value="",
        choices=["", "off", "localize", "build"],
        description="localize: find the robot in the map; build: make or extend it; empty = as in "
        "params_file",
    ),
    DeclareLaunchArgument(
        "publish_map_tf",
        default_value="",
        choices=["", "true", "false"],
        description="publish map -> odom to /tf; empty = as in params_file",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "matcher.yaml"),
        description="parameters: a file, or one of config/ by its name: jetson_orin.yaml, "
        "laptop_cpu.yaml, desktop_gpu.yaml, kinect.yaml, simulator.yaml",
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
        description="start the node again 2 s after it ended",
    ),
    DeclareLaunchArgument(
        "on_exit",
        default_value="nothing",
        choices=["nothing", "shutdown"],
        description="when the node ends: nothing, or shut down the whole launch",
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
        parameters=[_params_file(value["params_file"]), _overrides(value)],
        remappings=_remappings(value),
        arguments=["--ros-args", "--log-level", value["log_level"]],
        respawn=value["respawn"] == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    actions = [*_environment(value), *_handlers(value, node), node]
    if value["rviz"] == "true":
        actions += _rviz(value)
    return actions


def _overrides(value):
    """What the arguments say beats the file."""
    given = {
        name: value[name]
        for name in ("image_transport", "depth_transport", "model", "backend", "queue")
        if value[name]
    }
    given |= {
        parameter: value[name]
        for name, parameter in (("map", "map.path"), ("map_mode", "map.mode"))
        if value[name]
    }
    if value["publish_map_tf"]:
        given["map.publish_tf"] = value["publish_map_tf"] == "true"
    switches = {name: value[name] == "true" for name in ("use_sim_time", "autostart")}
    return {**given, **switches}


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
    if value["large_images"] != "true" or any(name in os.environ for name in PROFILE_VARIABLES):
        return []
    profile = str(SHARE / "config" / "fastdds_large_images.xml")
    return [SetEnvironmentVariable(name, profile) for name in PROFILE_VARIABLES]


def _handlers(value, node):
    """The node configures and activates itself (its parameter autostart), at each start: launch's
    own requests wait for ever where a process died before it answered."""
    if value["on_exit"] != "shutdown":
        return []
    end = OpaqueFunction(function=_end_unless_ended)
    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=[end]))]


def _end_unless_ended(context):
    """A second Shutdown would be refused by a launch that is ending, which then exits with 1."""
    if context.is_shutdown:
        return []
    return [EmitEvent(event=Shutdown(reason="the matcher has ended"))]


def _params_file(given):
    """A file, or the name of one in this package's config folder."""
    for path in (Path(given), SHARE / "config" / given):
        if path.is_file():
            return str(path)
    known = ", ".join(sorted(path.name for path in (SHARE / "config").glob("*.yaml")))
    raise RuntimeError(f"params_file: there is no {given}, nor in {SHARE / 'config'} ({known})")


def _rviz(value):
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("rviz2")
    except (PackageNotFoundError, OSError):
        return [LogInfo(msg="rviz:=true, but there is no rviz2: apt install ros-$ROS_DISTRO-rviz2")]
    view = "map.rviz" if value["map_mode"] in ("localize", "build") else "l2m.rviz"
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="l2m_rviz",
        namespace=value["namespace"],
        arguments=["-d", str(SHARE / "config" / "rviz" / view)],
        parameters=[{"use_sim_time": value["use_sim_time"] == "true"}],
        output="log",
    )
    return [rviz]
