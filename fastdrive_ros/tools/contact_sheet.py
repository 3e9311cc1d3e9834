# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A dataset -> one PNG to look at: frames spread over its drives, their pictures beside their masks.

    uint8 pictures and masks -> a canvas at their own pixels; matplotlib only sets the type
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastdrive_ros.core.classes import CLASS_RGB
from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.core.classes import FOREGROUND
from fastdrive_ros.data.pictures import decode_jpeg
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.data.store import Dataset

_FRAMES = 8
_TILE_WIDTH = 300
_GAP, _BETWEEN, _MARGIN = 4, 22, 24
_TITLE, _CAPTION = 92, 40
_LEGEND_WIDTH = 1740
_DPI = 100
_INK, _MUTED = '#1b1f24', '#68727d'
_PAPER, _ABSENT = 255, 228
_MASK_OPACITY = 0.62


@dataclass(frozen=True)
class _Text:
    """A line of type, where its left end is, in pixels from the canvas' upper left corner."""

    x: int
    y: int
    text: str
    size: float
    colour: str = _INK
    weight: str = 'normal'


def draw_sheet(dataset: Dataset, path: Path) -> None:
    """Write the sheet; raises DataError when there is nothing to show."""
    shown = list(_spread_frames(dataset))
    if not shown:
        raise DataError(f'{dataset.root} has no frames to draw: make some, or leave --sheet out')
    header = dataset.header
    rows = _rows(header.cameras)
    tile = (_TILE_WIDTH, round(_TILE_WIDTH * header.image_height / header.image_width))
    block_width = len(rows[0]) * (tile[0] + _GAP) - _GAP
    block_height = len(rows) * (tile[1] + _GAP) - _GAP
    width = max(2 * (_MARGIN + block_width) + _BETWEEN, _LEGEND_WIDTH)
    canvas = np.full((_TITLE + len(shown) * (_CAPTION + block_height) + _MARGIN, width, 3),
                     _PAPER, dtype=np.uint8)
    texts = _draw_title(canvas, dataset)
    for i, (split, scene, frame) in enumerate(shown):
        top = _TITLE + i * (_CAPTION + block_height)
        texts += _caption(_MARGIN, top + 25, split, scene, frame)
        for row, cameras in enumerate(rows):
            for column, camera in enumerate(cameras):
                place = (_MARGIN + column * (tile[0] + _GAP),
                         top + _CAPTION + row * (tile[1] + _GAP))
                _draw_camera(canvas, place, block_width + _BETWEEN, tile, frame, camera)
    _write(canvas, texts, path)


def _spread_frames(dataset: Dataset) -> Iterator[tuple[str, SceneRecord, FrameRecord]]:
    """Yield frames from all over the dataset, each from the middle of its share of it."""
    drives = [(split, drive) for split in SPLITS for drive in dataset.drives(split)]
    ends = np.cumsum([drive.num_frames for _, drive in drives], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = min(_FRAMES, total)
    for i in range(count):
        wanted = (2 * i + 1) * total // (2 * count)
        place = int(np.searchsorted(ends, wanted, side='right'))
        split, drive = drives[place]
        scene, frames = dataset.read(drive)
        yield split, scene, frames[wanted - int(ends[place]) + drive.num_frames]


def _rows(cameras: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the cameras in the order of the dataset, three in a row."""
    return [cameras[i:i + 3] for i in range(0, len(cameras), 3)]


def _draw_camera(canvas: np.ndarray, place: tuple[int, int], to_mask: int, tile: tuple[int, int],
                 frame: FrameRecord, camera: str) -> None:
    """Draw a picture, and to its right by ``to_mask`` pixels the picture under its mask."""
    x, y = place
    tile_width, tile_height = tile
    spots = [canvas[y:y + tile_height, left:left + tile_width] for left in (x, x + to_mask)]
    picture = frame.pictures.get(camera)
    if picture is None:
        for spot in spots:
            spot[:] = _ABSENT
        return
    where = f'{frame.scene} frame {frame.index} {camera}'
    rgb = cv2.resize(decode_jpeg(picture.jpeg, where), tile, interpolation=cv2.INTER_AREA)
    spots[0][:] = rgb
    if picture.mask_png is None:
        spots[1][:] = _ABSENT
        return
    mask = cv2.resize(decode_mask(picture.mask_png, where), tile, interpolation=cv2.INTER_NEAREST)
    if mask.max() >= len(CLASSES):
        raise DataError(f'{where}: its mask holds class {mask.max()}, the last one is '
                        f'{len(CLASSES) - 1}: label that frame again')
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    spots[1][:] = (_MASK_OPACITY * CLASS_RGB[mask] + (1 - _MASK_OPACITY) * grey).astype(np.uint8)


def _draw_title(canvas: np.ndarray, dataset: Dataset) -> list[_Text]:
    """Draw the legend's colours; return the legend's and the title's text."""
    header = dataset.header
    counts = ', '.join(f'{split} {dataset.count(split)}' for split in SPLITS
                       if dataset.count(split))
    texts = [_Text(_MARGIN, 34, header.name, 17, weight='bold'),
             _Text(_MARGIN + 16 * len(header.name) + 24, 33,
                   f'{header.source}, frames: {counts}; {len(header.cameras)} cameras of '
                   f'{header.image_width}x{header.image_height}', 11, _MUTED)]
    background = tuple(name for name in CLASSES if name not in FOREGROUND)
    x = _MARGIN
    for kind, names in (('foreground', FOREGROUND), ('background', background)):
        texts.append(_Text(x, 73, kind, 10, weight='bold'))
        x += 108
        for name in names:
            canvas[60:76, x:x + 16] = CLASS_RGB[CLASSES.index(name)]
            cv2.rectangle(canvas, (x, 60), (x + 15, 75), (104, 114, 125), 1)
            label = name.lower().replace('_', ' ')
            texts.append(_Text(x + 22, 73, label, 10, _MUTED))
            x += 42 + 8 * len(label)
        x += 20
    return texts


def _caption(x: int, y: int, split: str, scene: SceneRecord, frame: FrameRecord) -> list[_Text]:
    """Return what a frame is, and under which conditions it was taken."""
    conditions = ', '.join(
        f"{name.replace('_', ' ')} {value}" for name, value in scene.conditions.items()
        if isinstance(value, (str, bool, int, float)))
    facts = (f'{split}, frame {frame.index}, command {frame.command}, light '
             f'{frame.traffic_light}' + (f'; {conditions}' if conditions else ''))
    return [_Text(x, y, scene.name, 12, weight='bold'),
            _Text(x + 11 * len(scene.name) + 20, y, facts, 11, _MUTED)]


def _write(canvas: np.ndarray, texts: list[_Text], path: Path) -> None:
    height, width, _ = canvas.shape
    with matplotlib.rc_context({'font.family': 'DejaVu Sans'}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        figure.figimage(canvas)
        for line in texts:
            figure.text(line.x / width, 1 - line.y / height, line.text, color=line.colour,
                        fontsize=line.size, fontweight=line.weight, va='baseline')
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI, format='png')
