# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag to-dataset BAG ... --out DATASET`: recorded drives become training data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.options import add_topic_options
from fastdrive_ros.tools.options import given_settings
from fastdrive_ros.tools.progress import Progress
from fastdrive_ros.tools.progress import showing

if TYPE_CHECKING:
    from fastdrive_ros.bags import Bag
    from fastdrive_ros.data.bag_labels import SceneLabels
    from fastdrive_ros.data.shard import ShardWriter
    from fastdrive_ros.data.store import DatasetWriter

_DESCRIPTION = """\
Add recorded drives to a dataset, a shard a bag: sweeps are formed as on the vehicle, thinned to
a rate; calibration is that of camera_info and the transforms, motion that of the odometry,
commands come from where the vehicle went. Pictures are not encoded again. Bags that `fastdrive
bag from-dataset` wrote come back as they were, labels and all.
"""
_EPILOG = """\
examples:
  fastdrive bag to-dataset bags/sim_intersection_10hz --out my_drives --rate-hz 10
  fastdrive bag to-dataset monday tuesday --out my_drives --params-file my_topics.yaml
  fastdrive inspect monday --picture path.png     (look at this first: do the bag's parts agree?)

More bags may be added later; a drive whose name is there is left out. Exit code 0: all bags are
in the dataset. 1: pictures could not be decoded (they are counted, their cameras are absent).
"""


def add_parser(subparsers: Any) -> None:
    """Add the second word."""
    parser = subparsers.add_parser(
        'to-dataset', help='bags to a dataset', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', type=Path, nargs='+', metavar='BAG',
                        help='rosbag2 folders, .mcap or .db3 files: one drive each')
    parser.add_argument('--out', type=Path, required=True, metavar='DATASET',
                        help='folder to make or continue')
    parser.add_argument('--split', choices=('train', 'val', 'test'),
                        help='where the drives go (default: train, or where they came from)')
    parser.add_argument('--rate-hz', type=float, metavar='HZ',
                        help='frames a second to keep (default: 2, or all of a dataset)')
    add_topic_options(parser)


def run(args: argparse.Namespace) -> int:
    """Add the bags that are not there; 0 when every picture of them is."""
    from fastdrive_ros.data.records import DataError

    if args.rate_hz is not None and not 0.01 <= args.rate_hz <= 1000.0:
        raise DataError(f'--rate-hz must be within 0.01 .. 1000, found {args.rate_hz:g}')
    damaged = 0
    with showing('adding', 'bags', len(args.bags)) as progress:
        places = _places(args.out, progress)
        for i, path in enumerate(args.bags):
            damaged += _add(path, args, places, partial(progress, i), progress.say)
            progress(i + 1, path.name)
    print(f'next: fastdrive data inspect {args.out} --sheet sheet.png')
    return 1 if damaged else 0


def _add(path: Path, args: argparse.Namespace, places: dict[str, str],
         show: Callable[[str], None], say: Callable[[str], None]) -> int:
    """
    Add one bag, unless a drive of its name is in ``places`` already; note where it went.

    Returns how many of its pictures are damaged.
    """
    from fastdrive_ros.bags import Bag
    from fastdrive_ros.data.bag_in import DAMAGED
    from fastdrive_ros.data.bag_in import BagDrive
    from fastdrive_ros.data.bag_labels import read_scene_labels
    from fastdrive_ros.data.store import DatasetWriter

    with Bag(path) as bag:
        labels = read_scene_labels(bag)
        name = labels.name if labels else path.resolve().stem if path.is_file() else (
            path.resolve().name)
        split = _split(bag, labels, args.split)
        if name in places:
            say(f'{path}: left out, {args.out} has a drive {name} already ({places[name]}); is it '
                'another one? Then rename the bag')
            return 0
        # A bag that tells what it is has the default topics, whatever its cameras are called.
        asked = args.preset or args.params_file or args.set
        given = given_settings(args, bag) if asked or labels is None else {}
        drive = BagDrive(bag, name, given, labels, args.rate_hz)
        taken = count(1)
        frames = drive.frames(lambda: show(f'{name}: {next(taken)} frames'))
        writer = DatasetWriter(args.out, drive.header, say)
        with ExitStack() as stack:
            number, shard = _open_shard(stack, writer, split)
            shard.add(drive.scene, frames)
    places[name] = f'{split}/{number:06d}'
    say(f'{path}: {len(frames)} frames of {name} in {args.out / places[name]}, '
        f'{len(drive.scene.ego.stamps_ns)} samples of odometry')
    for sentence, times in drive.counts.items():
        say(f'  note: {times} {sentence}')
    return drive.counts[DAMAGED]


def _split(bag: Bag, labels: SceneLabels | None, wanted: str | None) -> str:
    """
    Return the split for a drive; one that was held back stays so.

    Raises DataError where a drive of test would become val or train, or one of val train.
    """
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.records import DataError

    if labels is None:
        return wanted or 'train'
    if wanted and SPLITS.index(wanted) < SPLITS.index(labels.split):
        raise DataError(f"{bag.path} is of the {labels.split} split of '{labels.header.name}': it "
                        f'does not become {wanted}, leave out --split')
    return wanted or labels.split


def _places(root: Path, progress: Progress) -> dict[str, str]:
    """Return {name of a drive: where it is} of a dataset, or of none."""
    from fastdrive_ros.data.header import FILE
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.shard import read_scene
    from fastdrive_ros.data.store import Dataset

    if not (root / FILE).exists():
        return {}
    dataset = Dataset(root)
    for sentence in dataset.dropped:
        progress.say(f'note: {sentence}')
    return {read_scene(drive).name: f'{split}/{drive.shard.name}' for split in SPLITS
            for failed in (False, True) for drive in dataset.drives(split, failed)}


def _open_shard(stack: ExitStack, writer: DatasetWriter, split: str) -> tuple[int, ShardWriter]:
    """Enter the first shard whose number is free; another process may be writing one."""
    from fastdrive_ros.data.store import ShardBusyError

    number = 0
    while True:
        if not (writer.root / split / f'{number:06d}').exists():
            with suppress(ShardBusyError):
                return number, stack.enter_context(writer.shard(split, number))
        number += 1
