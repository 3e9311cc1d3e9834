# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every byte of a dataset read, every picture and mask decoded -> a sentence for each trouble."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator

import numpy as np

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.pictures import decode_jpeg
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DRIVABLE_CELLS
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset


def check(dataset: Dataset, on_frames: Callable[[int], None]) -> Iterator[str]:
    """Read failed drives, too; ``on_frames`` is told how many frames more are behind us."""
    for split in SPLITS:
        for drive in [*dataset.drives(split), *dataset.drives(split, failed=True)]:
            try:
                scene, frames = dataset.read(drive)
            except DataError as error:
                yield str(error)
                on_frames(drive.num_frames)
                continue
            for frame in frames:
                where = f'{drive.shard}: scene {scene.name} frame {frame.index}'
                yield from _check_frame(where, scene, frame, dataset.header)
                on_frames(1)


def _check_frame(where: str, scene: SceneRecord, frame: FrameRecord,
                 header: DatasetHeader) -> Iterator[str]:
    calibrated = {camera.name: (camera.width, camera.height) for camera in scene.cameras}
    size = header.image_width, header.image_height
    for camera, picture in frame.pictures.items():
        if calibrated.get(camera) != size:
            yield (f'{where} {camera}: its calibration is for {calibrated.get(camera)} pixels, '
                   f'the dataset has {size}')
        yield from _check_picture(f'{where} {camera}', picture, size)
    unknown = {agent.kind for agent in frame.agents} - set(CLASSES)
    if unknown:
        yield f"{where}: road users of unknown kind {', '.join(sorted(unknown))}"
    if frame.drivable_png is not None:
        yield from _check_mask(f'{where} drivable area', frame.drivable_png,
                               (DRIVABLE_CELLS, DRIVABLE_CELLS), (0, 255))


def _check_picture(where: str, picture: Picture, size: tuple[int, int]) -> Iterator[str]:
    try:
        height, width, _ = decode_jpeg(picture.jpeg, where).shape
    except DataError as error:
        yield str(error)
    else:
        if (width, height) != size:
            yield f'{where}: the picture is {width}x{height} pixels, expected {size[0]}x{size[1]}'
    if picture.mask_png is not None:
        yield from _check_mask(f'{where} mask', picture.mask_png, size, range(len(CLASSES)))


def _check_mask(where: str, png: bytes, size: tuple[int, int],
                known: range | tuple[int, ...]) -> Iterator[str]:
    try:
        mask = decode_mask(png, where)
    except DataError as error:
        yield str(error)
        return
    height, width = mask.shape
    if (width, height) != size:
        yield f'{where}: it is {width}x{height} pixels, expected {size[0]}x{size[1]}'
    found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    unknown = sorted(set(found.tolist()) - set(known))
    if unknown:
        yield f'{where}: unknown values {unknown}; known are {known[0]} to {known[-1]}'
