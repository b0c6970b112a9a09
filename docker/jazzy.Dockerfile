# docker build -f docker/jazzy.Dockerfile -t l2m_ros . && docker run --rm --net=host --ipc=host l2m_ros
FROM ros:jazzy-ros-base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions are not pinned: ROS's archive keeps only the newest.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends \
        python3-venv python3-scipy python3-opencv python3-yaml \
        ros-jazzy-cv-bridge ros-jazzy-tf2-ros-py ros-jazzy-rosbag2 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ws
COPY . src/l2m_ros
RUN . /opt/ros/jazzy/setup.sh && . src/l2m_ros/docker/workspace.sh \
    && colcon build --packages-select l2m_ros
# Not root: a node needs no rights.
RUN useradd --create-home --uid 1001 l2m
USER 1001
ENV PATH=/ws/.venv/bin:$PATH
CMD ["bash", "-c", ". install/setup.bash && exec ros2 launch l2m_ros matcher.launch.py"]
