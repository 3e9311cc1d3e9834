# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive train`: an expert's drives -> planner; masks -> pruner, score of early pruning."""

from __future__ import annotations

import argparse
from typing import Any

from fastdrive_ros.tools import train_early
from fastdrive_ros.tools import train_planner
from fastdrive_ros.tools import train_pruner
from fastdrive_ros.tools.words import add_words

_EPILOG = """\
from nothing to a trained bundle:
  fastdrive data assets && fastdrive data sim my_dataset --frames 22400
  fastdrive nano start
  fastdrive train planner --checkpoint start --data my_dataset --out planner_run
  fastdrive train pruner --checkpoint planner_run/checkpoint --data my_dataset --out pruner_run
  fastdrive export --checkpoint planner_run/checkpoint \\
    --pruner pruner_run/recon_pruner.safetensors --out my_bundle

Planner and pruner write a run folder and go on where they were interrupted: give the same command
again.
Several GPUs: accelerate launch -m fastdrive_ros train ...
Needs the extra [train]: pip install 'fastdrive_ros[train,data]'.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb and its second words, each a file of its own."""
    add_words(subparsers, 'train', 'train a planner on drives, a pruner on foreground masks',
              _EPILOG, (train_planner, train_pruner, train_early))


def run(args: argparse.Namespace) -> int:
    """Run the second word; return the exit code."""
    return args.run(args)
