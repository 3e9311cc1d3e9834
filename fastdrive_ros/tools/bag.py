# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag WHAT ...`: recorded drives to bags and back."""

from __future__ import annotations

import argparse
from typing import Any

from fastdrive_ros.tools import bag_from_dataset
from fastdrive_ros.tools import bag_from_nuscenes
from fastdrive_ros.tools import bag_to_dataset
from fastdrive_ros.tools.words import add_words

_EPILOG = """\
from a dataset to plans on it:
  fastdrive bag from-dataset my_dataset --out bags/
  fastdrive run bags/sim-000000000
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its second words, each a file of its own."""
    add_words(subparsers, 'bag', 'turn nuScenes or a dataset into a bag, a bag into a dataset',
              _EPILOG, (bag_from_nuscenes, bag_from_dataset, bag_to_dataset))


def run(args: argparse.Namespace) -> int:
    """Run the second word; return the exit code."""
    return args.run(args)
