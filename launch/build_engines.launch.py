# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Build a bundle's engines before the drive, so that the node starts at once afterwards.

``ros2 launch fastdrive_ros build_engines.launch.py bundle:=$HOME/bundles/mine``
"""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchContext
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.actions import ExecuteProcess
from launch.actions import OpaqueFunction

SHARE = Path(__file__).parent.parent


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments of `fastdrive build` and run it."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'bundle', default_value=str(SHARE / 'engines' / 'nano'),
            description='Model bundle folder (made by fastdrive export)'),
        DeclareLaunchArgument(
            'backend', default_value='auto', choices=['auto', 'tensorrt', 'tensorrt_rtx'],
            description='What to build for; auto takes what is installed'),
        DeclareLaunchArgument(
            'engine_cache_dir', default_value='',
            description='Where engines are kept; empty: the folder that the node looks in'),
        DeclareLaunchArgument(
            'fused', default_value='false', choices=['true', 'false'],
            description='Encoder and pruner as one engine, for a node with fuse_perception: true'),
        DeclareLaunchArgument(
            'compute_capability', default_value='',
            description="GPU to build for without having it, as 86; empty: this computer's"),
        OpaqueFunction(function=_build),
    ])


def _build(context: LaunchContext) -> list[ExecuteProcess]:
    chosen = context.launch_configurations
    command = [sys.executable, '-m', 'fastdrive_ros', 'build', chosen['bundle'],
               '--backend', chosen['backend']]
    if chosen['engine_cache_dir']:
        command += ['--cache-dir', chosen['engine_cache_dir']]
    if chosen['fused'] == 'true':
        command.append('--fused')
    if chosen['compute_capability']:
        command += ['--compute-capability', chosen['compute_capability']]
    return [ExecuteProcess(cmd=command, output='screen', emulate_tty=True)]
