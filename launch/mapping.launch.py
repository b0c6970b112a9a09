"""Build a map while driving, or extend one: keyframes, loops, ~/map_points; map -> odom on /tf.

ros2 launch l2m_ros mapping.launch.py map:=office.l2m image:=/camera/image_raw \
    depth:=/camera/depth
ros2 service call /l2m/save_map std_srvs/srv/Trigger
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
        launch_arguments={"map_mode": "build"}.items(),
    )
    return LaunchDescription([with_map])
