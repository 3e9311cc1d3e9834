# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A dataset's frames -> training batches, in an order that depends on seed and step alone.

Pictures go through the vehicle's own decoding and scaling, history through its own odometry
buffer. Drives lie on the disk one after another and are read whole, so an epoch shuffles the
drives, takes a group of them at a time and shuffles the frames of the group.
"""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils import data as torch_data

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.preprocess import stretch
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.ego import history_at
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.learn.from_above import agents_from_above
from fastdrive_ros.learn.from_above import drivable_share

LIGHTS = ('none', 'green', 'yellow', 'red')
LIGHT_UNKNOWN = -1
MASK_UNKNOWN = 255
# A group of drives is what is in memory at once (about 7 MB a drive of the simulator).
_DRIVES_IN_GROUP = 32


@dataclass(frozen=True)
class SampleShape:
    """What a model takes: one row of every batch."""

    cameras: tuple[str, ...]
    height: int
    width: int
    history_steps: int = 4
    history_dt_s: float = 0.5
    num_waypoints: int = 6
    dt_s: float = 0.5


class FrameSamples(torch_data.Dataset):
    """
    The frames of one split by number; a row is a dict of tensors.

    images uint8 [V, H, W, 3], present bool [V], classes uint8 [V, H, W] (core.classes ids, 255
    where there is no mask), ego_history float32 [Hh, F], waypoints float32 [T, 3], known bool [T]
    (False: the recording ends before), light int64 (index of LIGHTS, or -1), drivable and agents
    float32 [24, 16] (from_above.py; NaN where nobody recorded them).
    """

    def __init__(self, root: Path, split: str, shape: SampleShape,
                 brightness: float = 0.0) -> None:
        """
        List the frames; ``brightness`` varies gain and offset of a frame by up to this share.

        Raises DataError when the split is empty or lacks a camera.
        """
        self.shape = shape
        self._root, self._split, self._brightness = root, split, brightness
        self._dataset = Dataset(root)
        self._drives = self._dataset.drives(split)
        missing = set(shape.cameras) - set(self._dataset.header.cameras)
        if missing:
            raise DataError(f'{root} has no camera {", ".join(sorted(missing))}, the model wants '
                            f'{", ".join(shape.cameras)}')
        self.lengths = [drive.num_frames for drive in self._drives]
        if not sum(self.lengths):
            raise DataError(f'expected frames in the {split} split of {root}, found none')
        self._first = np.cumsum([0, *self.lengths])
        self._read: OrderedDict[int, tuple[SceneRecord, list[FrameRecord]]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of frames."""
        return int(self._first[-1])

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Read one frame; DataError where it is damaged."""
        drive = int(np.searchsorted(self._first, number, side='right')) - 1
        scene, frames = self._drive(drive)
        frame = frames[number - self._first[drive]]
        shape = self.shape
        images = np.zeros((len(shape.cameras), shape.height, shape.width, 3), np.uint8)
        classes = np.full(images.shape[:3], MASK_UNKNOWN, np.uint8)
        present = np.zeros(len(shape.cameras), bool)
        for i, camera in enumerate(shape.cameras):
            if camera in frame.pictures:
                what = f'{scene.name} frame {frame.index} {camera}'
                picture = frame.pictures[camera]
                images[i] = _pixels(picture, shape, what)
                present[i] = True
                if picture.mask_png is not None:
                    classes[i] = _classes(picture.mask_png, shape, what)
        if self._brightness:
            images = self._varied(images, number)
        return {name: torch.from_numpy(value) for name, value in (
            ('images', images), ('present', present), ('classes', classes),
        )} | _driven(scene, frame, shape)

    def require_masks(self) -> None:
        """Raise DataError when the first frame has a picture without a mask."""
        _, frames = self._drive(0)
        bare = [camera for camera, picture in frames[0].pictures.items()
                if picture.mask_png is None]
        if bare:
            raise DataError(f'{self._root} has no masks of {", ".join(bare)}: make them with '
                            '`fastdrive data label`, or take a dataset of `fastdrive data sim`')

    def _drive(self, drive: int) -> tuple[SceneRecord, list[FrameRecord]]:
        if drive not in self._read:
            self._read[drive] = self._dataset.read(self._drives[drive], self.shape.cameras)
            if len(self._read) > _DRIVES_IN_GROUP:
                self._read.popitem(last=False)
        self._read.move_to_end(drive)
        return self._read[drive]

    def _varied(self, images: np.ndarray, number: int) -> np.ndarray:
        random = np.random.default_rng(number)
        gain, offset = 1.0 + self._brightness * random.uniform(-1.0, 1.0, 2)
        flat = images.reshape(-1, self.shape.width, 3)
        return cv2.convertScaleAbs(
            flat, alpha=gain, beta=127.0 * (offset - 1.0)).reshape(images.shape)


class StepBatches(torch_data.Sampler[list[int]]):
    """
    The frame numbers of each step's batch from ``first_step`` on, for one of several processes.

    Every process takes its own slice of the same global batch, so that more processes see the
    same data in the same order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, first_step: int, last_step: int,
                 seed: int, rank: int = 0, processes: int = 1) -> None:
        """Take the frames a drive, and the global batch size."""
        if batch_size % processes:
            raise ValueError(f'batch_size {batch_size} must be a multiple of the {processes} '
                             'processes')
        if sum(lengths) < batch_size:
            raise DataError(f'expected at least one batch of {batch_size} frames, found '
                            f'{sum(lengths)}: set a smaller batch_size')
        self._lengths = list(lengths)
        self._batch_size, self._seed = batch_size, seed
        self._steps = range(first_step, last_step)
        share = batch_size // processes
        self._mine = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        """Return the number of steps left."""
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's frame numbers of each step."""
        per_epoch = sum(self._lengths) // self._batch_size
        epoch, order = -1, np.empty(0, int)
        for step in self._steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = epoch_order(self._lengths, self._seed, epoch)
            first = step % per_epoch * self._batch_size
            yield order[first:first + self._batch_size][self._mine].tolist()


