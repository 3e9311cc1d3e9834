# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The vehicle's boxes against other boxes, exactly, or against a raster, cell by cell.

Two rectangles overlap unless one of their four side directions separates them; that is the
intersection of polygons that SparseDrive's evaluation asks for, without polygons.
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.metrics.footprint import inner_points


def boxes_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """
    Tell (...) whether boxes a (..., 5) and b (..., 5), broadcast, touch or overlap.

    A box with NaN in it overlaps nothing.
    """
    apart = b[..., :2] - a[..., :2]
    turn = b[..., 2] - a[..., 2]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    return _meet(apart, a, b, c, s) & _meet(apart, b, a, c, s)


def raster_hits(boxes: np.ndarray, blocked: np.ndarray, cell_m: float) -> np.ndarray:
    """
    Tell (..., T) whether boxes (..., T, 5) of the vehicle's size cover a blocked cell.

    ``blocked`` is bool (T, C, C), or (1, C, C) for all steps, with base_link where the four middle
    cells meet, x up and y to the left. Nothing is blocked outside of it.
    """
    points = inner_points(boxes, cell_m)                                # (..., T, P, 2)
    cells = blocked.shape[-1]
    place = np.floor(cells / 2 - points / cell_m).astype(np.int64)      # row, column
    inside = ((place >= 0) & (place < cells)).all(axis=-1)
    row, column = np.moveaxis(np.where(inside[..., None], place, 0), -1, 0)
    step = np.arange(len(blocked))[:, None]                             # (T or 1, 1)
    return (blocked[step, row, column] & inside).any(axis=-1)


def _meet(apart: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray,
          s: np.ndarray) -> np.ndarray:
    """Tell whether the boxes' shadows on both axes of a meet; c, s of the turn between them."""
    ahead = np.stack([np.cos(a[..., 2]), np.sin(a[..., 2])], axis=-1)
    along = np.abs((apart * ahead).sum(axis=-1))
    across = np.abs(apart[..., 1] * ahead[..., 0] - apart[..., 0] * ahead[..., 1])
    return ((2.0 * along <= a[..., 3] + b[..., 3] * c + b[..., 4] * s)
            & (2.0 * across <= a[..., 4] + b[..., 3] * s + b[..., 4] * c))
