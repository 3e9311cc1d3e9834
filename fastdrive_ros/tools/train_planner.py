# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive train planner`: a checkpoint and an expert's drives -> a checkpoint that plans."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastdrive_ros.tools.progress import showing
from fastdrive_ros.tools.train_options import add_options
from fastdrive_ros.tools.train_options import last_figures
from fastdrive_ros.tools.train_options import run_shown

_DESCRIPTION = """\
Train encoder, language model and waypoint queries end to end on an expert's driving.

All visual tokens are used: pruning comes afterwards and leaves the planner as it is. With
freeze_encoder=true only the planner learns, which gives a second planner for the same pruner.

With --prompt the language model learns to write its waypoints instead, in the words of that file,
on an encoder that stays as it is (freeze_encoder=false trains it, too).

Writes RUN/checkpoint (for `train pruner` and `export`), RUN/curves.png, RUN/tensorboard. Ctrl-C
saves; the same command goes on.
"""
_EPILOG = """\
examples:
  fastdrive nano start
  fastdrive train planner --checkpoint start --data my_dataset --out run
  fastdrive train planner --checkpoint start --data my_dataset --out run2 \\
    --recipe planner_nano_gpu --set seed=1
  fastdrive train planner --checkpoint run/checkpoint --data my_dataset --out run3 \
    --prompt my_prompt.yaml --recipe text_nano_cpu
  tensorboard --logdir run/tensorboard
"""


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'planner', help="on an expert's driving", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 'planner_nano_cpu')
    parser.add_argument('--prompt', type=Path, metavar='FILE',
                        help='learn to write waypoints as text; config/prompts/ has examples')


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the last step is done."""
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.learn.loop import LoopConfig
    from fastdrive_ros.learn.planner_task import PlannerTask
    from fastdrive_ros.learn.planner_training import PlannerTrainingConfig
    from fastdrive_ros.tools.recipe import read_recipe

    if args.prompt:
        return _run_text(args)
    loop, config = read_recipe(args.recipe, args.set, LoopConfig, PlannerTrainingConfig)
    cameras = tuple(args.cameras or NUSCENES_CAMERAS)
    task = PlannerTask(args.checkpoint, args.data, cameras, args.height, args.width, config, loop)
    if not run_shown(task, loop, args):
        return 0
    if config.readout_frames:
        with showing('recording query states', 'frames', config.readout_frames) as progress:
            task.fit_readout(progress)
    out = args.out / 'checkpoint'
    task.write(out, f'{loop.steps} steps of {loop.batch_size} frames of {task.data_name}, '
               f'recipe {args.recipe}, seed {loop.seed}')
    print(f'{out}: {last_figures(args.out)}')
    print(f'next: fastdrive train pruner --checkpoint {out} --data {args.data} --out RUN')
    return 0


def _run_text(args: argparse.Namespace) -> int:
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.learn.loop import LoopConfig
    from fastdrive_ros.learn.prompt_file import shown_cameras
    from fastdrive_ros.learn.text_task import TextTask
    from fastdrive_ros.learn.text_training import TextTrainingConfig
    from fastdrive_ros.tools.recipe import read_recipe

    loop, config = read_recipe(args.recipe, args.set, LoopConfig, TextTrainingConfig)
    cameras = tuple(args.cameras or shown_cameras(args.prompt, NUSCENES_CAMERAS))
    task = TextTask(args.checkpoint, args.data, args.prompt, cameras, args.height, args.width,
                    config, loop)
    if not run_shown(task, loop, args):
        return 0
    out = args.out / 'checkpoint'
    task.write(out)
    print(f'{out}: {last_figures(args.out)}')
    print(f'next: fastdrive export --checkpoint {out} --prompt {args.prompt} --out BUNDLE')
    return 0
