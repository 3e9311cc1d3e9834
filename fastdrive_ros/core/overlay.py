# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Which tokens of a camera survived, drawn into its picture.

    uint8 (H, W, 3) RGB + bool (grid_height, grid_width) -> uint8 (scale * H, scale * W, 3) RGB

Kept patches stay as the camera saw them, with a faint line between patches and a bright one
round each group; dropped patches turn dark and grey.
"""

from __future__ import annotations

import cv2
import numpy as np

_DROPPED_BRIGHTNESS = 0.34
_LINE_RGB = (90, 235, 160)
_RIM_OPACITY = 0.8
_GRID_OPACITY = 0.16


def draw_kept(image: np.ndarray, kept: np.ndarray, scale: int = 1) -> np.ndarray:
    """Return the picture of one camera with its kept tokens bright; the input is not touched."""
    if image.ndim != 3 or kept.ndim != 2:
        raise ValueError('expected an image (H, W, 3) and a mask (grid_height, grid_width), found '
                         f'shapes {image.shape} and {kept.shape}')
    height, width = image.shape[0] * scale, image.shape[1] * scale
    picture = image if scale == 1 else cv2.resize(image, (width, height),
                                                  interpolation=cv2.INTER_CUBIC)
    # The token of each pixel row and column; a grid need not divide the picture.
    rows = np.arange(height) * kept.shape[0] // height
    columns = np.arange(width) * kept.shape[1] // width
    bright = kept[rows[:, None], columns]
    dark = cv2.convertScaleAbs(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY),
                               alpha=_DROPPED_BRIGHTNESS)
    drawn = np.where(bright[..., None], picture, dark[..., None])
    _blend(drawn, bright & _between(rows, columns), _GRID_OPACITY)
    _blend(drawn, bright & ~_core(bright, scale), _RIM_OPACITY)
    return drawn


def heat(level: np.ndarray) -> np.ndarray:
    """Return uint8 (h, w, 3) RGB of levels in [0, 1]: dark for low, bright for high."""
    colours = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)


def _between(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return bool (height, width): the first pixels of each patch."""
    return (np.diff(rows, prepend=0) > 0)[:, None] | (np.diff(columns, prepend=0) > 0)


def _core(bright: np.ndarray, thickness: int) -> np.ndarray:
    """Return ``bright`` without the rim of every group; a group at the border is closed."""
    return cv2.erode(bright.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thickness,
                     borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)


def _blend(drawn: np.ndarray, where: np.ndarray, opacity: float) -> None:
    """Mix the line colour into some pixels, in place."""
    mixed = drawn[where] * (1 - opacity) + np.multiply(_LINE_RGB, opacity)
    drawn[where] = mixed.astype(np.uint8)
