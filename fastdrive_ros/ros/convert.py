# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Messages -> the core's values, and bytes back into messages.

Only field names are used, so rclpy's messages and those of the `rosbags` library both work and
nothing here imports ROS. Image data is not copied: the frame keeps the message's memory.
"""

from __future__ import annotations

import array
import time
from typing import Any

import numpy as np

from fastdrive_ros.core.decode import RAW_ENCODINGS
from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import RawImage


def to_frame(message: Any, camera: str, arrival_ns: int) -> Frame:
    """
    Return the Frame of a sensor_msgs/CompressedImage or sensor_msgs/Image; decodes nothing.

    Only an encoding that core/decode.py does not know costs work here: cv_bridge turns it into
    rgb8 where it is installed. Raises FrameError ('unknown_encoding') where it is not.
    """
    start = time.perf_counter()
    image = _encoded_image(message) if hasattr(message, 'format') else _raw_image(message)
    return Frame(camera, stamp_to_ns(message.header.stamp), arrival_ns, image,
                 convert_ms=(time.perf_counter() - start) * 1e3)


def to_odometry_sample(message: Any) -> OdometrySample:
    """Return the sample of a nav_msgs/Odometry; what its values are worth, EgoBuffer judges."""
    pose, twist = message.pose.pose, message.twist.twist
    position, orientation = pose.position, pose.orientation
    return OdometrySample(
        stamp_ns=stamp_to_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        position_m=(position.x, position.y, position.z),
        orientation_xyzw=(orientation.x, orientation.y, orientation.z, orientation.w),
        velocity_x_mps=twist.linear.x,
        velocity_y_mps=twist.linear.y,
        yaw_rate_radps=twist.angular.z)


def stamp_to_ns(stamp: Any) -> int:
    """Return builtin_interfaces/Time as integer nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def ns_to_stamp(stamp_ns: int, time_class: Any) -> Any:
    """Return ``time_class`` (a builtin_interfaces/Time) of integer nanoseconds."""
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return time_class(sec=sec, nanosec=nanosec)


def byte_array(values: np.ndarray) -> array.array:
    """
    Return a uint8 array as what rclpy takes for uint8[] without looking at every element.

    A numpy array or memoryview in its place takes 176-400 ms for 4.3 MB.
    """
    filled = array.array('B')
    filled.frombytes(np.ascontiguousarray(values, dtype=np.uint8).reshape(-1).data)
    return filled


def _encoded_image(message: Any) -> EncodedImage:
    return EncodedImage(message.format, _bytes_of(message.data))


def _raw_image(message: Any) -> RawImage:
    if message.encoding not in RAW_ENCODINGS:
        from fastdrive_ros.ros.cv_bridge_fallback import to_rgb8
        return to_rgb8(message)
    return RawImage(message.encoding, message.height, message.width, message.step,
                    bool(message.is_bigendian), _bytes_of(message.data))


def _bytes_of(data: Any) -> np.ndarray:
    """Return uint8 (bytes,) over array.array (rclpy), numpy (rosbags) or bytes, not copied."""
    return np.frombuffer(data, dtype=np.uint8)
