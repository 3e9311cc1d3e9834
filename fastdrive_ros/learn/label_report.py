# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the labelling found, a line of JSON a picture, and what all the lines say together.

    LABELLED/labels/SPLIT-NNNNNN.jsonl, one a shard -> Coverage

The lines keep the boxes, which a mask does not, and survive an interrupted run, so that tables
and quality sheet are about the whole dataset, whoever labelled it when.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import numpy as np

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.classes import FOREGROUND
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.foreground import Box

STAGES = ('decode', 'detect', 'segment', 'encode')
_FOLDER = 'labels'


@dataclass(frozen=True)
class PictureReport:
    """One picture: what was found, or why it could not be looked at."""

    split: str
    shard: int
    drive: int
    """Which of the shard's drives, from 0."""
    scene: str
    index: int
    camera: str
    damage: str = ''
    """Empty when the picture was labelled."""
    boxes: tuple[Box, ...] = ()
    shares: Mapping[str, float] = field(default_factory=dict)
    """Class -> share of the picture's pixels, only classes that are there."""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    """By STAGES."""


def class_shares(mask: np.ndarray) -> dict[str, float]:
    """Return {class: share of pixels} of a class-id mask, background left out."""
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    return {name: float(counts[i]) / mask.size for i, name in enumerate(CLASSES)
            if i and counts[i]}


def write_report(root: Path, split: str, shard: int, pictures: Iterable[PictureReport]) -> None:
    """Write a shard's lines; the file appears whole or not at all."""
    file = _file(root, split, shard)
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix('.partial')
    try:
        with partial.open('w', encoding='utf-8') as stream:
            for picture in pictures:
                stream.write(json.dumps(_to_line(picture), separators=(',', ':')) + '\n')
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_report(root: Path, split: str, shard: int) -> Iterator[PictureReport]:
    """Yield a shard's pictures; DataError when the file is missing or no report."""
    file = _file(root, split, shard)
    try:
        with file.open(encoding='utf-8') as stream:
            for line in stream:
                yield _from_line(split, shard, json.loads(line))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f'the labelling report {file} cannot be read ({error}): remove the folder '
                        f'{root / split / f"{shard:06d}"} and label again') from error


@dataclass
class Coverage:
    """What was found where, summed over pictures."""

    pictures: int = 0
    damaged: list[PictureReport] = field(default_factory=list)
    with_class: dict[str, int] = field(default_factory=dict)
    """Class -> pictures that show it."""
    by_camera: dict[str, list[float]] = field(default_factory=dict)
    """Camera -> foreground share of each picture."""
    stage_ms: dict[str, list[float]] = field(
        default_factory=lambda: {stage: [] for stage in STAGES})

    def add(self, picture: PictureReport) -> None:
        """Count one picture."""
        if picture.damage:
            self.damaged.append(picture)
            return
        self.pictures += 1
        for name in picture.shares:
            self.with_class[name] = self.with_class.get(name, 0) + 1
        share = sum(picture.shares.get(name, 0.0) for name in FOREGROUND)
        self.by_camera.setdefault(picture.camera, []).append(share)
        for stage, ms in picture.stage_ms.items():
            self.stage_ms[stage].append(ms)

    def latency(self) -> dict[str, dict[str, float]]:
        """Return {stage: {'median_ms', 'p95_ms'}}, the sum of all stages as 'picture'."""
        columns = {**self.stage_ms,
                   'picture': [sum(row) for row in zip(*self.stage_ms.values())]}
        return {stage: {'median_ms': round(float(np.median(values)), 2),
                        'p95_ms': round(float(np.percentile(values, 95)), 2)}
                for stage, values in columns.items() if values}

    def foreground_share(self) -> dict[str, float]:
        """Return {camera: mean share of foreground}."""
        return {camera: round(float(np.mean(shares)), 4)
                for camera, shares in sorted(self.by_camera.items())}


def _file(root: Path, split: str, shard: int) -> Path:
    return root / _FOLDER / f'{split}-{shard:06d}.jsonl'


def _to_line(picture: PictureReport) -> dict[str, object]:
    line: dict[str, object] = {'drive': picture.drive, 'scene': picture.scene,
                               'index': picture.index, 'camera': picture.camera}
    if picture.damage:
        return {**line, 'damage': picture.damage}
    return {**line,
            'boxes': [[box.name, round(box.score, 3), *(round(c, 1) for c in box.corners_px)]
                      for box in picture.boxes],
            'shares': {name: round(share, 6) for name, share in picture.shares.items()},
            'ms': {stage: round(ms, 2) for stage, ms in picture.stage_ms.items()}}


def _from_line(split: str, shard: int, line: Mapping[str, object]) -> PictureReport:
    key = (split, shard, *(line[name] for name in ('drive', 'scene', 'index', 'camera')))
    if 'damage' in line:
        return PictureReport(*key, damage=line['damage'])
    boxes = tuple(Box(name, score, tuple(corners)) for name, score, *corners in line['boxes'])
    return PictureReport(*key, boxes=boxes, shares=line['shares'], stage_ms=line['ms'])
