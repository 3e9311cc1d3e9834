# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive bag from-dataset DATASET --out FOLDER`: a bag a drive, for `ros2 bag play`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.appearing import appearing
from fastdrive_ros.tools.progress import showing

if TYPE_CHECKING:
    from fastdrive_ros.data.shard import Drive
    from fastdrive_ros.data.store import Dataset

_DESCRIPTION = """\
Write the drives of a dataset as rosbag2 MCAP folders, FOLDER/sim-000000000 and so on.

Pictures and camera_info, /odom, /tf and /tf_static have the names of the preset nuscenes_mcap,
masks and labels topics of their own. Each message is logged at its own stamp, pictures are not
encoded again: `fastdrive bag to-dataset` makes the same dataset of the bags.
"""
_EPILOG = """\
examples:
  fastdrive bag from-dataset my_dataset --out bags --split val
  fastdrive bag from-dataset my_dataset --out bags --scenes sim-000000000
  fastdrive run bags/sim-000000000 --out out/first

Interrupted, it goes on where it was: bags that are there are left as they are.
"""


def add_parser(subparsers: Any) -> None:
    """Add the second word."""
    parser = subparsers.add_parser(
        'from-dataset', help='a dataset to bags', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='folder of a dataset')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER',
                        help='folder for the bags')
    parser.add_argument('--split', choices=('train', 'val', 'test'), help='only this one')
    parser.add_argument('--scenes', nargs='+', metavar='NAME', help='only these drives')
    parser.add_argument('--failed', action='store_true', help='those that failed, too')


def run(args: argparse.Namespace) -> int:
    """Write the bags that are not there; 0 when all are."""
    from fastdrive_ros.data.bag_out import write_bag
    from fastdrive_ros.data.store import Dataset

    dataset = Dataset(args.dataset)
    chosen = _choose(dataset, args)
    written = 0
    with showing('writing', 'bags', len(chosen)) as progress:
        for i, (name, (split, drive)) in enumerate(chosen.items()):
            if not _is_there(args.out / name, name, drive.num_frames):
                scene, frames = dataset.read(drive)
                with appearing(args.out / name) as path:
                    write_bag(path, dataset.header, split, scene, frames)
                written += 1
            progress(i + 1, name)
    print(f'{args.out}: {written} bags written, {len(chosen) - written} were there already')
    for sentence in dataset.dropped:
        print(f'note: {sentence}')
    print(f'next: fastdrive inspect {args.out / next(iter(chosen))}')
    return 0


def _choose(dataset: Dataset, args: argparse.Namespace) -> dict[str, tuple[str, Drive]]:
    """Return {name: (split, drive)} of what was asked for; raises DataError for what is not."""
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.records import DataError
    from fastdrive_ros.data.shard import read_scene

    found: dict[str, tuple[str, Drive]] = {}
    for split in (args.split,) if args.split else SPLITS:
        for failed in (False, True) if args.failed else (False,):
            for drive in dataset.drives(split, failed):
                name = read_scene(drive).name
                if name in found:
                    raise DataError(f'{args.dataset} has two drives named {name}, in '
                                    f'{found[name][1].shard} and {drive.shard}: give --split, or '
                                    'make the dataset again')
                found[name] = split, drive
    missing = [name for name in args.scenes or () if name not in found]
    if missing or not found:
        there = ', '.join(list(found)[:3]) + (' ...' if len(found) > 3 else '')
        raise DataError(f"{args.dataset} has no drive {', '.join(missing) or 'at all'} "
                        f"({args.split or 'any split'}{'' if args.failed else ', not failed'}); "
                        f"there are {len(found)}{there and ': ' + there}")
    return {name: found[name] for name in args.scenes} if args.scenes else found


def _is_there(path: Path, name: str, num_frames: int) -> bool:
    """Tell whether the bag is there, whole; raises DataError when something else is."""
    from fastdrive_ros.bags import Bag
    from fastdrive_ros.bags import BagError
    from fastdrive_ros.data.bag_labels import LABELS_TOPIC
    from fastdrive_ros.data.bag_labels import read_scene_labels
    from fastdrive_ros.data.records import DataError

    if not path.exists():
        return False
    try:
        with Bag(path) as bag:
            labels = read_scene_labels(bag)
            held = bag.topics[LABELS_TOPIC].count if LABELS_TOPIC in bag.topics else 0
    except BagError as error:
        raise DataError(f'{path} is there and no whole bag: remove it and run the command again '
                        f'({error})') from error
    if labels is None or labels.name != name or held != num_frames:
        what = 'of no dataset' if labels is None else f'of {labels.name} with {held} frames'
        raise DataError(f'{path} is there and is a bag {what}, expected {name} with {num_frames}: '
                        'choose another --out, or remove it')
    return True
