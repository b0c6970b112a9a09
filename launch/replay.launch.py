"""A bag through the matcher, its poses recorded: nothing is dropped, time is the bag's.

ros2 launch l2m_ros replay.launch.py bag:=my_bag image:=/camera/image_raw depth:=/camera/depth
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
OUTPUTS = ("pose", "relative", "odometry", "keyframe")
PLAYER = "/rosbag2_player"  # the node's name of `ros2 bag play`
LAST_FRAMES_S = 5.0  # the recorder goes on so long after the bag's last message

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="the bag to play (a folder of ros2 bag)"),
    DeclareLaunchArgument(
        "poses",
        default_value="poses",
        description="the bag (a new folder) to record poses into",
    ),
    DeclareLaunchArgument(
        "rate",
        default_value="1.0",
        description="speed of the player; lower it where /diagnostics says that frames wait",
    ),
]
# What a replay says of the arguments of matcher.launch.py; the others are the user's.
FIXED = {"use_sim_time": "true", "queue": "all", "autostart": "true", "on_exit": "shutdown"}


def generate_launch_description():
    """The arguments of matcher.launch.py are taken as well: `ros2 launch -s` lists them."""
    matcher = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "matcher.launch.py")),
        launch_arguments=FIXED.items(),
    )
    return LaunchDescription([*ARGUMENTS, matcher, OpaqueFunction(function=_actions)])


def _actions(context):
    inputs = ("image", "camera_info", "depth", "right", "odom")
    names = [*(argument.name for argument in ARGUMENTS), "namespace", *inputs]
    value = {name: LaunchConfiguration(name).perform(context) for name in names}
    node = "/".join(["", *filter(None, value["namespace"].split("/")), "l2m"])
    player = ExecuteProcess(
        cmd=["ros2", "bag", "play", value["bag"], "--clock", "100", "--rate", value["rate"],
             "--start-paused"],
        name="player",
        output="screen",
    )  # fmt: skip
    topics = [f"{node}/{name}" for name in OUTPUTS]
    recorder = ExecuteProcess(
        cmd=["ros2", "bag", "record", "-o", value["poses"], *topics, "/diagnostics"],
        name="recorder",
        output="log",
    )
    # The first message must not go out before the matcher hears it.
    listening = Node(
        package="l2m_ros",
        executable="wait_until_listening",
        name="l2m_wait",
        namespace=value["namespace"],  # so that it finds relative topics as the matcher does
        arguments=["--node", node, *_topics(value)],
        output="screen",
    )
    resume = ExecuteProcess(
        cmd=["ros2", "service", "call", f"{PLAYER}/resume", "rosbag2_interfaces/srv/Resume"],
        name="resume",
        output="log",
    )
    end = OpaqueFunction(function=_end_unless_ended)
    when_listening = OnProcessExit(target_action=listening, on_exit=[resume])
    when_played = OnProcessExit(
        target_action=player, on_exit=[TimerAction(period=LAST_FRAMES_S, actions=[end])]
    )
    handlers = [RegisterEventHandler(one) for one in (when_listening, when_played)]
    return [*handlers, recorder, player, listening]


def _topics(value):
    """The topics that the matcher subscribes to, as far as the player publishes them."""
    image, right = value["image"], value["right"]
    info = value["camera_info"] or _info_beside(image)
    return [image, info, value["depth"], right, _info_beside(right), value["odom"]]


def _info_beside(topic):
    return "/".join([*topic.split("/")[:-1], "camera_info"])


def _end_unless_ended(context):
    """A second Shutdown would be refused by a launch that is ending, which then exits with 1."""
    if context.is_shutdown:
        return []
    return [EmitEvent(event=Shutdown(reason="the bag has been played"))]
