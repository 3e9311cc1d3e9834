# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
#
# ROS 2 Humble + TensorRT 10.3 for a Jetson Orin with JetPack 6 (L4T r36.4, Ubuntu 22.04, CUDA
# 12.6); Ubuntu 22.04 has Humble, Jazzy is for 24.04. Build it on the Jetson itself.
# NOT RUN by its authors: there was no Jetson.
#
#   docker build -f docker/jetpack6.Dockerfile -t fastdrive .
#   docker run --rm -it --runtime nvidia --net host -v ~/bundles:/bundles fastdrive
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
ENV DEBIAN_FRONTEND=noninteractive ROS_DISTRO=humble
SHELL ["/bin/bash", "-c"]

# ROS's apt repository as docs.ros.org says it: a package that brings key and source.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && \
    VERSION=$(curl -fsS https://api.github.com/repos/ros-infrastructure/ros-apt-source/releases/latest \
        | grep -F tag_name | cut -d'"' -f4) && \
    curl -fsSL -o /tmp/ros.deb "https://github.com/ros-infrastructure/ros-apt-source/releases/download/${VERSION}/ros2-apt-source_${VERSION}.jammy_all.deb" && \
    apt-get install -y /tmp/ros.deb && apt-get update && \
    apt-get install -y --no-install-recommends \
        ros-humble-ros-base python3-colcon-common-extensions python3-pip && \
    rm -rf /var/lib/apt/lists/* /tmp/ros.deb

# TensorRT comes with the image. numpy below 2: Humble's Python messages are built against 1.
RUN python3 -m pip install --no-cache-dir "filelock>=3.12" "numpy<2" "onnx>=1.15" \
        "onnxruntime>=1.17" "opencv-python-headless>=4.6,<4.12" "rich>=13" "rosbags>=0.11" \
        "simplejpeg>=1.7" pyyaml "cuda-python>=12.6,<13"

WORKDIR /ws
COPY . src/fastdrive_ros
RUN source /opt/ros/humble/setup.bash && colcon build --packages-select fastdrive_ros && \
    echo "source /ws/install/setup.bash" >> /root/.bashrc && \
    # Fails here rather than in the vehicle when the image's Python has no TensorRT or no ROS.
    source install/setup.bash && python3 -c "import rclpy, tensorrt; print(tensorrt.__version__)"

# On the vehicle, once: fastdrive build /bundles/mine   (8 GB of memory: leave the desktop out)
CMD ["bash", "-lc", "source /ws/install/setup.bash && ros2 launch fastdrive_ros fastdrive.launch.py"]
