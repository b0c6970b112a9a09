"""The matcher node with a map; mapping.launch.py and localization.launch.py name the map_mode.

ros2 launch l2m_ros map.launch.py map:=office.l2m map_mode:=localize image:=/camera/image_raw
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
ARGUMENTS = [
    DeclareLaunchArgument(
        "map", description="a .l2m file, or the postgresql:// address of a fleet"
    ),
    DeclareLaunchArgument(
        "map_mode",
        choices=["localize", "build"],
        description="find the camera in the map, or add what it sees to it",
    ),
    DeclareLaunchArgument(
        "publish_map_tf",
        default_value="true",
        choices=["true", "false"],
        description="publish map -> odom to /tf",
    ),
]


def generate_launch_description():
    # Every argument of matcher.launch.py may be given here as well.
    matcher = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "matcher.launch.py")),
        launch_arguments={a.name: LaunchConfiguration(a.name) for a in ARGUMENTS}.items(),
    )
    return LaunchDescription([*ARGUMENTS, matcher])
