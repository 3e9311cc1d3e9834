# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data assets`: the simulator's car models, fetched once and checked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_DESCRIPTION = """\
Fetch the car models that the simulator draws: 62 MB through pip, from whichever package index pip
uses here, checked and kept in ~/.cache/fastdrive_ros. Interrupted, run it again.

Also says whether the simulator is installed and whether this machine can draw (EGL; no screen and
no graphics card are needed).
"""
_EPILOG = """\
examples:
  fastdrive data assets
  fastdrive data assets --check
  fastdrive data assets --wheel metadrive_simulator-0.3.0.1-py3-none-any.whl
"""


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'assets', help='fetch what the simulator draws, once', description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--wheel', type=Path, metavar='FILE',
                        help='take this file instead of asking pip (machines without a network)')
    parser.add_argument('--check', action='store_true',
                        help='only say whether all is there and unchanged')


def run(args: argparse.Namespace) -> int:
    """Fetch or check; 0 when the simulator can run."""
    from fastdrive_ros.sim.assets import check_assets
    from fastdrive_ros.sim.assets import check_egl
    from fastdrive_ros.sim.assets import check_installed
    from fastdrive_ros.sim.assets import fetch_assets

    if args.check:
        print(f'{check_assets()}: all models are there and unchanged')
    else:
        fetch_assets(args.wheel, print)
    check_installed()
    check_egl()
    print('MetaDrive and EGL are there: the simulator can run')
    return 0
