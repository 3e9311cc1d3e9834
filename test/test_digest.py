# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checksums of a split: the same for the same data, another for any other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_drives import make_png
from make_drives import make_scene

pytest.importorskip('pyarrow', reason="datasets need pyarrow: pip install 'fastdrive_ros[data]'")
import pyarrow.parquet as pq

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.digest import Digest
from fastdrive_ros.data.digest import digest
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter

Drive = tuple[SceneRecord, list[FrameRecord]]


def make(root: Path, shards: dict[int, list[Drive]]) -> Dataset:
    header = DatasetHeader('small', 'metadrive', NUSCENES_CAMERAS, 112, 56, 2.0)
    out = DatasetWriter(root, header, print)
    for number, drives in shards.items():
        with out.shard('train', number) as shard:
            for drive in drives:
                shard.add(*drive)
    return Dataset(root)


def of(root: Path, drive: Drive) -> Digest:
    return digest(make(root, {0: [drive]}), 'train')


def test_it_is_of_values_not_of_files(tmp_path: Path) -> None:
    drives = [make_scene(f'sim-{i}', num_frames=2, seed=i) for i in range(3)]
    failed = make_scene('sim-9', outcome='crash_vehicle')
    a = make(tmp_path / 'a', {0: drives[:1], 1: drives[1:]})
    b = make(tmp_path / 'b', {1: [drives[1], failed, drives[2]], 0: drives[:1]})
    expected = digest(a, 'train')
    assert digest(b, 'train') == expected
    assert len(expected.images) == len(expected.labels) == 64
    # The same rows, packed in another way.
    path = b.shards('train')[0] / 'frames.parquet'
    pq.write_table(pq.read_table(path), path, compression='gzip', use_dictionary=False)
    assert digest(Dataset(tmp_path / 'b'), 'train') == expected
    c = make(tmp_path / 'c', {0: drives[1:], 1: drives[:1]})
    assert digest(c, 'train').images != expected.images


def changed(drive: Drive, **picture: Any) -> Drive:
    """Return the drive with something else in CAM_BACK of its last frame."""
    scene, frames = drive
    pictures = dict(frames[-1].pictures)
    pictures['CAM_BACK'] = dataclasses.replace(pictures['CAM_BACK'], **picture)
    return scene, [*frames[:-1], dataclasses.replace(frames[-1], pictures=pictures)]


def test_one_flipped_mask_pixel_changes_the_labels(tmp_path: Path) -> None:
    drive = make_scene()
    expected = of(tmp_path / 'a', drive)
    png = drive[1][-1].pictures['CAM_BACK'].mask_png
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    packed = cv2.imencode('.png', mask, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    assert packed != png
    assert of(tmp_path / 'b', changed(drive, mask_png=packed)) == expected
    mask[20, 30] ^= 1
    found = of(tmp_path / 'c', changed(drive, mask_png=make_png(mask)))
    assert found.images == expected.images and found.labels != expected.labels


def test_each_half_sees_its_own(tmp_path: Path) -> None:
    scene, frames = drive = make_scene()
    expected = of(tmp_path / 'a', drive)
    images = of(tmp_path / 'b', changed(drive, jpeg=frames[0].pictures['CAM_BACK'].jpeg))
    assert images.images != expected.images and images.labels == expected.labels
    for i, other in enumerate((
            (dataclasses.replace(scene, outcome='recorded'), frames),
            (dataclasses.replace(scene, lanes=scene.lanes[:1]), frames),
            (scene, [dataclasses.replace(frames[0], command='right'), *frames[1:]]),
            (scene, [dataclasses.replace(frames[0], agents=()), *frames[1:]]),
            changed(drive, mask_png=None))):
        found = of(tmp_path / str(i), other)
        assert found.images == expected.images and found.labels != expected.labels
    later = changed(drive, stamp_ns=frames[-1].pictures['CAM_BACK'].stamp_ns + 1)
    assert of(tmp_path / 'later', later).images != expected.images


def test_a_mask_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='sim-000000000 2: CAM_BACK: expected a grey 8-bit PNG'):
        of(tmp_path / 'a', changed(make_scene(), mask_png=b'mask'))


def test_the_last_bit_of_a_computed_number_does_not_count_but_a_hundredth_of_a_millimetre_does(
        tmp_path: Path) -> None:
    scene, frames = make_scene('sim-0', num_frames=1)

    def moved(by_m: float) -> Drive:
        ego = dataclasses.replace(scene.ego, positions_m=scene.ego.positions_m + by_m)
        return dataclasses.replace(scene, ego=ego), frames

    expected = of(tmp_path / 'a', (scene, frames))
    assert of(tmp_path / 'b', moved(3e-15)) == expected
    assert of(tmp_path / 'c', moved(1e-5)).labels != expected.labels
