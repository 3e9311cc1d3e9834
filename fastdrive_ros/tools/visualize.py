# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive visualize`: what each method keeps, the plans it leads to, and what is rebuilt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.tools.options import add_topic_options
from fastdrive_ros.tools.progress import showing

if TYPE_CHECKING:  # neither engines nor pyarrow are needed for --help
    from fastdrive_ros.runtime.bundle import Bundle
    from fastdrive_ros.tools.evaluate_models import LoadedPlanners
    from fastdrive_ros.tools.visualize_frames import Shown

_DESCRIPTION = """\
Draw frames as FastDriveVLA's Figures 4 and 5 do. For every frame:

  NAME_kept_RATIO.png   the tokens that each method keeps, on all cameras, method under method
  NAME_plans.png        the plans they lead to, from above, against where the vehicle then went
  NAME_rebuilt.png      with --rebuild: what a pruner's training rebuilds from kept and from
                        dropped tokens

Frames come from a dataset, a bag or folders of pictures. Pictures alone have no odometry: no
plans are drawn of them.
"""
_EPILOG = """\
examples:
  fastdrive visualize --data my_dataset --out figures
  fastdrive visualize --bag bags/sim_intersection_10hz --out figures --keep 0.5
  fastdrive visualize --pictures sweep1 sweep2 --out figures      # sweep1/CAM_FRONT.jpg, ...
  fastdrive visualize --data my_dataset --out figures --pruners recon fastv \\
    --rebuild pruner_run --checkpoint planner_run/checkpoint
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'visualize', help='draw kept tokens, plans and reconstructions', description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--data', type=Path, metavar='DATASET', help='a dataset folder')
    source.add_argument('--bag', type=Path, metavar='BAG', help='rosbag2 folder, .mcap or .db3')
    source.add_argument('--pictures', type=Path, nargs='+', metavar='FOLDER',
                        help='folders of pictures named as the cameras, one sweep each')
    parser.add_argument('--bundle', metavar='BUNDLE',
                        help='model bundle (default: the sample, engines/nano)')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR',
                        help='folder for the pictures')
    parser.add_argument('--split', choices=SPLITS, default='test', help='(default: %(default)s)')
    parser.add_argument('--scene', nargs='+', metavar='NAME',
                        help='drives of the dataset (default: spread over the split)')
    parser.add_argument('--frames', type=int, default=3, metavar='N',
                        help='of the dataset or bag, evenly spread (default: %(default)s)')
    parser.add_argument('--pruners', nargs='+', metavar='METHOD',
                        help='methods (default: all that the bundle has graphs for)')
    parser.add_argument('--keep', nargs='+', type=float, default=[0.5, 0.25], metavar='RATIO',
                        help='shares of tokens to keep (default: 0.5 0.25)')
    parser.add_argument('--rebuild', type=Path, metavar='RUN',
                        help='run of `fastdrive train pruner`; needs --checkpoint')
    parser.add_argument('--checkpoint', type=Path, metavar='DIR',
                        help='the checkpoint that RUN was trained on')
    add_topic_options(parser)


def run(args: argparse.Namespace) -> int:
    """Draw; 0 when every frame is drawn."""
    from fastdrive_ros.config import bundle_path
    from fastdrive_ros.tools.evaluate_models import load_planners

    _check(args)
    planners = load_planners([bundle_path({'bundle': args.bundle})], args.pruners, _say)
    try:
        bundle = next(iter(planners.bundles.values()))
        frames = _frames(args, bundle)
        args.out.mkdir(parents=True, exist_ok=True)
        with showing('drawing', 'frames', len(frames)) as progress:
            for i, frame in enumerate(frames):
                for path in _draw(frame, planners, args):
                    progress.say(str(path))
                progress(i + 1)
        if args.rebuild:
            _draw_rebuilt(frames, args)
    finally:
        planners.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    wrong = [f'--keep {ratio:g}' for ratio in args.keep if not 0.0 < ratio < 1.0]
    if wrong or args.frames < 1:
        raise DataError(f"{', '.join(wrong) or f'--frames {args.frames}'}: a ratio lies between "
                        '0 and 1, and at least one frame is drawn')
    if (args.rebuild is None) != (args.checkpoint is None):
        raise DataError('--rebuild RUN and --checkpoint DIR belong together: the run holds the '
                        'decoders, the checkpoint the encoder that they were trained on')


def _frames(args: argparse.Namespace, bundle: Bundle) -> list[Shown]:
    from fastdrive_ros.tools import visualize_frames

    if args.data:
        return visualize_frames.of_dataset(args.data, args.split, args.scene, args.frames, bundle)
    if args.bag:
        return visualize_frames.of_bag(args, args.frames, bundle)
    return [visualize_frames.of_folder(folder, bundle) for folder in args.pictures]


def _draw(frame: Shown, planners: LoadedPlanners, args: argparse.Namespace) -> list[Path]:
    """Draw one frame; return what was written."""
    from fastdrive_ros.tools.evaluate_models import Models
    from fastdrive_ros.tools.visualize_kept import draw_kept_tokens
    from fastdrive_ros.tools.visualize_plans import draw_plans
    from fastdrive_ros.tools.visualize_ways import ways_of

    models = Models(planners.bundles, planners.engines, camera_floor=0.0)
    ratios = sorted(set(args.keep), reverse=True)
    ways = ways_of(frame, models, planners.methods, ratios)
    written = []
    for ratio in ratios:
        path = args.out / f'{frame.name}_kept_{ratio:g}.png'
        draw_kept_tokens(frame, [way for way in ways if way.keep_ratio == ratio], path)
        written.append(path)
    if frame.ego is not None:
        path = args.out / f'{frame.name}_plans.png'
        draw_plans(frame, ways, path)
        written.append(path)
    return written


def _draw_rebuilt(frames: Sequence[Shown], args: argparse.Namespace) -> None:
    from fastdrive_ros.learn.pruner_task import load_training
    from fastdrive_ros.tools.visualize_rebuilt import draw_rebuilt

    training = load_training(args.rebuild, args.checkpoint)
    for frame in frames:
        path = args.out / f'{frame.name}_rebuilt.png'
        draw_rebuilt(frame, training, path)
        _say(str(path))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
