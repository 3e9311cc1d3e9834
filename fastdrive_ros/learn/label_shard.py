# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One shard without masks -> the same shard with them, and its report.

A shard appears whole, its report a moment before it. Drives that failed are not copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import cv2
import numpy as np

from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.data.store import DatasetWriter
from fastdrive_ros.learn.grounded_sam import GroundedSam
from fastdrive_ros.learn.label_report import PictureReport
from fastdrive_ros.learn.label_report import class_shares
from fastdrive_ros.learn.label_report import write_report

# The decoder may halve pictures down to a wanted size; labels want every pixel.
_FULL_SIZE = 1 << 16


class DamagedShardError(DataError):
    """The shard to be labelled cannot be read; the others can."""


def label_shard(model: GroundedSam, source: Dataset, writer: DatasetWriter, split: str,
                number: int, count: Callable[[int], None]) -> None:
    """
    Write the labelled copy of a shard's good drives; ``count`` hears of pictures done.

    Raises DamagedShardError where the source cannot be read.
    """
    header = source.header
    labeller = _Labeller(model, (header.image_width, header.image_height), count)
    if number not in {int(path.name) for path in source.shards(split)}:
        raise DamagedShardError(f'{source.root / split / f"{number:06d}"} is not there any more')
    drives = [drive for drive in source.drives(split) if int(drive.shard.name) == number]
    with writer.shard(split, number) as shard:
        for i, drive in enumerate(drives):
            try:
                scene, frames = source.read(drive)
            except DataError as error:
                raise DamagedShardError(str(error)) from error
            shard.add(scene, labeller.label((split, number, i), frames))
        write_report(writer.root, split, number, labeller.report)


class _Labeller:
    """Labels the pictures of one shard and keeps the report."""

    def __init__(self, model: GroundedSam, size: tuple[int, int],
                 count: Callable[[int], None]) -> None:
        self._model = model
        self._size = size
        self._count = count
        self.report: list[PictureReport] = []

    def label(self, place: tuple[str, int, int], frames: Sequence[FrameRecord]) -> (
            list[FrameRecord]):
        """Return one drive's frames with masks; a damaged picture stays without."""
        items = [(frame, camera) for frame in frames for camera in frame.pictures]
        refuse_masks(frames)
        masks: dict[tuple[int, str], bytes] = {}
        for start in range(0, len(items), self._model.pictures_per_batch):
            batch = items[start:start + self._model.pictures_per_batch]
            masks.update(self._label_batch(place, batch))
            self._count(len(batch))
        return [dataclasses.replace(frame, pictures={
            camera: dataclasses.replace(picture, mask_png=masks.get((frame.index, camera)))
            for camera, picture in frame.pictures.items()}) for frame in frames]

    def _label_batch(self, place: tuple[str, int, int],
                     batch: Sequence[tuple[FrameRecord, str]]) -> dict[tuple[int, str], bytes]:
        whole: list[tuple[FrameRecord, str, np.ndarray, StageTimer]] = []
        for frame, camera in batch:
            timer = StageTimer()
            try:
                with timer('decode'):
                    rgb = decode_picture(frame.pictures[camera], self._size)
            except FrameError as error:
                self.report.append(PictureReport(*place, frame.scene, frame.index, camera,
                                                 damage=str(error)))
                continue
            whole.append((frame, camera, rgb, timer))
        masks = {}
        labels = self._model.label([rgb for _, _, rgb, _ in whole])
        for (frame, camera, _, timer), found in zip(whole, labels):
            with timer('encode'):
                masks[frame.index, camera] = encode_mask(found.mask)
            self.report.append(PictureReport(
                *place, frame.scene, frame.index, camera, boxes=found.boxes,
                shares=class_shares(found.mask),
                stage_ms={**timer.stage_ms, 'detect': found.detect_ms,
                          'segment': found.segment_ms}))
        return masks


def refuse_masks(frames: Sequence[FrameRecord]) -> None:
    """Raise DataError when any of a drive's pictures has a mask already."""
    pictures = [picture for frame in frames for picture in frame.pictures.values()]
    masks = sum(picture.mask_png is not None for picture in pictures)
    if masks:
        raise DataError(f'{masks} of {len(pictures)} pictures of scene {frames[0].scene} have a '
                        'mask already: only a dataset without masks is labelled (that of the '
                        'simulator has better ones)')


def decode_picture(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB of exactly this width and height; raises FrameError."""
    width, height = size
    data = np.frombuffer(picture.jpeg, dtype=np.uint8)
    rgb = decode(EncodedImage('jpeg', data), _FULL_SIZE, _FULL_SIZE)
    if rgb.shape[:2] != (height, width):
        raise FrameError('bad_size', f'the picture is {rgb.shape[1]}x{rgb.shape[0]}, the dataset '
                         f'says {width}x{height}')
    return rgb


def encode_mask(mask: np.ndarray) -> bytes:
    """Return a class-id mask as an 8-bit grey PNG."""
    whole, png = cv2.imencode('.png', mask)
    assert whole, 'OpenCV encodes any uint8 (H, W)'
    return png.tobytes()

