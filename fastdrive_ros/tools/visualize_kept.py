# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Kept tokens of every method on one frame -> one picture, a line a method, a column a camera.

    pictures --draw_kept--> bright where tokens were kept; how much foreground that is, beside it
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastdrive_ros.core.classes import CLASS_RGB
from fastdrive_ros.core.classes import foreground
from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.overlay import draw_kept
from fastdrive_ros.tools.visualize_frames import Shown
from fastdrive_ros.tools.visualize_ways import Way

_DPI = 100
_INK, _MUTED = '#1b1f24', '#68727d'
# Of the surround view: left to right as one would turn one's head.
_ORDER = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK',
          'CAM_BACK_LEFT')
_TILE_PX, _GAP_PX = 300, 4
_LABEL_PX, _TITLE_PX, _MARGIN_PX = 190, 92, 10
_ABSENT, _PAPER = 228, 255
_MASK_OPACITY = 0.62


def draw_kept_tokens(frame: Shown, ways: Sequence[Way], path: Path) -> None:
    """Write the picture as PNG: what there is, the foreground if known, then method by method."""
    cameras = [*(name for name in _ORDER if name in frame.cameras),
               *(name for name in frame.cameras if name not in _ORDER)]
    lines = [('as recorded', '', _pictures(frame, cameras))]
    if frame.masks:
        lines.append(('foreground', 'background is dark', _masks(frame, cameras)))
    lines += [(way.method, _found(frame, way), _kept(frame, cameras, way)) for way in ways]
    tile_height = lines[0][2][0].shape[0]
    width = _LABEL_PX + len(cameras) * (_TILE_PX + _GAP_PX) + _MARGIN_PX
    height = _TITLE_PX + len(lines) * (tile_height + _GAP_PX) + _MARGIN_PX
    canvas = np.full((height, width, 3), _PAPER, np.uint8)
    for row, (_, _, tiles) in enumerate(lines):
        for column, tile in enumerate(tiles):
            top = _TITLE_PX + row * (tile_height + _GAP_PX)
            left = _LABEL_PX + column * (_TILE_PX + _GAP_PX)
            canvas[top:top + tile_height, left:left + _TILE_PX] = tile
    _write(canvas, _texts(frame, ways, cameras, lines, tile_height), path)


def _texts(frame: Shown, ways: Sequence[Way], cameras: Sequence[str], lines: Sequence[tuple],
           tile_height: int) -> list[tuple[float, float, str, dict]]:
    """Return (x, y, text, style), pixels from the upper left corner."""
    bold, muted = {'fontsize': 11, 'fontweight': 'bold'}, {'fontsize': 9.5, 'color': _MUTED}
    kept, total = len(ways[0].kept), frame.grid[0] * frame.grid[1] * int(
        frame.batch.present.sum())
    texts = [(_MARGIN_PX, 30, frame.name, {'fontsize': 15, 'fontweight': 'bold'}),
             (_LABEL_PX, 50, f'{kept} of {total} visual tokens kept ({kept / total:.0%})',
              {'fontsize': 11, 'color': _MUTED})]
    texts += [(_LABEL_PX + column * (_TILE_PX + _GAP_PX), _TITLE_PX - 10, camera, muted)
              for column, camera in enumerate(cameras)]
    for row, (name, note, _) in enumerate(lines):
        middle = _TITLE_PX + row * (tile_height + _GAP_PX) + tile_height / 2
        texts.append((_MARGIN_PX, middle, name, bold))
        texts += [(_MARGIN_PX, middle + 19 * (i + 1), line, muted)
                  for i, line in enumerate(note.split('\n'))]
    return texts


def _found(frame: Shown, way: Way) -> str:
    """Return how much of the foreground was kept, in words."""
    if frame.shares is None:
        return ''
    total, kept = frame.shares.totals(), frame.shares.kept(way.kept)
    return '\n'.join(f'{kept[key] / total[key]:.0%} of {words}' for key, words in (
        ('foreground', 'the foreground'), ('things', 'it but road')) if total[key])


def _pictures(frame: Shown, cameras: Sequence[str]) -> list[np.ndarray]:
    image = frame.batch.images.shape
    size = _TILE_PX, round(_TILE_PX * image[1] / image[2])
    return [cv2.resize(decode(frame.images[camera], size[1], size[0]), size,
                       interpolation=cv2.INTER_AREA) if camera in frame.images
            else np.full((size[1], size[0], 3), _ABSENT, np.uint8) for camera in cameras]


def _masks(frame: Shown, cameras: Sequence[str]) -> list[np.ndarray]:
    """Return the pictures with the foreground's classes in colour."""
    drawn = []
    for camera, picture in zip(cameras, _pictures(frame, cameras)):
        if camera not in frame.masks:
            drawn.append(np.full_like(picture, _ABSENT))
            continue
        mask = cv2.resize(frame.masks[camera], picture.shape[1::-1],
                          interpolation=cv2.INTER_NEAREST)
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
        mixed = _MASK_OPACITY * CLASS_RGB[mask] + (1 - _MASK_OPACITY) * grey
        drawn.append(np.where(foreground(mask)[..., None], mixed, 0.35 * grey).astype(np.uint8))
    return drawn


def _kept(frame: Shown, cameras: Sequence[str], way: Way) -> list[np.ndarray]:
    bright = np.zeros(len(frame.cameras) * frame.grid[0] * frame.grid[1], dtype=bool)
    bright[way.kept] = True
    bright = bright.reshape(len(frame.cameras), *frame.grid)
    return [draw_kept(picture, bright[frame.cameras.index(camera)])
            if camera in frame.images else picture
            for camera, picture in zip(cameras, _pictures(frame, cameras))]


def _write(canvas: np.ndarray, texts: Sequence[tuple[float, float, str, dict]],
           path: Path) -> None:
    height, width, _ = canvas.shape
    with matplotlib.rc_context({'font.family': 'DejaVu Sans', 'text.color': _INK}):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        figure.figimage(canvas)
        for x, y, text, style in texts:
            figure.text(x / width, 1 - y / height, text, va='baseline', **style)
        figure.savefig(path, dpi=_DPI, format='png')
