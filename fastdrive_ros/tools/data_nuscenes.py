# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive data nuscenes DATASET --root ROOT`: nuScenes as one of our datasets."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.progress import showing
from fastdrive_ros.tools.tables import print_table

if TYPE_CHECKING:
    from fastdrive_ros.data.nuscenes_folder import NuscenesFolder
    from fastdrive_ros.data.nuscenes_map import DrivableMaps
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.data.store import DatasetHeader
    from fastdrive_ros.data.store import DatasetWriter

_DESCRIPTION = """\
Read nuScenes with its official devkit and write one of our datasets: a frame a keyframe.

The official val split (and test, which has no annotations) becomes our test and is never trained
on; every 10th scene of the official train split, by name, becomes val. That holds for v1.0-mini,
too: two scenes of the devkit's mini_train are of the official val split. Where they are unpacked
in ROOT, the map expansion gives drivable areas and the CAN bus expansion velocities.

Needs the extra [nuscenes]; nuScenes itself comes from nuscenes.org, under its own terms.
"""
_EPILOG = """\
examples:
  fastdrive data nuscenes my_nuscenes --root /data/nuscenes --version v1.0-mini
  fastdrive data nuscenes my_nuscenes --root /data/nuscenes --scenes scene-0061 scene-0103

A shard a scene. Interrupted, or with more scenes, it goes on where it was. Pictures are not
encoded again. For foreground masks: fastdrive data label my_nuscenes --help

Exit code 0: all is there. 1: pictures are missing or damaged (they are counted).
"""


def add_parser(subparsers: Any) -> None:
    """Add the second word."""
    parser = subparsers.add_parser(
        'nuscenes', help='import nuScenes', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('dataset', type=Path, metavar='DATASET', help='folder to make or continue')
    add_nuscenes_arguments(parser)
    parser.add_argument('--workers', type=int, default=min(8, os.cpu_count() or 1), metavar='N',
                        help='threads that read and check pictures (default: %(default)s)')


def add_nuscenes_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where nuScenes is and what to take of it."""
    parser.add_argument('--root', type=Path, required=True, metavar='ROOT',
                        help='the nuScenes folder, with samples/, maps/ and v1.0-.../')
    parser.add_argument('--version', help='v1.0-mini, v1.0-trainval or v1.0-test (default: the '
                        'one that is there)')
    parser.add_argument('--scenes', nargs='+', metavar='SCENE',
                        help='only these, as scene-0061 (default: all)')


def open_root(args: argparse.Namespace) -> tuple[NuscenesFolder, list[str]]:
    """Return the folder those arguments name, open, and the scenes asked for."""
    from fastdrive_ros.data.nuscenes_folder import check_folder
    from fastdrive_ros.data.nuscenes_folder import choose_scenes
    from fastdrive_ros.data.nuscenes_folder import open_nuscenes

    version = check_folder(args.root, args.version)
    if version == 'v1.0-trainval':
        print('reading the tables, this takes a minute', file=sys.stderr)
    folder = open_nuscenes(args.root, version)
    return folder, choose_scenes(folder, args.scenes)


def run(args: argparse.Namespace) -> int:
    """Import what is missing; 0 when every picture of the scenes asked for is in the dataset."""
    from fastdrive_ros.data.nuscenes_folder import official_splits
    from fastdrive_ros.data.nuscenes_folder import our_split
    from fastdrive_ros.data.nuscenes_map import DrivableMaps
    from fastdrive_ros.data.records import SPLITS
    from fastdrive_ros.data.records import DataError
    from fastdrive_ros.data.store import Dataset
    from fastdrive_ros.data.store import DatasetWriter

    if args.workers < 1:
        raise DataError(f'--workers must be at least 1, found {args.workers}')
    folder, scenes = open_root(args)
    official = official_splits()
    # A scene's shard has the scene's number among all of the version, whatever is asked for.
    numbers = {name: i for i, name in enumerate(folder.scenes)}
    places = {name: (our_split(name, official), numbers[name]) for name in scenes}
    maps = DrivableMaps(args.root)
    with showing('importing', 'scenes', len(scenes)) as progress:
        writer = DatasetWriter(args.dataset, _header(folder, maps), progress.say)
        done = {split: writer.done(split) for split in SPLITS}
        missing = {name: place for name, place in places.items()
                   if place[1] not in done[place[0]]}
        if missing and not maps.installed:
            progress.say(maps.advice)
        lacking = _import(folder, maps, writer, missing, args.workers, progress)
    damaged = _report(Dataset(args.dataset))
    if damaged:
        print(f'note: {len(damaged)} pictures could not be decoded and are absent from their '
              f'frames, the first is {damaged[0]}: put whole files into {args.root}, remove their '
              'shards and run the command again')
    if lacking:
        print(f'note: {lacking}')
    print(f'next: fastdrive data inspect {args.dataset} --sheet sheet.png')
    return 1 if damaged or lacking else 0


def _import(folder: NuscenesFolder, maps: DrivableMaps, writer: DatasetWriter,
            missing: Mapping[str, tuple[str, int]], workers: int, progress: Any) -> str:
    """Write the shards of these scenes; return a sentence about scenes that are not whole."""
    from concurrent.futures import ThreadPoolExecutor

    from fastdrive_ros.data.nuscenes import read_scene
    from fastdrive_ros.data.nuscenes_folder import whole_scenes

    if not missing:
        return ''
    whole, lacking = whole_scenes(folder, list(missing), sweeps=False)
    with ThreadPoolExecutor(workers) as pool:
        for i, name in enumerate(whole):
            with writer.shard(*missing[name]) as shard:
                shard.add(*read_scene(folder, maps, name, pool))
            progress(i + 1, name)
    return lacking


def _header(folder: NuscenesFolder, maps: DrivableMaps) -> DatasetHeader:
    from fastdrive_ros.core.types import NUSCENES_CAMERAS
    from fastdrive_ros.data.nuscenes import LICENSE
    from fastdrive_ros.data.nuscenes import RATE_HZ
    from fastdrive_ros.data.nuscenes import cameras_of
    from fastdrive_ros.data.nuscenes_ego import CAN_BUS_FOLDER
    from fastdrive_ros.data.nuscenes_folder import VAL_RULE
    from fastdrive_ros.data.store import DatasetHeader

    camera = cameras_of(folder, folder.scenes[0])[0]
    return DatasetHeader(
        f'nuscenes {folder.version}', 'nuscenes', NUSCENES_CAMERAS, camera.width, camera.height,
        RATE_HZ, license=LICENSE, settings={
            'version': folder.version, 'val': VAL_RULE, 'map_expansion': maps.installed,
            'can_bus': (folder.root / CAN_BUS_FOLDER).is_dir()})


def _report(dataset: Dataset) -> list[str]:
    """Print what the dataset holds by split; return the files of its damaged pictures."""
    from fastdrive_ros.data.nuscenes import DAMAGED
    from fastdrive_ros.data.records import SPLITS

    rows, damaged = [], []
    for split in SPLITS:
        scenes = list(dataset.scenes(split))
        files = [file for scene in scenes for file in scene.conditions.get(DAMAGED, ())]
        damaged += files
        rows.append((split, str(len(scenes)), str(dataset.count(split)), str(len(files))))
    print_table(str(dataset.root), ('split', 'scenes', 'frames', 'damaged pictures'), rows)
    return damaged
