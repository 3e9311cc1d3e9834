# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive train early`: foreground masks -> the score that drops windows inside the encoder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.progress import showing
from fastdrive_ros.tools.train_options import add_model_options

if TYPE_CHECKING:  # --help needs no torch
    from fastdrive_ros.learn.early_fit import Fit

_DESCRIPTION = """\
Fit the score of early pruning: how much foreground a window of the vision tower holds, from its
mean state after one of the first blocks. A ridge regression in closed form, minutes on a CPU.

Prints how much of the val split's foreground lies in the windows kept, by this score and by others
to compare with: chance, the states' length and their distance from the camera's mean (no fit
needed), the mean of each window's place in the picture (no picture needed), and the truth (no
score can do better).
"""
_EPILOG = """\
example:
  fastdrive train early --checkpoint run/checkpoint --data my_dataset --out early_score.safetensors
  fastdrive export --checkpoint run/checkpoint --pruner recon_pruner.safetensors --out my_bundle \\
    --early-pruning 1:0.5 --early-score early_score.safetensors
what it costs and what it brings: docs/early_pruning.md
"""


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'early', help='which windows the encoder may drop, on foreground masks',
        description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='FILE',
                        help='safetensors file to write')
    parser.add_argument('--blocks', nargs='+', type=int, metavar='BLOCK',
                        help='after which blocks, from 0 (default: each of the first eight)')
    parser.add_argument('--frames', type=int, default=1000,
                        help='of the train split; half as many of val judge (default: '
                        '%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Fit, write, print the comparison; 0 when the file is there."""
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.data.records import DataError
    from fastdrive_ros.learn.early_fit import FitRequest
    from fastdrive_ros.learn.early_fit import fit_early_score
    from fastdrive_ros.learn.early_score import save_early_score

    if args.frames < 2:
        raise DataError(f'--frames must be at least 2, found {args.frames}')
    request = FitRequest(
        args.checkpoint, args.data, tuple(args.cameras or NUSCENES_CAMERAS), args.height,
        args.width, tuple(args.blocks) if args.blocks else None, args.frames)
    with showing('fitting', 'frames', args.frames + args.frames // 2) as progress:
        fit = fit_early_score(request, progress)
    training = (f'ridge regression on {fit.num_train} frames of {args.data.resolve().name} '
                f'({args.height} x {args.width})')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_name(args.out.name + '.partial')
    save_early_score(fit.weights, training, partial)
    os.replace(partial, args.out)
    _print(fit)
    block = min(fit.weights)
    print(f'{args.out}: {training}')
    print(f'next: fastdrive export --checkpoint {args.checkpoint} --early-pruning {block}:0.5 '
          f'--early-score {args.out} --out BUNDLE')
    return 0


def _print(fit: Fit) -> None:
    from fastdrive_ros.learn.early_fit import SHARES

    print(f'foreground kept on {fit.num_val} frames of val, of all cameras together')
    width = max(map(len, fit.recall))
    heads = [f'{share:.0%} ({encoded:.0%} of tokens)'
             for share, encoded in zip(SHARES, fit.encoded, strict=True)]
    print('  '.join(['windows kept by'.ljust(width), *heads]))
    for name, recall in fit.recall.items():
        print('  '.join([name.ljust(width), *(f'{value:.1%}'.rjust(len(head)) for value, head in
                                              zip(recall, heads, strict=True))]))
