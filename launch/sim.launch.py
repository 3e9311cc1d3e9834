# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Drive the simulated world and plan in it: ``ros2 launch fastdrive_ros sim.launch.py rviz:=true``.

Takes every argument of fastdrive.launch.py, too, except the topics: they are the simulator's.
Needs once: ``fastdrive data assets``. Ends with the simulator.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.actions import IncludeLaunchDescription
from launch.actions import Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

LAUNCH = Path(__file__).parent
BOOLEANS = ['true', 'false']
# Argument -> type of the simulator's parameter of the same name.
PARAMETERS = {'seed': int, 'speed': float, 'rate_hz': float, 'seconds': float,
              'width': int, 'height': int}


def generate_launch_description() -> LaunchDescription:
    """Start the planner on simulated time, then the simulator."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'seed', default_value='0',
            description='Seed of the first drive; the next drives count up from it'),
        DeclareLaunchArgument(
            'speed', default_value='1.0',
            description='Simulated seconds a second; 0: as fast as it renders'),
        DeclareLaunchArgument(
            'rate_hz', default_value='10.0',
            description='Pictures a simulated second: 10 divided by a whole number'),
        DeclareLaunchArgument(
            'seconds', default_value='0.0',
            description='End after so many simulated seconds; 0: never'),
        DeclareLaunchArgument('width', default_value='448', description='Width of the pictures'),
        DeclareLaunchArgument('height', default_value='252', description='Height of the pictures'),
        DeclareLaunchArgument(
            'planner', default_value='true', choices=BOOLEANS,
            description='Start the planner, too; false: only the simulator'),
        DeclareLaunchArgument(
            'foxglove', default_value='false', choices=BOOLEANS,
            description='Start foxglove_bridge; open config/foxglove_layout.json in Foxglove'),
        # In this order, because a launch that fails leaves behind what it has already started.
        Node(package='foxglove_bridge', executable='foxglove_bridge', name='foxglove_bridge',
             parameters=[{'use_sim_time': True}],
             condition=IfCondition(LaunchConfiguration('foxglove'))),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH / 'fastdrive.launch.py')),
            launch_arguments={'use_sim_time': 'true', 'preset': 'nuscenes_mcap'}.items(),
            condition=IfCondition(LaunchConfiguration('planner'))),
        Node(package='fastdrive_ros', executable='sim_node', name='simulator', namespace='',
             parameters=[{name: ParameterValue(LaunchConfiguration(name), value_type=kind)
                          for name, kind in PARAMETERS.items()}],
             output='screen', emulate_tty=True, on_exit=Shutdown(reason='the simulator ended')),
    ])
