# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data label`: real pictures without masks -> a copy of the dataset with them."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.config import share_dir
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError

if TYPE_CHECKING:
    from fastdrive_ros.data.header import DatasetHeader
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.data.store import DatasetWriter
    from fastdrive_ros.learn.foreground import ForegroundConfig
    from fastdrive_ros.tools.label_fleet import Task

# How many drives of a split are looked at for masks before anything is started.
_LOOK_AT_DRIVES = 8

_EPILOG = """\
example:
  fastdrive data label my_nuscenes --out my_nuscenes_fg \\
      --detector models/grounding-dino-base --segmenter models/sam-vit-huge

The two folders are whole downloads of public checkpoints, for instance of
IDEA-Research/grounding-dino-base and facebook/sam-vit-huge; nothing is downloaded here.
Interrupted, it goes on where it was when started again. On a Ray cluster (--address) all folders
must be on a file system that its machines share.

Exit code 0: every picture is labelled. 1: some could not be read (they are listed).
"""


def add_parser(subparsers: Any) -> None:
    """Add the second word."""
    parser = subparsers.add_parser(
        'label', help='give real pictures foreground masks (Grounded-SAM)', epilog=_EPILOG,
        description='Write a copy of a dataset in which every picture has a mask of class ids: '
        'Grounding DINO finds boxes for the prompts of a config file, SAM turns them into masks. '
        'Runs on Ray: on this computer, or on a cluster by its address.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='a dataset without masks')
    parser.add_argument('--out', type=Path, required=True, metavar='LABELLED',
                        help='dataset to write, or to go on with')
    parser.add_argument('--detector', type=Path, required=True, metavar='DIR',
                        help='Grounding DINO checkpoint folder')
    parser.add_argument('--segmenter', type=Path, required=True, metavar='DIR',
                        help='SAM or SAM 2 checkpoint folder')
    parser.add_argument('--config', type=Path, metavar='YAML',
                        help='prompts, thresholds, merging rule (default: config/foreground.yaml)')
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=list(SPLITS),
                        help='label only these (default: all)')
    parser.add_argument('--workers', type=int, metavar='N',
                        help='models at work at once (default: one a GPU, else one)')
    parser.add_argument('--address', metavar='ADDRESS',
                        help="an existing Ray cluster: 'auto' or ray://HOST:10001 (default: none, "
                        'this computer)')
    parser.add_argument('--device', choices=('cuda', 'cpu'),
                        help='where the models run (default: cuda if there is any)')
    parser.add_argument('--sheet', type=Path, metavar='PNG',
                        help='where the quality sheet goes (default: LABELLED/quality.png)')


def run(args: argparse.Namespace) -> int:
    """Label; 0 when every picture is."""
    import ray  # noqa: F401  # says what to install before anything is read

    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.data.store import DatasetWriter
    from fastdrive_ros.learn.foreground import read_foreground
    from fastdrive_ros.learn.grounded_checkpoint import DETECTOR
    from fastdrive_ros.learn.grounded_checkpoint import SEGMENTER
    from fastdrive_ros.learn.grounded_checkpoint import check_checkpoint
    from fastdrive_ros.tools.label_result import finish

    if args.workers is not None and args.workers < 1:
        raise DataError(f'--workers must be at least 1, found {args.workers}')
    config = read_foreground(args.config or share_dir() / 'config' / 'foreground.yaml')
    check_checkpoint(DETECTOR, args.detector)
    check_checkpoint(SEGMENTER, args.segmenter)
    source = Dataset(args.dataset)
    _refuse_labelled(source, args.out)
    header = _header(source.header, config, args)
    writer = DatasetWriter(args.out, header, _say)
    tasks = _tasks(source, args.split)
    failures = _label_missing(tasks, source, writer, config, args)
    return finish(args.out, [task for task in tasks if task not in failures],
                  [*source.dropped, *failures.values()], config,
                  args.sheet or args.out / 'quality.png')


