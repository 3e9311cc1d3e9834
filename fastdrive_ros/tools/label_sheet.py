# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Labelled pictures -> one sheet that shows at a glance what the labelling got right and wrong.

Each tile: the picture, its mask's colours over it, the boxes that led to it with class and score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fastdrive_ros.core.classes import CLASS_RGB
from fastdrive_ros.core.classes import CLASSES

_TILE_WIDTH = 560
_COLUMNS = 3
_GAP = 8
_CAPTION = 24
_LEGEND_ROW = 30
_PAPER_RGB = (24, 26, 30)
_INK_RGB = (225, 228, 232)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OPACITY = 0.5
_DARK = 0.4


@dataclass(frozen=True)
class Tile:
    """One labelled picture."""

    caption: str
    rgb: np.ndarray
    """uint8 (H, W, 3)."""
    mask: np.ndarray
    """uint8 (H, W), class ids."""
    boxes: Sequence[tuple[str, float, tuple[float, float, float, float]]]
    """(class, score, (x0, y0, x1, y1) in pixels of the picture)."""


def draw_sheet(tiles: Sequence[Tile], classes: Sequence[str]) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB: a legend of ``classes``, then the tiles, row by row."""
    drawn = [_tile(tile) for tile in tiles]
    legend = _legend(classes, _COLUMNS * _TILE_WIDTH + (_COLUMNS + 1) * _GAP)
    rows = [legend]
    for start in range(0, len(drawn), _COLUMNS):
        some = drawn[start:start + _COLUMNS]
        height = max(tile.shape[0] for tile in some)
        row = _paper(height + _GAP, legend.shape[1])
        for column, tile in enumerate(some):
            x = _GAP + column * (_TILE_WIDTH + _GAP)
            row[:tile.shape[0], x:x + _TILE_WIDTH] = tile
        rows.append(row)
    return np.concatenate(rows)


def overlay(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the picture with the classes' colours mixed in; background turns dark and grey."""
    mixed = cv2.addWeighted(rgb, 1.0 - _OPACITY, CLASS_RGB[mask], _OPACITY, 0.0)
    # The road's colour is nearly that of asphalt: only against the dark can one see where it ends.
    dark = cv2.convertScaleAbs(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), alpha=_DARK)
    return np.where((mask > 0)[..., None], mixed, dark[..., None])


def _tile(tile: Tile) -> np.ndarray:
    scale = _TILE_WIDTH / tile.rgb.shape[1]
    size = (_TILE_WIDTH, round(tile.rgb.shape[0] * scale))
    picture = overlay(cv2.resize(tile.rgb, size, interpolation=cv2.INTER_AREA),
                      cv2.resize(tile.mask, size, interpolation=cv2.INTER_NEAREST))
    for name, score, corners in tile.boxes:
        _box(picture, f'{name.lower()} {score:.2f}', CLASS_RGB[CLASSES.index(name)].tolist(),
             [round(c * scale) for c in corners])
    caption = _paper(_CAPTION, _TILE_WIDTH)
    cv2.putText(caption, tile.caption, (2, 17), _FONT, 0.45, _INK_RGB, 1, cv2.LINE_AA)
    return np.concatenate([picture, caption])


def _box(picture: np.ndarray, text: str, rgb: Sequence[int], corners: Sequence[int]) -> None:
    x0, y0, x1, y1 = corners
    cv2.rectangle(picture, (x0, y0), (x1, y1), rgb, 1, cv2.LINE_AA)
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.36, 1)
    x = min(max(x0, 0), picture.shape[1] - width - 2)
    y = max(y0, height + 4)
    cv2.rectangle(picture, (x, y - height - 4), (x + width + 2, y), rgb, cv2.FILLED)
    ink = (0, 0, 0) if sum(rgb) > 330 else (255, 255, 255)
    cv2.putText(picture, text, (x + 1, y - 3), _FONT, 0.36, ink, 1, cv2.LINE_AA)


def _legend(classes: Sequence[str], width: int) -> np.ndarray:
    rows, x = [_paper(_LEGEND_ROW, width)], _GAP
    for name in classes:
        text_width = cv2.getTextSize(name, _FONT, 0.45, 1)[0][0]
        if x + 24 + text_width > width:
            rows.append(_paper(_LEGEND_ROW, width))
            x = _GAP
        row = rows[-1]
        cv2.rectangle(row, (x, 8), (x + 16, 22), CLASS_RGB[CLASSES.index(name)].tolist(),
                      cv2.FILLED)
        cv2.putText(row, name, (x + 22, 20), _FONT, 0.45, _INK_RGB, 1, cv2.LINE_AA)
        x += 22 + text_width + 20
    return np.concatenate(rows)


def _paper(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), _PAPER_RGB, dtype=np.uint8)
