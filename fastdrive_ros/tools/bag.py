# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag WHAT ...`: recorded drives to bags and back."""

from __future__ import annotations

import argparse
from typing import Any

from fastdrive_ros.tools import bag_from_dataset
from fastdrive_ros.tools import bag_from_nuscenes
from fastdrive_ros.tools import bag_to_dataset

WORDS = {
    'from-nuscenes': bag_from_nuscenes,
    'from-dataset': bag_from_dataset,
    'to-dataset': bag_to_dataset,
}
_EPILOG = """\
from a dataset to plans on it:
  fastdrive bag from-dataset my_dataset --out bags/
  fastdrive run bags/sim-000000000

Help on one of them, with an example: fastdrive bag WHAT --help
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its second words, each a file of its own."""
    parser = subparsers.add_parser(
        'bag', help='turn nuScenes or a dataset into a bag, a bag into a dataset', epilog=_EPILOG,
        description='Turn nuScenes or a dataset into rosbag2 MCAP, and a bag into a dataset.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(dest='word', metavar='WHAT', required=True)
    for module in WORDS.values():
        module.add_parser(words)


def run(args: argparse.Namespace) -> int:
    """Run the second word; return the exit code."""
    return WORDS[args.word].run(args)
