# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""PlanResult to Autoware's trajectory messages, where those packages are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.publisher import Publisher

from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.ros.messages import MessageClasses
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import make_pose
from fastdrive_ros.ros.messages import placed


def autoware_installed() -> bool:
    """Tell whether Autoware's message packages can be imported."""
    return all(importlib.util.find_spec(package) is not None for package in (
        'autoware_planning_msgs', 'autoware_internal_planning_msgs',
        'autoware_internal_debug_msgs'))


class AutowareOutputs:
    """
    The same plan in Autoware's types, for its validator, selector and controllers.

    Not run here against an Autoware installation: the field names are those of
    autoware_planning_msgs and autoware_internal_planning_msgs of 2026 (7025d8f, 1856e5b).
    """

    def __init__(self, classes: MessageClasses, make_publisher: Callable[[str, str], Publisher],
                 output_frame: str) -> None:
        """Create the two publishers with ``make_publisher(type_name, topic)``."""
        self._classes = classes
        self._make = classes.make
        self._output_frame = output_frame
        self._trajectory = make_publisher(
            'autoware_planning_msgs/msg/Trajectory', '~/output/autoware_trajectory')
        self._candidates = make_publisher(
            'autoware_internal_planning_msgs/msg/CandidateTrajectories', '~/output/trajectories')
        self._generator_id = self._make('unique_identifier_msgs/msg/UUID')(
            uuid=np.frombuffer(b'fastdrive_ros_v1', np.uint8))

    def publish(self, result: PlanResult) -> None:
        """Publish the trajectory and, for Autoware's selector, the list of one candidate."""
        frame_id, points = self._points(result)
        header = make_header(self._classes, result.stamp_ns, frame_id)
        self._trajectory.publish(self._make('autoware_planning_msgs/msg/Trajectory')(
            header=header, points=points))
        candidate = self._make('autoware_internal_planning_msgs/msg/CandidateTrajectory')(
            header=header, generator_id=self._generator_id, points=points)
        info = self._make('autoware_internal_planning_msgs/msg/GeneratorInfo')(
            generator_id=self._generator_id,
            generator_name=self._make('std_msgs/msg/String')(data='fastdrive_ros'))
        self._candidates.publish(
            self._make('autoware_internal_planning_msgs/msg/CandidateTrajectories')(
                candidate_trajectories=[candidate], generator_info=[info]))

    def _points(self, result: PlanResult) -> tuple[str, list[Any]]:
        trajectory = result.trajectory
        frame_id, positions_m, yaws_rad = placed(result, self._output_frame)
        speeds_mps = trajectory.speeds_mps
        accelerations_mps2 = np.diff(speeds_mps, prepend=result.ego.speed_mps) / trajectory.dt_s
        yaw_rates_radps = np.diff(trajectory.waypoints[:, 2], prepend=0.0) / trajectory.dt_s
        duration = self._make('builtin_interfaces/msg/Duration')
        point = self._make('autoware_planning_msgs/msg/TrajectoryPoint')
        return frame_id, [
            point(
                time_from_start=duration(sec=int(time_s), nanosec=round(time_s % 1 * 1e9)),
                pose=make_pose(self._classes, positions_m[i], yaws_rad[i]),
                longitudinal_velocity_mps=float(speeds_mps[i]),
                lateral_velocity_mps=0.0,
                acceleration_mps2=float(accelerations_mps2[i]),
                heading_rate_rps=float(yaw_rates_radps[i]),
                front_wheel_angle_rad=0.0,
                rear_wheel_angle_rad=0.0)
            for i, time_s in enumerate(trajectory.times_s)]
