# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The same builders fill rclpy's messages and those of the rosbags library."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from make_inputs import T0_NS
from make_inputs import make_odometry
from rosbags.typesys import Stores
from rosbags.typesys import get_typestore

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.trajectory import make_trajectory
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.core.types import Refusal
from fastdrive_ros.ros.messages import MessageClasses
from fastdrive_ros.ros.messages import bag_classes
from fastdrive_ros.ros.messages import cycle_message
from fastdrive_ros.ros.messages import path_message
from fastdrive_ros.ros.messages import ros_classes


@pytest.fixture(params=['rosbags', 'ros'])
def classes(request: pytest.FixtureRequest) -> MessageClasses:
    if request.param == 'rosbags':
        return bag_classes(get_typestore(Stores.ROS2_JAZZY))
    pytest.importorskip('nav_msgs.msg', reason='ROS 2 messages are not installed')
    return ros_classes()


@pytest.fixture
def result() -> PlanResult:
    ego = EgoBuffer(EgoConfig())
    sample = make_odometry(T0_NS)
    # Facing left of the map's x axis, at (10, 20).
    ego.push(replace(sample, position_m=(10.0, 20.0, 1.5),
                     orientation_xyzw=(0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))))
    waypoints = np.array([[2.0, 0.0, 0.0], [4.0, 1.0, np.pi / 2]])
    return PlanResult(
        stamp_ns=T0_NS, trajectory=make_trajectory(T0_NS, 0.5, waypoints), refusal=None,
        ego=ego.at(T0_NS),
        kept=KeptTokens(np.zeros((3, 8)), np.array([0, 5, 7]), np.zeros(16)),
        images=None, present=('CAM_FRONT',), missing=(), frame_errors={}, num_tokens=16,
        stage_ms={'encode': 12.5}, frame_age_ms=40.0)


def test_the_path_is_in_the_odometry_frame_with_future_stamps(
        classes: MessageClasses, result: PlanResult) -> None:
    path = path_message(classes, result, 'map')
    assert path.header.frame_id == 'map'
    assert path.header.stamp.sec * 10**9 + path.header.stamp.nanosec == T0_NS
    stamps = [pose.header.stamp.sec * 10**9 + pose.header.stamp.nanosec - T0_NS
              for pose in path.poses]
    assert stamps == [500_000_000, 1_000_000_000]
    second = path.poses[1].pose
    # 4 m ahead of a vehicle that faces +y, 1 m to its left (-x).
    assert (second.position.x, second.position.y, second.position.z) == pytest.approx(
        (9.0, 24.0, 1.5))
    assert (abs(second.orientation.z), second.orientation.w) == pytest.approx((1.0, 0.0), abs=1e-9)


def test_the_path_in_base_link_is_the_plan_itself(
        classes: MessageClasses, result: PlanResult) -> None:
    path = path_message(classes, result, 'base_link')
    assert path.header.frame_id == 'base_link'
    assert (path.poses[0].pose.position.x, path.poses[0].pose.position.y) == (2.0, 0.0)


def values(message: object) -> dict[str, str]:
    return {pair.key: pair.value for pair in message.status[0].values}


def level(message: object) -> int:
    found = message.status[0].level
    return found[0] if isinstance(found, bytes) else found


def test_a_cycle_tells_its_whole_story(classes: MessageClasses, result: PlanResult) -> None:
    message = cycle_message(classes, result, {'encode': 12.5, 'end_to_end': 80.0},
                            {'keep_ratio': 0.5}, 'fastdrive_ros')
    assert level(message) == 0 and message.status[0].message == 'plan published'
    assert values(message)['encode_ms'] == '12.5'
    assert values(message)['kept_tokens'] == '3' and values(message)['total_tokens'] == '16'
    assert values(message)['keep_ratio'] == '0.5'


def test_partial_and_refused_cycles_say_so(classes: MessageClasses, result: PlanResult) -> None:
    partial = cycle_message(classes, replace(result, missing=('CAM_BACK',)), {}, {}, '')
    assert level(partial) == 1
    assert partial.status[0].message == 'plan published without CAM_BACK'
    refused = cycle_message(classes, replace(
        result, trajectory=None, refusal=Refusal('speed', 'too fast')), {}, {}, '')
    assert level(refused) == 2 and refused.status[0].message == 'speed: too fast'
    assert values(refused)['refusal'] == 'speed'
