# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The launch files with the real launch: arguments, what reaches the node, and that it comes up.

launch is not on PyPI: skipped without a ROS 2 installation, run by `colcon test` on one.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for module in ('launch_ros', 'launch_pytest', 'rclpy'):
    pytest.importorskip(module, reason=f'{module} is not installed (it comes with ROS 2)')

import launch_pytest
import rclpy
from ament_index_python.packages import PackageNotFoundError
from ament_index_python.packages import get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.actions import IncludeLaunchDescription
from launch.actions import RegisterEventHandler
from launch.actions import SetEnvironmentVariable
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch_pytest.actions import ReadyToTest
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters

LAUNCH = Path(__file__).resolve().parent.parent / 'launch'
LAUNCH_FILES = sorted(path.name for path in LAUNCH.glob('*.launch.py'))
DOMAIN = 1 + os.getpid() % 100
UP_WITHIN_S = 60.0
EXIT_CODES: list[int] = []


def describe(name: str) -> LaunchDescription:
    return get_launch_description_from_python_launch_file(str(LAUNCH / name))


def include(name: str, **arguments: str) -> IncludeLaunchDescription:
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / name)),
                                    launch_arguments=arguments.items())


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_every_argument_has_a_description(name: str):
    arguments = [entity for entity in describe(name).entities
                 if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    assert all(argument.description not in ('', 'no description given') for argument in arguments)


def test_replay_takes_the_planner_s_arguments_too():
    names = {argument.name for argument in describe('replay.launch.py').get_launch_arguments()}
    assert names >= {'bag', 'rate', 'loop', 'preset', 'pruner', 'keep_ratio', 'rviz',
                     'fastdds_profile'}


def test_the_simulator_takes_the_planner_s_arguments_too():
    names = {argument.name for argument in describe('sim.launch.py').get_launch_arguments()}
    assert names >= {'seed', 'speed', 'rate_hz', 'planner', 'keep_ratio', 'rviz'}


@pytest.mark.parametrize(('name', 'argument', 'message'), [
    ('fastdrive.launch.py', 'preset:=kitti', r'"kitti" is not valid. .*nuscenes_mcap'),
    ('fastdrive.launch.py', 'backend:=cuda', r'"cuda" is not valid. .*tensorrt_rtx'),
    ('fastdrive.launch.py', 'params_file:=/none.yaml', 'params_file:=/none.yaml is not there'),
    ('replay.launch.py', 'bag:=/none', 'bag:=/none is not there'),
    ('sim.launch.py', 'planner:=perhaps', r'"perhaps" is not valid'),
])
def test_a_wrong_argument_ends_the_launch_with_a_sentence(
        name: str, argument: str, message: str):
    run = subprocess.run(['ros2', 'launch', LAUNCH / name, argument], text=True, check=False,
                         capture_output=True, timeout=UP_WITHIN_S)
    assert run.returncode == 1
    assert re.search(message, run.stdout + run.stderr)
    assert 'process started' not in run.stdout + run.stderr


@launch_pytest.fixture
def planner() -> LaunchDescription:
    try:
        get_package_prefix('fastdrive_ros')
    except PackageNotFoundError:
        pytest.skip('fastdrive_ros is not installed (colcon build, or pip install without -e)')
    EXIT_CODES.clear()
    return LaunchDescription([
        SetEnvironmentVariable('ROS_DOMAIN_ID', str(DOMAIN)),
        RegisterEventHandler(OnProcessExit(
            on_exit=lambda event, context: EXIT_CODES.append(event.returncode))),
        include('fastdrive.launch.py', preset='autoware_vehicle', keep_ratio='0.25',
                node_name='planner', namespace='car'),
        ReadyToTest()])


@pytest.mark.launch(fixture=planner)
def test_the_planner_comes_up_active_with_its_arguments_and_goes_down_cleanly() -> Iterator[None]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = rclpy.create_node('test_launch', context=context)
    try:
        until = time.monotonic() + UP_WITHIN_S
        while ask(node, GetState, 'get_state').current_state.label != 'active':
            assert time.monotonic() < until, 'not active in time'
            time.sleep(0.1)
        answer = ask(node, GetParameters, 'get_parameters', names=[
            'keep_ratio', 'camera_topics.CAM_FRONT', 'odometry_topic', 'sync.window_ms'])
        assert answer.values[0].double_value == 0.25
        assert answer.values[1].string_value == '/sensing/camera/camera4/image_raw/compressed'
        assert answer.values[2].string_value == '/localization/kinematic_state'
        assert answer.values[3].double_value == 48.0
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    yield
    assert EXIT_CODES == [0]


def ask(node: Any, service: Any, name: str, **fields: Any) -> Any:
    client = node.create_client(service, f'/car/planner/{name}')
    try:
        assert client.wait_for_service(UP_WITHIN_S), f'/car/planner/{name} does not exist'
        executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
        future = client.call_async(service.Request(**fields))
        executor.add_node(node)
        executor.spin_until_future_complete(future, timeout_sec=UP_WITHIN_S)
        executor.remove_node(node)
        return future.result()
    finally:
        node.destroy_client(client)
