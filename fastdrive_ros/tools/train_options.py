# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `fastdrive train planner` and `fastdrive train pruner` share: options, and a run shown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fastdrive_ros.tools.progress import showing


def add_options(parser: argparse.ArgumentParser, recipe: str) -> None:
    """Add the options of both; ``recipe`` is the default one."""
    add_model_options(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='RUN',
                        help='run folder to make, or to go on with')
    parser.add_argument('--recipe', default=recipe, metavar='NAME',
                        help='one of config/train, or a YAML file (default: %(default)s)')
    parser.add_argument('--set', action='append', default=[], metavar='NAME=VALUE',
                        help='change one setting of the recipe; may be repeated')


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add what says on which model and data, for `train early`, too."""
    parser.add_argument('--checkpoint', type=Path, required=True, metavar='DIR',
                        help='Qwen2.5-VL folder to start from; `fastdrive nano` makes a small one')
    parser.add_argument('--data', type=Path, required=True, metavar='DATASET',
                        help='of `fastdrive data`, with train and val splits')
    parser.add_argument('--cameras', nargs='+', metavar='NAME',
                        help="camera names in the model's order (default: the six of nuScenes)")
    parser.add_argument('--height', type=int, default=224,
                        help='rows of one picture, a multiple of 28 (default: %(default)s)')
    parser.add_argument('--width', type=int, default=392,
                        help='columns of one picture, a multiple of 28 (default: %(default)s)')


def run_shown(task: Any, config: Any, args: argparse.Namespace) -> bool:
    """
    Train with a progress bar, drawing RUN/curves.png after each validation.

    Returns whether this process is the one that writes the result; the others are done.
    """
    from fastdrive_ros.learn.loop import is_main_process
    from fastdrive_ros.learn.loop import read_metrics
    from fastdrive_ros.learn.loop import saved_step
    from fastdrive_ros.learn.loop import train
    from fastdrive_ros.tools.curves import draw_curves

    if not is_main_process():
        train(task, config, args.out, lambda step, note: None, lambda line: None)
        return False
    title = f'{task.name}: {args.out.name}'
    with showing(f'training the {task.name}', 'steps', config.steps,
                 saved_step(args.out)) as progress:
        def on_step(step: int, note: str) -> None:
            progress(step, note)
            if step % config.validate_every == 0 or step == config.steps:
                draw_curves(read_metrics(args.out), args.out / 'curves.png', title)

        train(task, config, args.out, on_step, progress.say)
    draw_curves(read_metrics(args.out), args.out / 'curves.png', title)
    return True


def last_figures(out: Path) -> str:
    """Return the last validation in words."""
    from fastdrive_ros.learn.loop import read_metrics

    rows = [row for row in read_metrics(out) if row['split'] == 'val']
    skip = ('step', 'split', 'learning_rate')
    return ', '.join(f'{name} {value:.4g}' for name, value in rows[-1].items()
                     if name not in skip) if rows else 'not validated'
