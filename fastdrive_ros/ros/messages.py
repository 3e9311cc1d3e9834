# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
PlanResult to messages: pure functions over whichever message classes there are.

The node passes rclpy's classes, the bag tools pass the `rosbags` library's; both have the same
field names, and here every field is given, because only rclpy's have defaults.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.core.pruning import kept_per_camera
from fastdrive_ros.core.trajectory import to_frame
from fastdrive_ros.core.types import PlanResult

OK, WARN, ERROR, STALE = range(4)


@dataclass(frozen=True)
class MessageClasses:
    """How to make a message of a type, for example ``make('nav_msgs/msg/Path')(header=...)``."""

    make: Callable[[str], Any]
    level: Callable[[int], Any]
    """DiagnosticStatus.level: rclpy wants one byte, rosbags an integer."""


def ros_classes() -> MessageClasses:
    """Return the message classes of the ROS 2 installation."""
    import importlib

    def make(name: str) -> Any:
        package, _, short = name.split('/')
        return getattr(importlib.import_module(f'{package}.msg'), short)

    return MessageClasses(make, lambda level: bytes([level]))


def bag_classes(typestore: Any) -> MessageClasses:
    """Return the message classes of a `rosbags` typestore."""
    return MessageClasses(lambda name: typestore.types[name], lambda level: level)


def make_header(classes: MessageClasses, stamp_ns: int, frame_id: str) -> Any:
    """Return std_msgs/Header."""
    stamp = classes.make('builtin_interfaces/msg/Time')(
        sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return classes.make('std_msgs/msg/Header')(stamp=stamp, frame_id=frame_id)


def make_pose(classes: MessageClasses, position_m: Iterable[float], yaw_rad: float) -> Any:
    """Return geometry_msgs/Pose of a vehicle that is upright."""
    x, y, z = (float(value) for value in position_m)
    return classes.make('geometry_msgs/msg/Pose')(
        position=classes.make('geometry_msgs/msg/Point')(x=x, y=y, z=z),
        orientation=classes.make('geometry_msgs/msg/Quaternion')(
            x=0.0, y=0.0, z=math.sin(yaw_rad / 2), w=math.cos(yaw_rad / 2)))


def placed(result: PlanResult, output_frame: str) -> tuple[str, np.ndarray, np.ndarray]:
    """
    Return (frame_id, positions_m (T, 3), yaw_rad (T,)) of a plan in the frame asked for.

    'map' is the odometry's own frame, whatever its name; 'base_link' is the vehicle at the stamp.
    """
    trajectory, ego = result.trajectory, result.ego
    assert trajectory is not None and ego is not None, 'only a published plan has a place'
    if output_frame == 'base_link':
        waypoints = trajectory.waypoints
        return 'base_link', np.column_stack([waypoints[:, :2], np.zeros(len(waypoints))]), (
            waypoints[:, 2])
    return ego.frame_id, *to_frame(trajectory, ego)


def path_message(classes: MessageClasses, result: PlanResult, output_frame: str) -> Any:
    """Return nav_msgs/Path: stamped with the set's stamp, each pose with its own future stamp."""
    frame_id, positions_m, yaws_rad = placed(result, output_frame)
    pose_stamped = classes.make('geometry_msgs/msg/PoseStamped')
    poses = [
        pose_stamped(
            header=make_header(classes, result.stamp_ns + round(time_s * 1e9), frame_id),
            pose=make_pose(classes, position_m, yaw_rad))
        for time_s, position_m, yaw_rad in zip(
            result.trajectory.times_s, positions_m, yaws_rad)]
    return classes.make('nav_msgs/msg/Path')(
        header=make_header(classes, result.stamp_ns, frame_id), poses=poses)


def make_status(classes: MessageClasses, name: str, level: int, message: str,
                values: Mapping[str, Any], hardware_id: str) -> Any:
    """Return diagnostic_msgs/DiagnosticStatus; numbers are written with six significant digits."""
    key_value = classes.make('diagnostic_msgs/msg/KeyValue')
    texts = {key: f'{value:.6g}' if isinstance(value, float) else str(value)
             for key, value in values.items()}
    return classes.make('diagnostic_msgs/msg/DiagnosticStatus')(
        level=classes.level(level), name=name, message=message, hardware_id=hardware_id,
        values=[key_value(key=key, value=text) for key, text in texts.items()])


def kept_by_camera(result: PlanResult, cameras: Sequence[str],
                   tokens_per_camera: int) -> dict[str, int]:
    """Return {'kept_tokens.CAM_FRONT': count, ...} for ``cycle_message``."""
    if result.kept is None:
        return {}
    counts = kept_per_camera(result.kept.indices, cameras, tokens_per_camera)
    return {f'kept_tokens.{camera}': count for camera, count in counts.items()}


def cycle_message(classes: MessageClasses, result: PlanResult, stage_ms: Mapping[str, float],
                  extra: Mapping[str, Any], hardware_id: str) -> Any:
    """
    Return diagnostic_msgs/DiagnosticArray that tells one cycle's whole story, refused or not.

    ``stage_ms`` is the result's plus what happened around the pipeline (convert, sync, publish,
    end_to_end), so that a bag of this topic alone explains a drive.
    """
    if result.refusal:
        level, message = ERROR, f'{result.refusal.reason}: {result.refusal.detail}'
    elif result.missing:
        level, message = WARN, f"plan published without {', '.join(result.missing)}"
    else:
        level, message = OK, 'plan published'
    values: dict[str, Any] = {f'{stage}_ms': ms for stage, ms in stage_ms.items()}
    values |= {
        'frame_age_ms': result.frame_age_ms,
        'kept_tokens': len(result.kept.indices) if result.kept else 0,
        'total_tokens': result.num_tokens,
        'pruner': result.kept.method if result.kept else '',
        'missing_cameras': ', '.join(result.missing),
        'refusal': result.refusal.reason if result.refusal else '',
        **{f'frame_error.{camera}': f'{error.reason}: {error}'
           for camera, error in result.frame_errors.items()},
        **extra}
    return classes.make('diagnostic_msgs/msg/DiagnosticArray')(
        header=make_header(classes, result.stamp_ns, ''),
        status=[make_status(classes, 'fastdrive: cycle', level, message, values, hardware_id)])
