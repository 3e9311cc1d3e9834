# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A dataset -> its counts, sizes and balances, as one JSON-able mapping.

Every label is read, of the masks an evenly spread sample: a share of pixels needs no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.classes import foreground
from fastdrive_ros.data.lane_check import lane_points
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.shard import weigh
from fastdrive_ros.data.store import Dataset

SPEED_EDGES_MPS = (0.0, 0.5, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 20.0)
# Masks are read from so many drives of a split, so many frames of each.
_SAMPLE_DRIVES, _SAMPLE_FRAMES = 24, 4
_MOST_COMMON = 12


@dataclass
class _Tally:
    """What is counted while the drives of a split go by."""

    commands: Counter[str] = field(default_factory=Counter)
    lights: Counter[str] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    speeds_mps: list[np.ndarray] = field(default_factory=list)
    pictures: Counter[str] = field(default_factory=Counter)
    jpeg_bytes: Counter[str] = field(default_factory=Counter)
    mask_bytes: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    unlabelled: int = 0
    class_pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    foreground: dict[str, list[float]] = field(default_factory=dict)
    lane_points: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    """Projected into a picture, of them not hidden, of those on the road of the mask."""


def survey(dataset: Dataset, on_drive: Callable[[], None]) -> dict[str, Any]:
    """Return what `fastdrive data inspect` tells; damage that is met goes to 'troubles'."""
    header = dataset.header
    troubles = list(dataset.dropped)
    scenes: dict[str, list[SceneRecord]] = {}
    splits = {}
    for split in SPLITS:
        scenes[split] = []
        splits[split] = _survey_split(dataset, split, scenes[split], troubles, on_drive)
    troubles += _repeated(scenes)
    return {
        'dataset': str(dataset.root), 'name': header.name, 'source': header.source,
        'license': header.license, 'cameras': list(header.cameras),
        'image_size': [header.image_width, header.image_height], 'rate_hz': header.rate_hz,
        'settings': dict(header.settings), 'splits': splits,
        'conditions': _conditions([scene for split in SPLITS for scene in scenes[split]]),
        'troubles': troubles}


def _survey_split(dataset: Dataset, split: str, scenes: list[SceneRecord], troubles: list[str],
                  on_drive: Callable[[], None]) -> dict[str, Any]:
    tally = _Tally()
    drives = dataset.drives(split)
    sampled = set(_spread(drives, _SAMPLE_DRIVES))
    for drive in drives:
        try:
            scene, frames = dataset.read(drive, cameras=())
            scenes.append(scene)
            _count_labels(tally, scene, frames)
            for camera, weight in weigh(drive, dataset.header.cameras).items():
                tally.pictures[camera] += weight.pictures
                tally.jpeg_bytes[camera] += weight.jpeg_bytes
                tally.mask_bytes[camera] += weight.mask_bytes
            if drive in sampled:
                _count_masks(tally, *dataset.read(drive))
        except DataError as error:
            troubles.append(str(error))
        on_drive()
    return {
        'shards': len(dataset.shards(split)), 'scenes': len(drives),
        'frames': dataset.count(split),
        'hours': round(dataset.count(split) / dataset.header.rate_hz / 3600, 4),
        'failed': _failed(dataset, split, troubles),
        'failed_frames': dataset.count(split, failed=True),
        **_sizes(dataset, split), **_shares(tally, dataset.header.cameras)}


def _failed(dataset: Dataset, split: str, troubles: list[str]) -> dict[str, int]:
    """Return {outcome: drives}."""
    try:
        return dict(Counter(scene.outcome for scene in dataset.scenes(split, failed=True)))
    except DataError as error:
        troubles.append(str(error))
        return {}


def _count_labels(tally: _Tally, scene: SceneRecord, frames: Sequence[FrameRecord]) -> None:
    tally.commands.update(frame.command for frame in frames)
    tally.lights.update(frame.traffic_light for frame in frames)
    tally.agents.update(agent.kind for frame in frames for agent in frame.agents)
    if len(scene.ego.stamps_ns):
        tally.speeds_mps.append(np.interp(
            [frame.stamp_ns - scene.ego.stamps_ns[0] for frame in frames],
            scene.ego.stamps_ns - scene.ego.stamps_ns[0], scene.ego.velocities_mps[:, 0]))


