# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A dataset, a bag or folders of pictures -> frames to draw, each with what is known of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import numpy as np

from fastdrive_ros.bags import Bag
from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.data.bag_in import BagDrive
from fastdrive_ros.data.ego import ego_state_at
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset
from fastdrive_ros.metrics.foreground import TokenShares
from fastdrive_ros.metrics.judge import FrameTruth
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.tools.evaluate_truth import frame_truth
from fastdrive_ros.tools.evaluate_truth import token_shares
from fastdrive_ros.tools.options import given_settings

_SUFFIXES = ('.jpg', '.jpeg', '.png')


@dataclass(frozen=True)
class Shown:
    """One frame."""

    name: str
    """Begins the names of its pictures."""
    cameras: tuple[str, ...]
    grid: tuple[int, int]
    """Tokens of a camera, rows and columns."""
    stamp_ns: int
    images: Mapping[str, EncodedImage]
    """By camera, as recorded."""
    batch: CameraBatch
    ego: EgoState | None = None
    """None where there is no odometry."""
    truth: FrameTruth | None = None
    shares: TokenShares | None = None
    """None where no masks say what is foreground."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """uint8 (H, W) class ids by camera."""


def of_dataset(root: Path, split: str, scenes: Sequence[str] | None, count: int,
               bundle: Bundle) -> list[Shown]:
    """Return frames spread over a split, or over some of its drives."""
    dataset = Dataset(root)
    drives = {scene.name: drive for scene, drive in zip(dataset.scenes(split),
                                                        dataset.drives(split))}
    if unknown := sorted(set(scenes or ()) - set(drives)):
        raise DataError(f"{root} has no {', '.join(unknown)} in split {split}; it has "
                        f"{', '.join(list(drives)[:8])} and {max(0, len(drives) - 8)} more")
    chosen = [drives[name] for name in scenes or drives]
    if not chosen:
        raise DataError(f'{root} has no whole drive in split {split}: there is nothing to draw')
    shown = []
    for part in range(count):
        # The middle of each part of all frames, the drives laid end to end.
        ends = np.cumsum([drive.num_frames for drive in chosen], dtype=np.int64)
        wanted = (2 * part + 1) * int(ends[-1]) // (2 * count)
        place = int(np.searchsorted(ends, wanted, side='right'))
        drive = chosen[place]
        scene, frames = dataset.read(drive, bundle.cameras)
        shown.append(_of_record(scene, frames, wanted - int(ends[place]) + drive.num_frames,
                                bundle))
    return shown


def of_bag(args: argparse.Namespace, count: int, bundle: Bundle) -> list[Shown]:
    """Return evenly spread sweeps of ``args.bag``."""
    with Bag(args.bag) as bag:
        drive = BagDrive(bag, args.bag.resolve().name, given_settings(args, bag), rate_hz=20.0)
        frames = drive.frames()
    # The last three seconds have no truth to compare with.
    end_ns = int(drive.scene.ego.stamps_ns[-1]) - 3_000_000_000
    usable = [i for i, frame in enumerate(frames) if frame.stamp_ns <= end_ns]
    usable = usable or list(range(len(frames)))
    count = min(count, len(usable))
    return [_of_record(drive.scene, frames, usable[(2 * i + 1) * len(usable) // (2 * count)],
                       bundle) for i in range(count)]


def of_folder(folder: Path, bundle: Bundle) -> Shown:
    """Return the pictures of a folder named as the bundle's cameras; the rest is not known."""
    files = {camera: path for camera in bundle.cameras for suffix in _SUFFIXES
             if (path := folder / f'{camera}{suffix}').is_file()}
    if not files:
        raise DataError(f"{folder} has no picture of the bundle's cameras: expected "
                        f"{', '.join(f'{camera}.jpg' for camera in bundle.cameras)}")
    images = {camera: EncodedImage('png' if path.suffix == '.png' else 'jpeg',
                                   np.fromfile(path, np.uint8))
              for camera, path in files.items()}
    return _shown(folder.resolve().name, images, 0, bundle)


def _of_record(scene: SceneRecord, frames: Sequence[FrameRecord], index: int,
               bundle: Bundle) -> Shown:
    frame = frames[index]
    name = f'{scene.name}_{frame.index:04d}'
    images = {camera: EncodedImage('jpeg', np.frombuffer(picture.jpeg, np.uint8))
              for camera, picture in frame.pictures.items()}
    shown = _shown(name, images, frame.stamp_ns, bundle)
    masks = {camera: decode_mask(picture.mask_png, f'{name}: mask of {camera}')
             for camera, picture in frame.pictures.items() if picture.mask_png is not None}
    shares = token_shares(frame, bundle.cameras, shown.batch.present, *shown.grid)
    try:
        ego = ego_state_at(scene, frame.stamp_ns, bundle.planner['history_steps'],
                           bundle.planner['history_dt_s'])
        truth = frame_truth(scene, frames, index)
    except DataError:
        ego, truth = None, None
    return Shown(shown.name, shown.cameras, shown.grid, shown.stamp_ns, images, shown.batch, ego,
                 truth, shares, masks)


def _shown(name: str, images: Mapping[str, EncodedImage], stamp_ns: int, bundle: Bundle) -> Shown:
    """Decode as the vehicle does; raises DataError where a picture cannot be used."""
    preprocessor = Preprocessor(bundle.cameras, bundle.image_height, bundle.image_width, 1)
    try:
        batch, _ = preprocessor.run(FrameSet(bundle.cameras, {
            camera: Frame(camera, stamp_ns, 0, image) for camera, image in images.items()}, 0))
    finally:
        preprocessor.close()
    if batch.errors:
        raise DataError(f'{name}: ' + '; '.join(
            f'{camera}: {error}' for camera, error in batch.errors.items()))
    return Shown(name, bundle.cameras, (bundle.grid_height, bundle.grid_width), stamp_ns, images,
                 batch)
