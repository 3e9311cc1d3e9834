# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag from-nuscenes OUT --root ROOT`: a bag a scene, which `ros2 bag play` plays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastdrive_ros.tools.appearing import appearing
from fastdrive_ros.tools.data_nuscenes import add_nuscenes_arguments
from fastdrive_ros.tools.data_nuscenes import open_root
from fastdrive_ros.tools.progress import showing

_DESCRIPTION = """\
Write scenes of nuScenes as rosbag2 MCAP folders, OUT/scene-0061 and so on.

Six cameras at 12 Hz (keyframes and sweeps) with camera_info, /odom at up to 50 Hz, /tf and
/tf_static, under the names of the preset nuscenes_mcap. Each message is logged at its own stamp.
Pictures are not encoded again.

Needs the extra [nuscenes]; nuScenes itself comes from nuscenes.org, under its own terms.
"""
_EPILOG = """\
example:
  fastdrive bag from-nuscenes bags --root /data/nuscenes --scenes scene-0061
  fastdrive run bags/scene-0061

Bags that are there already are left as they are. Exit code 0: all are there. 1: pictures are
missing or damaged (they are counted).
"""


def add_parser(subparsers: Any) -> None:
    """Add the second word."""
    parser = subparsers.add_parser(
        'from-nuscenes', help='nuScenes to bags', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='OUT', help='folder for the bags')
    add_nuscenes_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the bags that are not there; 0 when no picture is lacking."""
    from fastdrive_ros.data.nuscenes_bag import write_bag
    from fastdrive_ros.data.nuscenes_folder import whole_scenes

    folder, scenes = open_root(args)
    missing = [name for name in scenes if not (args.out / name).exists()]
    whole, lacking = whole_scenes(folder, missing, sweeps=True) if missing else ([], '')
    pictures, damaged = 0, []
    with showing('writing', 'bags', len(whole)) as progress:
        for i, name in enumerate(whole):
            with appearing(args.out / name) as path:
                written, unreadable = write_bag(folder, name, path)
            pictures += written
            damaged += unreadable
            progress(i + 1, name)
    print(f'{args.out}: {len(whole)} bags written with {pictures} pictures, '
          f'{len(scenes) - len(missing)} were there already')
    if damaged:
        print(f'note: {len(damaged)} pictures cannot be decoded and were left out, the first is '
              f'{damaged[0]}: put whole files into {args.root}, remove the bag and write it again')
    if lacking:
        print(f'note: {lacking}')
    if whole:
        print(f'next: fastdrive inspect {args.out / whole[0]}')
    return 1 if damaged or lacking else 0
