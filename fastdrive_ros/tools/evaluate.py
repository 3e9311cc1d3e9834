# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive evaluate`: pruning methods and keep ratios compared open loop, on recorded drives."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.tools.evaluate_rows import wanted_rows
from fastdrive_ros.tools.progress import showing

if TYPE_CHECKING:  # neither engines nor pyarrow are needed for --help
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.tools.evaluate_models import LoadedPlanners
    from fastdrive_ros.tools.evaluate_rows import Row
    from fastdrive_ros.tools.evaluate_store import EvaluationStore
    from fastdrive_ros.tools.evaluate_worker import Job
    from fastdrive_ros.tools.evaluate_worker import Task

_DESCRIPTION = """\
Plan on every frame of a split with each pruning method at each keep ratio, through the vehicle's
own code, and compare with where the vehicle really went: displacement (L2), collisions and road
boundary under both published protocols, how much of the foreground was kept, compute.

Writes OUT/summary.json, OUT/summary.md, OUT/plots/ and a file of facts a scene in OUT/scenes/.
Interrupted, it goes on where it was when started again; with more methods or ratios it adds them.
What every figure means: docs/evaluation.md.
"""
_EPILOG = """\
examples:
  fastdrive evaluate --bundle my_bundle --data my_dataset --out evaluation
  fastdrive evaluate --bundle my_bundle --data my_nuscenes --out evaluation \\
      --pruners recon fastv divprune --keep 0.5 0.25 --controls
  fastdrive evaluate --bundle my_bundle --planner other_bundle --data my_dataset --out evaluation
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'evaluate', help='compare pruning methods open loop', description=_DESCRIPTION,
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bundle', type=Path, required=True, metavar='BUNDLE',
                        help='model bundle: encoder, pruner and planner')
    parser.add_argument('--data', type=Path, required=True, metavar='DATASET',
                        help='what `fastdrive data sim` or `data nuscenes` wrote')
    parser.add_argument('--split', choices=SPLITS, default='test', help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, required=True, metavar='OUT',
                        help='folder to write, or to go on with')
    parser.add_argument('--pruners', nargs='+', metavar='METHOD',
                        help='methods (default: all that the bundle has graphs for)')
    parser.add_argument('--keep', nargs='+', type=float, default=[0.75, 0.5, 0.25, 0.1],
                        metavar='RATIO', help='shares of tokens to keep (default: 0.75 0.5 0.25 '
                        '0.1; unpruned is always there)')
    parser.add_argument('--camera-floor', type=float, default=0.0, metavar='SHARE',
                        help='of an equal budget that each camera gets at least (default: 0)')
    parser.add_argument('--controls', action='store_true',
                        help="also plan on another drive's pictures, on grey ones, and without "
                        'ego history: how much does the planner look?')
    parser.add_argument('--planner', nargs='+', type=Path, default=[], metavar='BUNDLE',
                        help='further bundles with the same encoder and pruner')
    parser.add_argument('--limit', type=int, metavar='SCENES', help='only the first of the split')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, metavar='N',
                        help='processes, each with engines of its own (default: %(default)s)')
    parser.add_argument('--address', metavar='RAY', help="evaluate on a Ray cluster: 'auto' or "
                        'ray://HOST:10001; data and bundles at the same paths there')


def run(args: argparse.Namespace) -> int:
    """Evaluate what is missing and write the comparison; 0 when all is there."""
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.tools.evaluate_cost import plan_macs
    from fastdrive_ros.tools.evaluate_models import load_planners
    from fastdrive_ros.tools.evaluate_report import identity
    from fastdrive_ros.tools.evaluate_report import report
    from fastdrive_ros.tools.evaluate_report import summary_of
    from fastdrive_ros.tools.evaluate_store import EvaluationStore

    _check_numbers(args)
    dataset = Dataset(args.data)
    for sentence in dataset.dropped:
        _say(f'left out: {sentence}')
    planners = load_planners([args.bundle, *args.planner], args.pruners, _say)
    _check_cameras(dataset, planners)
    rows = wanted_rows(planners.bundles, planners.methods, args.keep, args.controls)
    tasks = _tasks(dataset, args, rows)
    fixed = identity(dataset, args.split, planners, args.camera_floor)
    store = EvaluationStore(args.out, fixed, planners.sha256)
    macs = plan_macs(planners.bundles, planners.engines, rows)
    planners.close()  # the workers have their own
    _evaluate_missing(tasks, store, planners, args)
    results = [store.read(task.scene) for task in tasks]
    report(args.out, summary_of(results, rows, macs, planners, fixed))
    return 0


def _check_numbers(args: argparse.Namespace) -> None:
    wrong = [f'--keep {ratio:g}' for ratio in args.keep if not 0.0 < ratio <= 1.0]
    wrong += [f'--camera-floor {args.camera_floor:g}'] * (not 0.0 <= args.camera_floor <= 1.0)
    wrong += [f'--{name} {value}' for name in ('workers', 'limit')
              if (value := getattr(args, name)) is not None and value < 1]
    if wrong:
        raise DataError(f"{', '.join(wrong)}: shares lie between 0 and 1 (a ratio above 0), "
                        'counts are at least 1')


def _check_cameras(dataset: Dataset, planners: LoadedPlanners) -> None:
    cameras = next(iter(planners.bundles.values())).cameras
    absent = [camera for camera in cameras if camera not in dataset.header.cameras]
    if absent:
        raise DataError(f"{dataset.root} has no {', '.join(absent)}, which the bundle's encoder "
                        f"needs; it has {', '.join(dataset.header.cameras)}: export the bundle "
                        'for these (`fastdrive export --cameras`)')


def _tasks(dataset: Dataset, args: argparse.Namespace, rows: tuple[Row, ...]) -> list[Task]:
    """Return one task a scene with all rows; the drive before lends it shuffled pictures."""
    from fastdrive_ros.tools.evaluate_worker import Task

    drives = dataset.drives(args.split)
    if not drives:
        raise DataError(f'{dataset.root} has no whole drive in split {args.split}: there is '
                        'nothing to evaluate')
    if args.controls and len(drives) < 2:
        raise DataError('--controls shows pictures of another drive, the split has only one')
    return [Task(scene.name, drive, drives[i - 1], i, rows) for i, (scene, drive) in enumerate(
        zip(dataset.scenes(args.split), drives[:args.limit]))]


def _evaluate_missing(tasks: list[Task], store: EvaluationStore, planners: LoadedPlanners,
                      args: argparse.Namespace) -> None:
    from dataclasses import replace
    from functools import partial

    from fastdrive_ros.tools.evaluate_pool import evaluate_here
    from fastdrive_ros.tools.evaluate_pool import evaluate_on_ray

    missing = []
    for task in tasks:
        lacking = set(store.missing(task.scene, (row.name for row in task.rows)))
        if lacking:
            missing.append(replace(task, rows=tuple(row for row in task.rows
                                                    if row.name in lacking)))
    if not missing:
        return
    evaluate = partial(evaluate_on_ray, args.address) if args.address else evaluate_here
    frames = sum(task.drive.num_frames for task in missing)
    with showing('evaluating', 'frames', frames) as progress:
        evaluate(_job(planners, args), missing, args.workers, store.add, progress)


def _job(planners: LoadedPlanners, args: argparse.Namespace) -> Job:
    from fastdrive_ros.tools.evaluate_worker import Job

    return Job(args.data.resolve(), tuple(bundle.path.resolve() for bundle in
                                          planners.bundles.values()),
               planners.methods, args.camera_floor, planners.backend, planners.on_cpu)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
