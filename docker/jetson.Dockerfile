# A Jetson Orin with JetPack 6 (L4T R36); a starting point, not built where it was written.
# docker build -f docker/jetson.Dockerfile -t l2m_ros . ; docker run --runtime nvidia --net=host l2m_ros
# TensorRT and its Python module come with the image; engines are built on the device at first start
# and kept in ~/.cache/l2m_ros: mount a volume there.
FROM dustynv/ros:humble-desktop-l4t-r36.2.0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Versions are not pinned: ROS's archive keeps only the newest.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /ws
COPY . src/l2m_ros
RUN . /opt/ros/humble/install/setup.sh && . src/l2m_ros/docker/workspace.sh \
    && pip install --no-cache-dir "cuda-python>=12" \
    && colcon build --packages-select l2m_ros
RUN useradd --create-home --uid 1001 --groups video l2m
USER 1001
ENV PATH=/ws/.venv/bin:$PATH
CMD ["bash", "-c", ". install/setup.bash && exec ros2 launch l2m_ros matcher.launch.py params_file:=jetson_orin.yaml"]
