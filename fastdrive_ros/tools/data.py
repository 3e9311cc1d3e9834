# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data WHAT ...`: datasets made, imported, labelled and looked at."""

from __future__ import annotations

import argparse
from typing import Any

from fastdrive_ros.tools import data_assets
from fastdrive_ros.tools import data_inspect
from fastdrive_ros.tools import data_label
from fastdrive_ros.tools import data_nuscenes
from fastdrive_ros.tools import data_sim
from fastdrive_ros.tools.words import add_words

_EPILOG = """\
from nothing to a labelled six-camera dataset:
  fastdrive data assets
  fastdrive data sim my_dataset --frames 1000
  fastdrive data inspect my_dataset --sheet sheet.png
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its second words, each a file of its own."""
    add_words(subparsers, 'data', 'make, import, label and look at datasets', _EPILOG,
              (data_assets, data_sim, data_nuscenes, data_label, data_inspect))


def run(args: argparse.Namespace) -> int:
    """Run the second word; return the exit code."""
    return args.run(args)
