# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# ROS 2 Jazzy + TensorRT for a desktop GPU, and for JetPack 7 (docker/README.md).
# NOT RUN by its authors: there was neither docker nor a GPU. Base and tag are those that others
# report with Ubuntu 24.04, CUDA 13 and ROS 2 Jazzy (docker/README.md).
#
#   docker build -f docker/desktop.Dockerfile -t fastdrive .
#   docker run --rm -it --gpus all --net host -v ~/bundles:/bundles fastdrive
ARG BASE=nvcr.io/nvidia/tensorrt:25.08-py3
FROM ${BASE}
ARG ROS_DISTRO=jazzy
ENV DEBIAN_FRONTEND=noninteractive ROS_DISTRO=${ROS_DISTRO} PIP_BREAK_SYSTEM_PACKAGES=1
SHELL ["/bin/bash", "-c"]

# ROS's apt repository as docs.ros.org says it: a package that brings key and source.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && \
    VERSION=$(curl -fsS https://api.github.com/repos/ros-infrastructure/ros-apt-source/releases/latest \
        | grep -F tag_name | cut -d'"' -f4) && \
    CODENAME=$(. /etc/os-release && echo "${VERSION_CODENAME}") && \
    curl -fsSL -o /tmp/ros.deb "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${VERSION}/ros2-apt-source_${VERSION}.${CODENAME}_all.deb" && \
    apt-get install -y /tmp/ros.deb && apt-get update && \
    apt-get install -y --no-install-recommends \
        ros-${ROS_DISTRO}-ros-base python3-colcon-common-extensions python3-pip && \
    rm -rf /var/lib/apt/lists/* /tmp/ros.deb

# What package.xml names for rosdep, from pip; cuda-python in the major version of the image.
ARG CUDA_PYTHON=cuda-python>=13,<14
RUN python3 -m pip install --no-cache-dir "filelock>=3.12" "onnx>=1.15" "onnxruntime>=1.17" \
        "opencv-python-headless>=4.6" "rich>=13" "rosbags>=0.11" "simplejpeg>=1.7" pyyaml \
        "${CUDA_PYTHON}"

WORKDIR /ws
COPY . src/fastdrive_ros
RUN source /opt/ros/${ROS_DISTRO}/setup.bash && colcon build --packages-select fastdrive_ros && \
    echo "source /ws/install/setup.bash" >> /root/.bashrc && \
    # Fails here rather than in the vehicle when the image's Python has no TensorRT or no ROS.
    source install/setup.bash && python3 -c "import rclpy, tensorrt; print(tensorrt.__version__)"

# On the vehicle, once: fastdrive build /bundles/mine   (runs and checks the engines on this GPU)
CMD ["bash", "-lc", "source /ws/install/setup.bash && ros2 launch fastdrive_ros fastdrive.launch.py"]
