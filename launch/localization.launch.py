"""Where is the robot in a map? ~/map_pose and map -> odom on /tf, as AMCL gives them to Nav2.

ros2 launch l2m_ros localization.launch.py map:=office.l2m image:=/camera/image_raw \
    depth:=/camera/depth
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent


def generate_launch_description():
    # Every argument of map.launch.py and matcher.launch.py may be given here as well.
    with_map = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "map.launch.py")),
        launch_arguments={"map_mode": "localize"}.items(),
    )
    return LaunchDescription([with_map])