def _label_missing(tasks: list[Task], source: Dataset, writer: DatasetWriter,
                   config: ForegroundConfig, args: argparse.Namespace) -> dict[Task, str]:
    """Label the shards that are not there yet; return why some could not be."""
    from fastdrive_ros.tools.label_fleet import Fleet
    from fastdrive_ros.tools.label_fleet import ray_session
    from fastdrive_ros.tools.label_worker import Job
    from fastdrive_ros.tools.progress import showing

    missing = _not_done(tasks, writer, args.split)
    if not missing:
        return {}
    _refuse_small_disk(source, missing, args.out)
    device, workers, gpus = _hardware(args)
    with ray_session(args.address, workers, gpus) as ray:
        if args.address is not None:
            device, workers = _cluster_hardware(ray, args)
        job = Job(args.dataset.resolve(), args.out.resolve(), source.header, writer.header,
                  args.detector.resolve(), args.segmenter.resolve(), config, device,
                  threads=max(1, (os.cpu_count() or 1) // workers) if not args.address else 1)
        pictures = sum(task.pictures for task in missing)
        _say(f'{len(missing)} shards with up to {pictures} pictures, '
             f'{workers} workers on {device}: loading the models')
        with showing('labelling', 'images', pictures) as on_pictures:
            failures = Fleet(ray, job, workers, _say, on_pictures).run(missing)
    elsewhere = [task for task in _not_done(missing, writer, args.split) if task not in failures]
    if elsewhere:
        raise DataError(f'{len(elsewhere)} shards were labelled, {elsewhere[0]} first, but are '
                        f'not in {args.out} here: put it on a folder that all machines share')
    return failures


def _refuse_labelled(source: Dataset, out: Path) -> None:
    """Refuse a dataset with masks, by a look at one camera of some drives."""
    from fastdrive_ros.learn.label_shard import refuse_masks

    if out.resolve() == source.root.resolve():
        raise DataError(f'--out {out} is the dataset itself: the labelled copy needs a folder of '
                        'its own')
    for split in SPLITS:
        drives = source.drives(split)
        for drive in drives[::max(1, len(drives) // _LOOK_AT_DRIVES)]:
            refuse_masks(source.read(drive, source.header.cameras[:1])[1])


def _header(source: DatasetHeader, config: ForegroundConfig,
            args: argparse.Namespace) -> DatasetHeader:
    from fastdrive_ros.learn.grounded_checkpoint import checkpoint_sha256

    return dataclasses.replace(
        source, name=args.out.resolve().name,
        settings={'source': source.name, 'source_settings': dict(source.settings),
                  **{f'foreground.{name}': value for name, value in config.identity().items()},
                  'detector_sha256': checkpoint_sha256(args.detector),
                  'segmenter_sha256': checkpoint_sha256(args.segmenter)},
        license=f'{source.license} Masks by Grounded-SAM.'.strip())


def _tasks(source: Dataset, splits: Sequence[str]) -> list[Task]:
    from fastdrive_ros.tools.label_fleet import Task

    tasks = []
    for split in splits:
        frames = Counter({int(shard.name): 0 for shard in source.shards(split)})
        for drive in source.drives(split):
            frames[int(drive.shard.name)] += drive.num_frames
        tasks += [Task(split, shard, count * len(source.header.cameras))
                  for shard, count in sorted(frames.items())]
    if not tasks:
        raise DataError(f'{source.root} has no whole shard in {", ".join(splits)}: there is '
                        'nothing to label')
    return tasks


def _not_done(tasks: Sequence[Task], writer: DatasetWriter, splits: Sequence[str]) -> list[Task]:
    done = {split: writer.done(split) for split in splits}
    return [task for task in tasks if task.shard not in done[task.split]]


def _refuse_small_disk(source: Dataset, missing: Sequence[Task], out: Path) -> None:
    """Refuse early: the copy needs as much as the original, masks come on top."""
    needed = sum(file.stat().st_size for task in missing
                 for file in (source.root / str(task)).glob('*.parquet'))
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DataError(f'the labelled copy needs more than {needed / 1e9:.1f} GB, {out} has '
                        f'{free / 1e9:.1f} GB left: make room or choose another --out')


def _hardware(args: argparse.Namespace) -> tuple[str, int, int]:
    """Return (device, workers, GPUs) of this computer."""
    import torch

    found = torch.cuda.device_count()
    device = args.device or ('cuda' if found else 'cpu')
    if args.address is not None:
        return device, args.workers or 1, 0
    if device == 'cpu':
        return device, args.workers or 1, 0
    if found < (args.workers or 1):
        raise DataError(f'{args.workers or 1} workers on cuda need as many GPUs, torch finds '
                        f'{found} here: fewer --workers, --device cpu, or a cluster by --address')
    return device, args.workers or found, found


def _cluster_hardware(ray: Any, args: argparse.Namespace) -> tuple[str, int]:
    """Return (device, workers) for the cluster; more may join it later."""
    gpus = int(ray.cluster_resources().get('GPU', 0))
    device = args.device or ('cuda' if gpus else 'cpu')
    workers = args.workers or max(1, gpus)
    if device == 'cuda' and gpus < workers:
        _say(f'{workers} workers want a GPU each, the cluster has {gpus} now: the others start '
             'when there are more')
    return device, workers


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