def epoch_order(lengths: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Return int64 (sum(lengths),): every frame number once, drives and frames shuffled."""
    random = np.random.default_rng((seed, epoch))
    first = np.cumsum([0, *lengths])
    frames = [np.arange(first[drive], first[drive + 1])
              for drive in random.permutation(len(lengths))]
    groups = [np.concatenate(frames[start:start + _DRIVES_IN_GROUP])
              for start in range(0, len(frames), _DRIVES_IN_GROUP)]
    return np.concatenate([random.permutation(group) for group in groups])


def read_ways(root: Path, shape: SampleShape) -> dict[str, torch.Tensor]:
    """Return every train frame's ego_history, waypoints and known, stacked; reads no picture."""
    dataset = Dataset(root)
    rows = []
    for drive in dataset.drives('train'):
        scene, frames = dataset.read(drive, ())
        rows += [_way(scene, frame, shape) for frame in frames]
    if not rows:
        raise DataError(f'expected frames in the train split of {root}, found none')
    return torch_data.default_collate(rows)


def loader(samples: FrameSamples, batches: StepBatches, num_workers: int) -> torch_data.DataLoader:
    """Return a loader that reads ahead in ``num_workers`` processes; 0 reads in this one."""
    return torch_data.DataLoader(
        samples, batch_sampler=batches, num_workers=num_workers,
        # A forked pyarrow may wait for threads that were not forked with it.
        multiprocessing_context='forkserver' if num_workers else None,
        prefetch_factor=4 if num_workers else None, worker_init_fn=_ignore_interrupt)


def _ignore_interrupt(worker: int) -> None:
    """Leave Ctrl-C to the process that has something to save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _pixels(picture: Picture, shape: SampleShape, what: str) -> np.ndarray:
    try:
        pixels = decode(EncodedImage('jpeg', np.frombuffer(picture.jpeg, np.uint8)),
                        shape.height, shape.width)
        return stretch(pixels, shape.height, shape.width)
    except FrameError as error:
        raise DataError(f'{what}: {error}') from error


def _classes(mask_png: bytes, shape: SampleShape, what: str) -> np.ndarray:
    mask = decode_mask(mask_png, what)
    if mask.max(initial=0) >= len(CLASSES):
        raise DataError(f'{what}: expected class ids below {len(CLASSES)}, found {mask.max()}')
    return cv2.resize(mask, (shape.width, shape.height), interpolation=cv2.INTER_NEAREST)


def _driven(scene: SceneRecord, frame: FrameRecord, shape: SampleShape) -> dict[str, torch.Tensor]:
    """Return what the odometry and the labels say of a frame."""
    light = (LIGHTS.index(frame.traffic_light) if frame.traffic_light in LIGHTS
             else LIGHT_UNKNOWN)
    return _way(scene, frame, shape) | {
        'light': torch.tensor(light),
        'drivable': torch.from_numpy(drivable_share(frame)),
        'agents': torch.from_numpy(agents_from_above(scene, frame)),
    }


def _way(scene: SceneRecord, frame: FrameRecord, shape: SampleShape) -> dict[str, torch.Tensor]:
    history = history_at(scene, frame.stamp_ns, shape.history_steps, shape.history_dt_s)
    waypoints, known = future_at(scene, frame.stamp_ns, shape.num_waypoints, shape.dt_s)
    return {
        'ego_history': torch.from_numpy(history),
        'waypoints': torch.from_numpy(waypoints.astype(np.float32)),
        'known': torch.from_numpy(known),
    }
