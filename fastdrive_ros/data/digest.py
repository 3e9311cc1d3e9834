# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A split of a dataset -> two checksums: of the pictures, and of all that is known about them.

They are over values in the order of shards, scenes and frames, not over files: who wrote which
shard when, and how Parquet or PNG packed it, makes no difference. Numbers count to the sixth
decimal: the last bit of a computed one is not the same on every processor, nor, rarely, in every
run. Failed drives are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset

_DECIMALS = 6


@dataclass(frozen=True)
class Digest:
    """SHA-256 in hexadecimal."""

    images: str
    """Scenes, cameras, stamps and JPEG bytes."""
    labels: str
    """Scenes, odometry, calibration, lanes, road users, commands and the pixels of every mask."""


def digest(dataset: Dataset, split: str,
           on_frame: Callable[[], None] = lambda: None) -> Digest:
    """Return the checksums of a split; raises DataError where it is damaged."""
    images, labels = _Hash(), _Hash()
    for drive in dataset.drives(split):
        scene, frames = dataset.read(drive)
        _add_scene(labels, scene)
        for frame in frames:
            _add_images(images, frame)
            _add_labels(labels, frame)
            on_frame()
    return Digest(images.hexdigest(), labels.hexdigest())


class _Hash:
    """SHA-256 of values, each preceded by its type and size so that none can run into the next."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, np.ndarray):
                if value.dtype.kind == 'f':
                    value = np.round(value, _DECIMALS) + 0.0  # and never -0.0
                data = np.ascontiguousarray(value, value.dtype.newbyteorder('<')).tobytes()
                kind = f'{value.dtype.kind}{value.dtype.itemsize}{value.shape}'
            elif isinstance(value, bytes):
                data, kind = value, 'bytes'
            else:
                data, kind = json.dumps(_rounded(value), sort_keys=True).encode(), 'json'
            self._sha256.update(f'{kind} {len(data)} '.encode())
            self._sha256.update(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS) + 0.0
    if isinstance(value, (tuple, list)):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


def _add_scene(labels: _Hash, scene: SceneRecord) -> None:
    ego = scene.ego
    labels.add(scene.name, scene.source, scene.outcome, scene.frame_id, scene.seed,
               dict(scene.conditions), len(scene.cameras), len(scene.lanes))
    for camera in scene.cameras:
        labels.add(camera.name, camera.width, camera.height, camera.k, camera.position_m,
                   camera.orientation_xyzw)
    labels.add(*scene.lanes, ego.stamps_ns, ego.positions_m, ego.orientations_xyzw,
               ego.velocities_mps, ego.angular_velocities_radps)


def _add_images(images: _Hash, frame: FrameRecord) -> None:
    images.add(frame.scene, frame.index, frame.stamp_ns, len(frame.pictures))
    for camera, picture in sorted(frame.pictures.items()):
        images.add(camera, picture.stamp_ns, picture.jpeg)


def _add_labels(labels: _Hash, frame: FrameRecord) -> None:
    labels.add(frame.scene, frame.index, frame.stamp_ns, frame.command, frame.traffic_light,
               _pixels(frame.drivable_png, f'{frame.scene} {frame.index}: drivable'),
               len(frame.agents))
    for agent in frame.agents:
        labels.add(agent.id, agent.kind, agent.position_m, agent.size_m, agent.yaw_rad,
                   agent.velocity_mps)
    for camera, picture in sorted(frame.pictures.items()):
        labels.add(camera, _pixels(picture.mask_png, f'{frame.scene} {frame.index}: {camera}'))


def _pixels(png: bytes | None, what: str) -> np.ndarray | None:
    return None if png is None else decode_mask(png, what)
