# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Start the planner: ``ros2 launch fastdrive_ros fastdrive.launch.py preset:=nuscenes_mcap``.

Parameters come from the preset (topics), then params_file, then the arguments that were given; an
argument left empty leaves the file's value alone.
"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.actions import OpaqueFunction
from launch.actions import SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).parent.parent / 'config'
BOOLEANS = ['true', 'false']
# Arguments that are ROS parameters of the same name.
PARAMETER_ARGUMENTS = ('bundle', 'backend', 'image_transport', 'output_frame', 'pruner',
                       'keep_ratio', 'use_sim_time', 'autostart')


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, then start the node with what was given."""
    presets = sorted(path.stem for path in (CONFIG / 'presets').glob('*.yaml'))
    profile = str(CONFIG / 'fastdds_raw_images.xml')
    use_profile = IfCondition(LaunchConfiguration('fastdds_profile'))
    return LaunchDescription([
        DeclareLaunchArgument(
            'preset', default_value='nuscenes_mcap', choices=presets,
            description='Names of the camera and odometry topics'),
        DeclareLaunchArgument(
            'params_file', default_value=str(CONFIG / 'fastdrive.param.yaml'),
            description='ROS 2 parameter file; what it sets goes before the preset'),
        DeclareLaunchArgument(
            'bundle', default_value='',
            description='Model bundle folder; empty: engines/nano, trained in a simulated world'),
        DeclareLaunchArgument(
            'backend', default_value='',
            choices=['', 'auto', 'onnxruntime', 'tensorrt', 'tensorrt_rtx'],
            description='What runs the model; empty: as in params_file'),
        DeclareLaunchArgument(
            'pruner', default_value='',
            description='How visual tokens are chosen (README, Parameters); empty: as in '
                        'params_file'),
        DeclareLaunchArgument(
            'keep_ratio', default_value='',
            description='Share of visual tokens to keep, 0.01 to 1; empty: as in params_file'),
        DeclareLaunchArgument(
            'image_transport', default_value='', choices=['', 'compressed', 'raw'],
            description='Type of the camera topics; empty: as in the preset'),
        DeclareLaunchArgument(
            'output_frame', default_value='', choices=['', 'map', 'base_link'],
            description='Frame of the trajectory; empty: as in params_file'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='', choices=['', *BOOLEANS],
            description='Take the time from /clock, as with ros2 bag play --clock'),
        DeclareLaunchArgument(
            'autostart', default_value='', choices=['', *BOOLEANS],
            description='Activate at once; false: leave that to a lifecycle manager'),
        DeclareLaunchArgument(
            'namespace', default_value='', description='Namespace of the node'),
        DeclareLaunchArgument(
            'node_name', default_value='fastdrive', description='Name of the node'),
        DeclareLaunchArgument(
            'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severity that the node logs'),
        DeclareLaunchArgument(
            'rviz', default_value='false', choices=BOOLEANS,
            description='Start RViz with config/fastdrive.rviz'),
        DeclareLaunchArgument(
            'fastdds_profile', default_value='false', choices=BOOLEANS,
            description="Larger shared memory for raw images; the cameras' side needs it, too"),
        # Jazzy and older read the first name, newer ones the second.
        SetEnvironmentVariable('FASTRTPS_DEFAULT_PROFILES_FILE', profile, condition=use_profile),
        SetEnvironmentVariable('FASTDDS_DEFAULT_PROFILES_FILE', profile, condition=use_profile),
        OpaqueFunction(function=_start),
    ])


def _start(context: LaunchContext) -> list[Node]:
    chosen = context.launch_configurations
    # None: by YAML's rules; the node checks type and range and names the parameter.
    given = {name: ParameterValue(LaunchConfiguration(name),
                                  value_type=str if name in ('bundle', 'pruner') else None)
             for name in PARAMETER_ARGUMENTS if chosen[name]}
    params_file = Path(chosen['params_file']).expanduser()
    if not params_file.is_file():
        raise FileNotFoundError(f'params_file:={params_file} is not there')
    planner = Node(
        package='fastdrive_ros', executable='planner_node',
        namespace=chosen['namespace'], name=chosen['node_name'],
        parameters=[str(CONFIG / 'presets' / f"{chosen['preset']}.yaml"), str(params_file),
                    *([given] if given else [])],
        ros_arguments=['--log-level', chosen['log_level']],
        output='screen', emulate_tty=True)
    rviz = Node(
        package='rviz2', executable='rviz2', name='fastdrive_rviz',
        arguments=['-d', str(CONFIG / 'fastdrive.rviz')],
        parameters=[{'use_sim_time': chosen['use_sim_time'] == 'true'}])
    # RViz first: where it is not installed launch ends, leaving behind what has started.
    return [rviz, planner] if chosen['rviz'] == 'true' else [planner]
