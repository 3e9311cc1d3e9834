# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive train pruner`: frozen encoder and foreground masks -> a ReconPruner."""

from __future__ import annotations

import argparse
from typing import Any

from fastdrive_ros.tools.train_options import add_options
from fastdrive_ros.tools.train_options import last_figures
from fastdrive_ros.tools.train_options import run_shown

_DESCRIPTION = """\
Train ReconPruner (FastDriveVLA): kept tokens must rebuild the foreground, dropped ones the rest.

The encoder is frozen and no planner takes part, so one pruner serves every planner on the same
encoder. Works on any Qwen2.5-VL checkpoint and any dataset with masks (the simulator's, or
`fastdrive data label`).

Writes RUN/recon_pruner.safetensors (or plan_pruner.safetensors), RUN/curves.png, RUN/pictures
(what is rebuilt), and RUN/tensorboard. Ctrl-C saves; the same command goes on.
"""
_EPILOG = """\
examples:
  fastdrive train pruner --checkpoint planner_run/checkpoint --data my_dataset --out run
  fastdrive train pruner --checkpoint Qwen2.5-VL-3B --data nuscenes_fg --out run \\
    --recipe pruner_qwen_gpu --height 392 --width 672
ablations of the paper's Table 2:
  ... --set target=mask            predict the mask instead of rebuilding pixels
  ... --set adversarial=false      foreground alone
ours (method 'plan'): no masks, taught by the planner of the checkpoint to leave its plan as it is
  fastdrive train pruner --checkpoint planner_run/checkpoint --data my_dataset --out run \
    --recipe pruner_plan_nano_cpu
"""


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'pruner', help='on foreground masks', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 'pruner_nano_cpu')


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the last step is done."""
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.learn.loop import LoopConfig
    from fastdrive_ros.learn.nano import PRUNER_FILE
    from fastdrive_ros.learn.pruner_task import PrunerTask
    from fastdrive_ros.learn.pruner_training import PrunerTrainingConfig
    from fastdrive_ros.tools.recipe import read_recipe

    loop, config = read_recipe(args.recipe, args.set, LoopConfig, PrunerTrainingConfig)
    cameras = tuple(args.cameras or NUSCENES_CAMERAS)
    task = PrunerTask(args.checkpoint, args.data, cameras, args.height, args.width, config, loop)
    if not run_shown(task, loop, args):
        return 0
    option, name = (('--plan-pruner', 'plan_pruner.safetensors') if config.target == 'plan' else
                    ('--pruner', PRUNER_FILE))
    out = args.out / name
    task.write(out, f'{loop.steps} steps of {loop.batch_size} frames of {task.data_name}, '
               f'recipe {args.recipe}, seed {loop.seed}')
    print(f'{out}: {last_figures(args.out)}')
    print(f'next: fastdrive export --checkpoint {args.checkpoint} {option} {out} --out BUNDLE')
    return 0
