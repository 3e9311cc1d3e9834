# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data sim DATASET`: a labelled six-camera driving world, made from seeds."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from fastdrive_ros.tools.progress import showing

_DESCRIPTION = """\
Drive simulated roads and record six cameras, class masks, odometry, boxes and drivable area.

Every drive follows from its seed: running the same command again, or with more frames, goes on
where it stopped, with any number of workers, and gives the same dataset. 5 % of the drives are
val, 5 % test; their seeds are never in train. Drives that fail are kept apart.

Needs once: `fastdrive data assets`. Python 3.10 or 3.11, and the extra [sim].
"""
_EPILOG = """\
examples:
  fastdrive data sim my_dataset --frames 1000
  fastdrive data sim my_dataset --hours 3 --workers 8
  fastdrive data sim for_bags --frames 600 --rate-hz 10
"""
_BYTES_A_FRAME = 150_000


def add_parser(subparsers: Any) -> None:
    """Add the word."""
    parser = subparsers.add_parser(
        'sim', help='make one with the simulator', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='folder to make or continue')
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument('--frames', type=int, help='six-camera frames, at least (default: 1000)')
    amount.add_argument('--hours', type=float, help='the same as driving time')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, metavar='N',
                        help='processes (default: one for each core, %(default)s)')
    parser.add_argument('--rate-hz', type=float, default=2.0, choices=(1.0, 2.0, 5.0, 10.0),
                        help='pictures a second of driving (default: %(default)g, as nuScenes '
                        'keyframes; 10 makes smooth bags)')
    parser.add_argument('--size', type=picture_size, default=(448, 252), metavar='WxH',
                        help='of the pictures (default: 448x252)')


def run(args: argparse.Namespace) -> int:
    """Make what is missing; 0 when all frames are there."""
    from fastdrive_ros.sim.assets import assets_dir
    from fastdrive_ros.sim.assets import check_egl
    from fastdrive_ros.sim.assets import check_installed

    for check in (check_installed, check_egl, assets_dir):
        check()
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.records import DataError
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.sim.generate import FRAMES_A_SHARD
    from fastdrive_ros.sim.generate import generate
    from fastdrive_ros.sim.generate import header
    from fastdrive_ros.sim.generate import shards_for
    from fastdrive_ros.sim.world import WorldSettings

    frames = args.frames if args.hours is None else round(args.hours * 3600 * args.rate_hz)
    frames = 1000 if frames is None else frames
    if frames < 1 or args.workers < 1:
        raise DataError('at least one frame and one worker are needed, got '
                        f'{frames} frames and {args.workers} workers')
    dataset = header(WorldSettings(*args.size), args.rate_hz)
    before = _count(args.dataset)
    wanted = sum(shards_for(frames).values()) * FRAMES_A_SHARD
    _check_room(args, wanted - before)
    start_s = time.monotonic()
    with showing('driving', 'frames', wanted, min(before, wanted)) as progress:
        made = generate(args.dataset, dataset, frames, args.workers,
                        lambda taken, failed: progress(min(before + taken, wanted),
                                                       f'{failed} drives failed'), progress.say)
    elapsed_s = time.monotonic() - start_s
    whole = Dataset(args.dataset)
    counts = {split: whole.count(split) for split in SPLITS}
    size = sum(path.stat().st_size for path in args.dataset.rglob('*.parquet'))
    new = sum(counts.values()) - before
    report = {
        'frames': counts, 'made_now': new, 'elapsed_s': round(elapsed_s, 1),
        'frames_per_s': round(new / elapsed_s, 2), **made,
        'MB_per_frame': round(size / 1e6 / max(1, sum(counts.values())), 4),
        'workers': args.workers}
    print(f'{args.dataset}: ' + ', '.join(f'{n} {split}' for split, n in counts.items())
          + f" frames; {new} made now in {elapsed_s:.0f} s, {new / elapsed_s:.1f} frames/s; "
          f"{made['drives']} drives kept, {made['failed']} failed")
    print(f'next: fastdrive data inspect {args.dataset} --sheet sheet.png')
    print(json.dumps(report))
    return 0


def _count(root: Path) -> int:
    """Return the frames that are there already."""
    from fastdrive_ros.data.header import FILE
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.store import Dataset

    if not (root / FILE).exists():
        return 0
    dataset = Dataset(root)
    return sum(dataset.count(split) for split in SPLITS)


def _check_room(args: argparse.Namespace, frames: int) -> None:
    from fastdrive_ros.data.records import DataError

    folder = next(path for path in (args.dataset.absolute(), *args.dataset.absolute().parents)
                  if path.exists())
    share = args.size[0] * args.size[1] / (448 * 252)
    need, free = frames * _BYTES_A_FRAME * share, shutil.disk_usage(folder).free
    if need > free:
        raise DataError(f'{frames} frames need about {need / 1e9:.1f} GB, {folder} has '
                        f'{free / 1e9:.1f} GB free: make room, choose another disk, ask for less')


def picture_size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT, for argparse."""
    try:
        width, height = (int(number) for number in text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'a size is WIDTHxHEIGHT, as 448x252, not {text}') from None
    if not (64 <= width <= 1600 and 36 <= height <= 1200):
        raise argparse.ArgumentTypeError(f'{text}: between 64x36 and 1600x1200, please')
    return width, height