def _count_masks(tally: _Tally, scene: SceneRecord, frames: Sequence[FrameRecord]) -> None:
    for frame in _spread(frames, _SAMPLE_FRAMES):
        tally.lane_points += lane_points(scene, frame)
        for camera, picture in frame.pictures.items():
            if picture.mask_png is None:
                tally.unlabelled += 1
                continue
            mask = decode_mask(picture.mask_png, f'{frame.scene} frame {frame.index} {camera}')
            tally.masks += 1
            tally.class_pixels += np.bincount(mask.ravel(), minlength=256)
            tally.foreground.setdefault(camera, []).append(float(foreground(mask).mean()))


def _shares(tally: _Tally, cameras: Sequence[str]) -> dict[str, Any]:
    """Return the tally as counts of frames, kilobytes a picture, and shares of pixels."""
    def kilobytes(weights: Mapping[str, int], camera: str) -> float:
        return round(weights[camera] / 1e3 / max(tally.pictures[camera], 1), 2)

    speeds_mps = np.abs(np.concatenate([*tally.speeds_mps, np.zeros(0)]))
    counts = np.histogram(speeds_mps, (*SPEED_EDGES_MPS, np.inf))[0]
    pixels = tally.class_pixels / max(int(tally.class_pixels.sum()), 1)
    return {
        'cameras': {camera: {
            'pictures': tally.pictures[camera], 'jpeg_kB': kilobytes(tally.jpeg_bytes, camera),
            'mask_kB': kilobytes(tally.mask_bytes, camera),
            'foreground': (round(float(np.mean(tally.foreground[camera])), 5)
                           if camera in tally.foreground else None)} for camera in cameras},
        'lane_points': dict(zip(('projected', 'bare', 'on_road'), tally.lane_points.tolist())),
        'masks_sampled': tally.masks, 'unlabelled_sampled': tally.unlabelled,
        'classes': {name: round(float(pixels[i]), 6) for i, name in enumerate(CLASSES)},
        'commands': dict(tally.commands), 'traffic_lights': dict(tally.lights),
        'agents': dict(tally.agents.most_common()),
        'speeds_mps': [{'from': edge, 'frames': int(count)}
                       for edge, count in zip(SPEED_EDGES_MPS, counts)]}


def _sizes(dataset: Dataset, split: str) -> dict[str, float]:
    files = [file for shard in dataset.shards(split) for file in shard.iterdir()]
    good = sum(file.stat().st_size for file in files if not file.name.startswith('failed'))
    return {'MB': round(sum(file.stat().st_size for file in files) / 1e6, 3),
            'MB_per_frame': round(good / 1e6 / max(dataset.count(split), 1), 5)}


def _conditions(scenes: Sequence[SceneRecord]) -> dict[str, Any]:
    """Return {condition: how many scenes have each value, or min, median and max of numbers}."""
    values: dict[str, list[Any]] = {}
    for scene in scenes:
        for name, value in scene.conditions.items():
            if isinstance(value, (str, bool, int, float)):
                values.setdefault(name, []).append(value)
    return {name: (
        dict(Counter(str(value) for value in found).most_common(_MOST_COMMON))
        if any(isinstance(value, (str, bool)) for value in found) else
        {'min': min(found), 'median': float(np.median(found)), 'max': max(found)})
        for name, found in values.items()}


def _repeated(scenes: Mapping[str, Sequence[SceneRecord]]) -> list[str]:
    """Return a sentence for each scene that is there twice: in two splits it would leak."""
    places: dict[str, list[str]] = {}
    for split, found in scenes.items():
        for scene in found:
            places.setdefault(scene.name, []).append(split)
    return [f"scene {name} is there {len(splits)} times, in {' and '.join(splits)}: names must be "
            'unique, and a scene may be in one split only; make the dataset again'
            for name, splits in places.items() if len(splits) > 1]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most ``count`` of the items, evenly spread, each from the middle of its part."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
