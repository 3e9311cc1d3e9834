# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A nuScenes folder as people have it -> the official devkit's tables, or what is missing in it.

    ROOT/v1.0-mini/*.json, ROOT/maps/*.png      the tables; checked here, read by the devkit
    ROOT/samples/, ROOT/sweeps/                 the pictures; looked for scene by scene
"""

from __future__ import annotations

import json
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.records import DataError

TABLES = ('category', 'attribute', 'visibility', 'instance', 'sensor', 'calibrated_sensor',
          'ego_pose', 'log', 'scene', 'sample', 'sample_data', 'sample_annotation', 'map')
# Version -> (the archive with its tables and maps, the archives with its pictures).
ARCHIVES = {
    'v1.0-mini': ('v1.0-mini.tgz', 'v1.0-mini.tgz'),
    'v1.0-trainval': ('v1.0-trainval_meta.tgz',
                      'one of v1.0-trainval01_blobs.tgz to v1.0-trainval10_blobs.tgz'),
    'v1.0-test': ('v1.0-test_meta.tgz', 'v1.0-test_blobs.tgz'),
}
VAL_RULE = 'every 10th scene of the official train split, by name'
_VAL_STEP = 10


@dataclass(frozen=True)
class NuscenesFolder:
    """A nuScenes version that is open."""

    root: Path
    version: str
    tables: Any
    """The devkit's NuScenes."""

    @property
    def scenes(self) -> list[str]:
        """Names of all scenes of the version, sorted: a scene's place never changes."""
        return sorted(scene['name'] for scene in self.tables.scene)


def open_nuscenes(root: Path, version: str) -> NuscenesFolder:
    """Read the tables of a version that check_folder found; raises DataError where damaged."""
    from nuscenes.nuscenes import NuScenes

    try:
        tables = NuScenes(version=version, dataroot=str(root), verbose=False)
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise DataError(_table_trouble(root, version, error)) from error
    return NuscenesFolder(root, version, tables)


def check_folder(root: Path, version: str | None) -> str:
    """
    Return the version to read (None: the only one that is there).

    Raises DataError saying what is missing of its tables, maps and pictures.
    """
    if not root.is_dir():
        raise DataError(f'no nuScenes at {root}: the folder does not exist; give the one with '
                        'samples/ and v1.0-mini/ or v1.0-trainval/ in it')
    version = _choose_version(root, version)
    archive = ARCHIVES[version][0]
    missing = [f'{table}.json' for table in TABLES
               if not (root / version / f'{table}.json').is_file()]
    if missing:
        raise DataError(f"{root / version} lacks {', '.join(missing)}: unpack {archive} into "
                        f'{root} again')
    for row in _read_table(root, version, 'map'):
        if not (root / row['filename']).is_file():
            raise DataError(f"{root / row['filename']} is missing, the devkit wants the maps: "
                            f'unpack {archive} into {root} again')
    if not (root / 'samples').is_dir():
        raise DataError(f'{root} has the tables of {version} and no pictures (samples/ is '
                        f'missing): unpack {ARCHIVES[version][1]} into {root}')
    return version


def choose_scenes(folder: NuscenesFolder, wanted: Sequence[str] | None) -> list[str]:
    """Return the scenes asked for, sorted; all when ``wanted`` is None. Raises DataError."""
    known = folder.scenes
    unknown = sorted(set(wanted or ()) - set(known))
    if unknown:
        shown = ', '.join(known[:10]) + (f', ... ({len(known)} scenes)' if len(known) > 10 else '')
        raise DataError(f"{', '.join(unknown)} not in {folder.version}, which has {shown}")
    return known if wanted is None else sorted(set(wanted))


def official_splits() -> dict[str, list[str]]:
    """Return {official split: scene names} from the devkit."""
    from nuscenes.utils import splits

    return {'train': splits.train, 'val': splits.val, 'test': splits.test}


def our_split(scene: str, official: Mapping[str, Collection[str]]) -> str:
    """
    Return our split of a scene, the same whatever version it is read from.

    Official val and test are test, VAL_RULE makes val, the rest of official train is train.
    Two scenes of the devkit's mini_train (scene-0553, scene-0796) are of the official val split:
    they are test, too.
    """
    if scene in official['val'] or scene in official['test']:
        return 'test'
    train = sorted(official['train'])
    if scene not in train:
        raise DataError(f'{scene} is in no official split (train, val, test): it cannot be told '
                        'whether it may be trained on, leave it out with --scenes')
    return 'val' if train.index(scene) % _VAL_STEP == 0 else 'train'


def camera_rows(folder: NuscenesFolder, scene: str, sweeps: bool) -> list[dict[str, Any]]:
    """Return the sample_data rows of the six cameras by stamp: keyframes, or sweeps, too."""
    rows = [row for camera in NUSCENES_CAMERAS for row in sensor_rows(folder, scene, camera)
            if sweeps or row['is_key_frame']]
    return sorted(rows, key=lambda row: (row['timestamp'], row['channel']))


def sensor_rows(folder: NuscenesFolder, scene: str, channel: str) -> list[dict[str, Any]]:
    """Return all sample_data rows of one sensor of a scene by stamp, keyframes and sweeps."""
    get = folder.tables.get
    start = next((sample['data'][channel] for sample in samples(folder, scene)
                  if channel in sample['data']), '')
    rows = []
    token = start
    while token:
        rows.append(get('sample_data', token))
        token = rows[-1]['next']
    token = get('sample_data', start)['prev'] if start else ''
    while token:
        rows.append(get('sample_data', token))
        token = rows[-1]['prev']
    return sorted(rows, key=lambda row: row['timestamp'])


def samples(folder: NuscenesFolder, scene: str) -> list[dict[str, Any]]:
    """Return the sample rows (keyframes) of a scene in order."""
    rows = []
    token = scene_row(folder, scene)['first_sample_token']
    while token:
        rows.append(folder.tables.get('sample', token))
        token = rows[-1]['next']
    return rows


def scene_row(folder: NuscenesFolder, scene: str) -> dict[str, Any]:
    """Return the row of the scene table."""
    return next(row for row in folder.tables.scene if row['name'] == scene)


def whole_scenes(folder: NuscenesFolder, scenes: Sequence[str], sweeps: bool) -> (
        tuple[list[str], str]):
    """
    Return (scenes whose pictures are all there, a sentence about the others or '').

    Raises DataError when no scene is whole.
    """
    whole, missing, total = [], [], 0
    for scene in scenes:
        files = [row['filename'] for row in camera_rows(folder, scene, sweeps)]
        absent = [file for file in files if not (folder.root / file).is_file()]
        missing += absent
        total += len(files)
        whole += [] if absent else [scene]
    if not missing:
        return whole, ''
    sentence = (f'{len(scenes) - len(whole)} of {len(scenes)} scenes lack pictures '
                f'({len(missing)} of {total} files, the first is {missing[0]}): unpack '
                f'{ARCHIVES[folder.version][1]} into {folder.root}')
    if not whole:
        raise DataError(sentence)
    return whole, f'{sentence} and run the command again, it goes on from here'


def _choose_version(root: Path, version: str | None) -> str:
    found = sorted(name for name in ARCHIVES if (root / name).is_dir())
    there = f"{root} has {', '.join(found) or 'none of them'}"
    if version is None:
        if len(found) != 1:
            raise DataError(f"which version? Known are {', '.join(ARCHIVES)}; {there}: " + (
                'choose with --version' if found else f'unpack {ARCHIVES["v1.0-mini"][0]} into '
                'it, or give the folder that holds one'))
        return found[0]
    if version not in ARCHIVES:
        raise DataError(f"unknown version '{version}': known are {', '.join(ARCHIVES)}; {there}")
    if version not in found:
        raise DataError(f'{root / version} does not exist; {there}: choose one of these, or '
                        f'unpack {ARCHIVES[version][0]} into {root}')
    return version


def _read_table(root: Path, version: str, table: str) -> list[dict[str, Any]]:
    file = root / version / f'{table}.json'
    try:
        rows = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(_damaged(file, version, root, str(error))) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(_damaged(file, version, root, 'not a list of rows'))
    return rows


def _table_trouble(root: Path, version: str, error: Exception) -> str:
    """Say which table the devkit could not use: read them again, one by one."""
    for table in TABLES:
        try:
            _read_table(root, version, table)
        except DataError as damage:
            return str(damage)
    return (f'the tables in {root / version} do not belong together ({type(error).__name__}: '
            f'{error}): unpack {ARCHIVES[version][0]} into {root} again')


def _damaged(file: Path, version: str, root: Path, reason: str) -> str:
    return f'{file} is damaged ({reason}): unpack {ARCHIVES[version][0]} into {root} again'
