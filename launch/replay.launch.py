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
from launch_ros.event_handlers import OnStateTransition

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
OUTPUTS = ("pose", "relative", "odometry", "keyframe")
DISCOVERY_S = "2.0"  # the player waits so long before its first message
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
    names = [*(argument.name for argument in ARGUMENTS), "namespace"]
    value = {name: LaunchConfiguration(name).perform(context) for name in names}
    player = ExecuteProcess(
        cmd=["ros2", "bag", "play", value["bag"], "--clock", "100", "--rate", value["rate"],
             "--delay", DISCOVERY_S],
        name="player",
        output="screen",
    )  # fmt: skip
    node = f"{value['namespace'].rstrip('/')}/l2m" if value["namespace"] else "/l2m"
    topics = [f"{node}/{name}" for name in OUTPUTS]
    recorder = ExecuteProcess(
        cmd=["ros2", "bag", "record", "-o", value["poses"], *topics, "/diagnostics"],
        name="recorder",
        output="log",
    )
    end = EmitEvent(event=Shutdown(reason="the bag has been played"))
    when_active = OnStateTransition(goal_state="active", entities=[player])
    when_played = OnProcessExit(
        target_action=player, on_exit=[TimerAction(period=LAST_FRAMES_S, actions=[end])]
    )
    return [recorder, RegisterEventHandler(when_active), RegisterEventHandler(when_played)]
