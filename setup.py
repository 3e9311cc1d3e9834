# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Installs with `colcon build` (ament_python) and with plain `pip install .`."""

import re
from pathlib import Path

from setuptools import find_packages
from setuptools import setup

NAME = 'fastdrive_ros'
SHARE = f'share/{NAME}'
ROOT = Path(__file__).resolve().parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / NAME / '__init__.py').read_text()).group(1)
WHEELS_OF_ROS = "; sys_platform == 'linux' and platform_machine == 'x86_64'"
WHEELS_OF_METADRIVE = "; python_version < '3.12'"


def shared_files(*folders):
    """Return data_files rows that put every file of the folders below share/, tree kept."""
    rows = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob('*')):
            if path.is_file() and path.suffix != '.pyc':
                place = path.parent.relative_to(ROOT).as_posix()
                rows.setdefault(f'{SHARE}/{place}', []).append(path.relative_to(ROOT).as_posix())
    return list(rows.items())


setup(
    name=NAME,
    version=VERSION,
    description='FastDriveVLA on a vehicle: six cameras in, a pruned VLA plan out.',
    long_description='FastDriveVLA on a vehicle: a ROS 2 node that keeps only the visual tokens '
                     'that matter for driving and accounts for every millisecond.',
    author='fastdrive_ros contributors',
    maintainer='fastdrive_ros contributors',
    maintainer_email='maintainers@fastdrive-ros.example',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE, ['package.xml']),
        # `ros2 run` and launch look in lib/<package>; console scripts land in bin/.
        (f'lib/{NAME}', ['resource/planner_node', 'resource/sim_node']),
        *shared_files('launch', 'config', 'engines/nano'),
    ],
    zip_safe=True,
    install_requires=[
        'filelock>=3.12',
        'numpy>=1.24',
        'onnx>=1.15',
        'onnxruntime>=1.17',
        'opencv-python-headless>=4.6',
        'pyyaml>=6.0',
        'rich>=13',
        'rosbags>=0.11',
        'simplejpeg>=1.7',
    ],
    extras_require={
        'train': ['torch>=2.6', 'transformers>=5', 'safetensors', 'tokenizers', 'onnxscript',
                  'accelerate>=1', 'tensorboard', 'pytorch-msssim>=1', 'matplotlib>=3.7',
                  'pyarrow>=15'],
        'gpu': ['tensorrt>=10.3', 'cuda-python>=12'],
        'rtx': [f'tensorrt-rtx-cu13{WHEELS_OF_ROS}', 'cuda-python>=12'],
        'viz': ['matplotlib>=3.7'],
        'data': ['pyarrow>=15'],
        'sim': [f'metadrive-simulator==0.4.3{WHEELS_OF_METADRIVE}', 'fast-simplification>=0.1.7',
                'pillow', 'pyarrow>=15', 'scipy', 'shapely>=2.1', 'trimesh>=4'],
        # The devkit's pins want an environment of their own; how to share one:
        # requirements/nuscenes.txt.
        'nuscenes': ["nuscenes-devkit>=1.2,<2; python_version < '3.13'", 'pyarrow>=15,<26'],
        'label': ['ray[client]>=2.9', 'torch>=2.6', 'transformers>=5', 'safetensors', 'tokenizers',
                  'pillow', 'pyarrow>=15'],
        'ros': [f'ros-jazzy-{part}{WHEELS_OF_ROS}' for part in (
            'rclpy', 'rmw-fastrtps-cpp', 'diagnostic-msgs', 'geometry-msgs', 'lifecycle-msgs',
            'nav-msgs', 'rosgraph-msgs', 'sensor-msgs', 'std-msgs', 'visualization-msgs')],
        # colcon runs pytest only where an extra of this name asks for it.
        'test': ['pytest>=6.2,<8.4', 'pytest-timeout>=2', 'hypothesis>=6'],
    },
    entry_points={
        'console_scripts': [
            'fastdrive = fastdrive_ros.tools.cli:main',
            'planner_node = fastdrive_ros.ros.node:main',
            'sim_node = fastdrive_ros.ros.sim_node:main',
        ],
    },
)
