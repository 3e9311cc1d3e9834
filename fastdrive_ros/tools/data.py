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

WORDS = {
    'assets': data_assets,
    'sim': data_sim,
    'nuscenes': data_nuscenes,
    'label': data_label,
    'inspect': data_inspect,
}
_EPILOG = """\
from nothing to a labelled six-camera dataset:
  fastdrive data assets
  fastdrive data sim my_dataset --frames 1000
  fastdrive data inspect my_dataset --sheet sheet.png

Help on one of them, with an example: fastdrive data WHAT --help
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its second words, each a file of its own."""
    parser = subparsers.add_parser(
        'data', help='make, import, label and look at datasets', epilog=_EPILOG,
        description='Make, import, label and look at datasets.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(dest='word', metavar='WHAT', required=True)
    for module in WORDS.values():
        module.add_parser(words)


def run(args: argparse.Namespace) -> int:
    """Run the second word; return the exit code."""
    return WORDS[args.word].run(args)
