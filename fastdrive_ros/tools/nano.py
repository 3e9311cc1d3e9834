# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive nano`: the checkpoint that the training of engines/nano began with."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Write a small Qwen2.5-VL checkpoint with a pruner and a waypoint head: seeded, not trained.

It is for six cameras at 10 Hz on two CPU cores, and for trying `fastdrive export` and training
without downloading a model. engines/nano is what training made of one. Needs the extra [train]:
pip install 'fastdrive_ros[train]'.
"""
_EPILOG = """\
example:
  fastdrive nano /tmp/nano
  fastdrive export --checkpoint /tmp/nano --out my_bundle
a second planner for an encoder that has a pruner:
  fastdrive nano second --seed 1 --encoder planner_run/checkpoint
  fastdrive train planner --checkpoint second --data my_dataset --out run2 \\
    --set freeze_encoder=true
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'nano',
        help='make a small untrained checkpoint to try training on',
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='checkpoint folder to write')
    parser.add_argument('--seed', type=int, default=0, help='of the weights (default: 0)')
    parser.add_argument('--encoder', type=Path, metavar='CHECKPOINT',
                        help='take the vision encoder of this nano checkpoint')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, print what it is; return the exit code."""
    from fastdrive_ros.learn.nano import write_nano_checkpoint

    out = args.out.expanduser()
    parameters = write_nano_checkpoint(out, args.seed, args.encoder)
    print(f'{out}: {parameters:,} parameters, seed {args.seed}, not trained')
    return 0
