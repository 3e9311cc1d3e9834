# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Play a bag through the planner and look: ``ros2 launch fastdrive_ros replay.launch.py bag:=BAG``.

Takes every argument of fastdrive.launch.py, too (``preset:=``, ``keep_ratio:=``, ``rviz:=true``
...). Ends with the bag.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.actions import ExecuteProcess
from launch.actions import IncludeLaunchDescription
from launch.actions import OpaqueFunction
from launch.actions import Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

LAUNCH = Path(__file__).parent
CLOCK_HZ = '100'


def generate_launch_description() -> LaunchDescription:
    """Start the planner on simulated time, then the bag."""
    return LaunchDescription([
        DeclareLaunchArgument('bag', description='Bag to play (folder, or .mcap or .db3 file)'),
        DeclareLaunchArgument(
            'rate', default_value='1.0',
            description='Multiple of recorded time; below 1 raise sync.deadline_ms, too'),
        DeclareLaunchArgument(
            'loop', default_value='false', choices=['true', 'false'],
            description='Start again at the end of the bag'),
        DeclareLaunchArgument(
            'delay', default_value='5.0',
            description='Seconds until the bag starts; the planner loads its model meanwhile'),
        DeclareLaunchArgument(
            'foxglove', default_value='false', choices=['true', 'false'],
            description='Start foxglove_bridge; open config/foxglove_layout.json in Foxglove'),
        # In this order, because a launch that fails leaves behind what it has already started.
        OpaqueFunction(function=_check_bag),
        Node(package='foxglove_bridge', executable='foxglove_bridge', name='foxglove_bridge',
             parameters=[{'use_sim_time': True}],
             condition=IfCondition(LaunchConfiguration('foxglove'))),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH / 'fastdrive.launch.py')),
            launch_arguments={'use_sim_time': 'true'}.items()),
        OpaqueFunction(function=_play),
    ])


def _check_bag(context: LaunchContext) -> None:
    bag = Path(context.launch_configurations['bag']).expanduser()
    if not bag.exists():
        raise FileNotFoundError(f'bag:={bag} is not there')


def _play(context: LaunchContext) -> list[ExecuteProcess]:
    chosen = context.launch_configurations
    # Recorded /diagnostics (nuScenes bags keep vehicle CAN there) would mix with the planner's.
    # Moved aside, not left out: --exclude-topics is not in Humble's player.
    command = ['ros2', 'bag', 'play', str(Path(chosen['bag']).expanduser()),
               '--clock', CLOCK_HZ, '--rate', chosen['rate'], '--delay', chosen['delay'],
               '--remap', '/diagnostics:=/recorded/diagnostics']
    if chosen['loop'] == 'true':
        command.append('--loop')
    return [ExecuteProcess(cmd=command, output='screen', on_exit=Shutdown(reason='the bag ended'))]
