# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Pictures, calibration and motion of a drive -> messages for a bag, of the `rosbags` classes.

Topics and frames are those of the default preset (config/presets/nuscenes_mcap.yaml):
map -> base_link -> CAM_FRONT ..., where a camera's frame is its optical one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import typestore
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.ros.messages import bag_classes
from fastdrive_ros.ros.messages import make_header

IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
TF_TYPE = 'tf2_msgs/msg/TFMessage'
ODOMETRY_TOPIC, TF_TOPIC, TF_STATIC_TOPIC = '/odom', '/tf', '/tf_static'
VEHICLE_FRAME = 'base_link'

_CLASSES = bag_classes(typestore())
_make = _CLASSES.make


def image_topic(camera: str) -> str:
    """Return the topic of a camera's pictures."""
    return f'/{camera}/image_rect_compressed'


def camera_info_topic(camera: str) -> str:
    """Return the topic of a camera's calibration."""
    return f'/{camera}/camera_info'


def compressed_image(stamp_ns: int, frame_id: str, jpeg: bytes) -> Any:
    """Return sensor_msgs/CompressedImage; the JPEG's bytes are not touched."""
    return _make(IMAGE_TYPE)(header=make_header(_CLASSES, stamp_ns, frame_id), format='jpeg',
                             data=np.frombuffer(jpeg, np.uint8))


def camera_info(stamp_ns: int, camera: Camera) -> Any:
    """Return sensor_msgs/CameraInfo of a rectified camera: no distortion, P is K."""
    p = np.zeros((3, 4))
    p[:, :3] = camera.k
    return _make(CAMERA_INFO_TYPE)(
        header=make_header(_CLASSES, stamp_ns, camera.name),
        height=camera.height, width=camera.width, distortion_model='plumb_bob', d=np.zeros(5),
        k=np.asarray(camera.k, np.float64).reshape(-1), r=np.eye(3).reshape(-1), p=p.reshape(-1),
        binning_x=0, binning_y=0,
        roi=_make('sensor_msgs/msg/RegionOfInterest')(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False))


def static_transforms(stamp_ns: int, cameras: Iterable[Camera]) -> Any:
    """Return tf2_msgs/TFMessage base_link -> each camera, for TF_STATIC_TOPIC (latched)."""
    return _make(TF_TYPE)(transforms=[
        _transform(stamp_ns, VEHICLE_FRAME, camera.name, camera.position_m,
                   camera.orientation_xyzw) for camera in cameras])


def ego_transform(stamp_ns: int, frame_id: str, position_m: Vector,
                  orientation_xyzw: Quaternion) -> Any:
    """Return tf2_msgs/TFMessage frame_id -> base_link."""
    return _make(TF_TYPE)(transforms=[
        _transform(stamp_ns, frame_id, VEHICLE_FRAME, position_m, orientation_xyzw)])


def odometry(stamp_ns: int, frame_id: str, position_m: Vector, orientation_xyzw: Quaternion,
             velocity_mps: Vector, angular_velocity_radps: Vector) -> Any:
    """Return nav_msgs/Odometry; both velocities are in base_link. Covariances are unknown: 0."""
    return _make(ODOMETRY_TYPE)(
        header=make_header(_CLASSES, stamp_ns, frame_id), child_frame_id=VEHICLE_FRAME,
        pose=_make('geometry_msgs/msg/PoseWithCovariance')(
            pose=_make('geometry_msgs/msg/Pose')(
                position=_xyz('Point', position_m), orientation=_quaternion(orientation_xyzw)),
            covariance=np.zeros(36)),
        twist=_make('geometry_msgs/msg/TwistWithCovariance')(
            twist=_make('geometry_msgs/msg/Twist')(
                linear=_xyz('Vector3', velocity_mps),
                angular=_xyz('Vector3', angular_velocity_radps)),
            covariance=np.zeros(36)))


def _transform(stamp_ns: int, parent: str, child: str, position_m: Vector,
               orientation_xyzw: Quaternion) -> Any:
    return _make('geometry_msgs/msg/TransformStamped')(
        header=make_header(_CLASSES, stamp_ns, parent), child_frame_id=child,
        transform=_make('geometry_msgs/msg/Transform')(
            translation=_xyz('Vector3', position_m), rotation=_quaternion(orientation_xyzw)))


def _xyz(kind: str, values: Iterable[float]) -> Any:
    x, y, z = (float(value) for value in values)
    return _make(f'geometry_msgs/msg/{kind}')(x=x, y=y, z=z)


def _quaternion(values: Iterable[float]) -> Any:
    x, y, z, w = (float(value) for value in values)
    return _make('geometry_msgs/msg/Quaternion')(x=x, y=y, z=z, w=w)
