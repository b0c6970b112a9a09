"""Where is the robot in a map? ~/map_pose and map -> odom on /tf, as AMCL gives them to Nav2.

ros2 launch l2m_ros localization.launch.py map:=office.l2m image:=/camera/image_raw \
    depth:=/camera/depth
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
MODE = "localize"


def generate_launch_description():
    # Every argument of matcher.launch.py may be given here as well.
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "map", description="a .l2m file, or the postgresql:// address of a fleet"
            ),
            DeclareLaunchArgument(
                "publish_map_tf",
                default_value="true",
                choices=["true", "false"],
                description="publish map -> odom to /tf",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE / "matcher.launch.py")),
                launch_arguments={
                    "map": LaunchConfiguration("map"),
                    "map_mode": MODE,
                    "publish_map_tf": LaunchConfiguration("publish_map_tf"),
                }.items(),
            ),
        ]
    )
