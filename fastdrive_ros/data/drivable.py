# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Polygons where a car may drive -> the raster of one frame, as records.py describes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from fastdrive_ros.data.records import DRIVABLE_CELL_M
from fastdrive_ros.data.records import DRIVABLE_CELLS

# fillPoly takes fixed point numbers with so many bits after the point.
_SHIFT = 4


def rasterize(areas: Sequence[Sequence[np.ndarray]], x_m: float, y_m: float,
              yaw_rad: float) -> np.ndarray:
    """
    Return uint8 (512, 512), 255 in the areas, seen from a vehicle at that pose.

    An area is its outer ring and its holes, each float64 (P, 2) in the map frame.
    """
    grid = np.zeros((DRIVABLE_CELLS, DRIVABLE_CELLS), np.uint8)
    reach_m = DRIVABLE_CELLS * DRIVABLE_CELL_M  # more than half the diagonal
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    # base_link is where the four middle cells meet; fillPoly counts from the middle of cell 0.
    middle = DRIVABLE_CELLS / 2 - 0.5
    for rings in areas:
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        if (low > (x_m + reach_m, y_m + reach_m)).any() or (
                high < (x_m - reach_m, y_m - reach_m)).any():
            continue
        cells = []
        for ring in rings:
            dx, dy = (ring - (x_m, y_m)).T
            forward, left = c * dx + s * dy, c * dy - s * dx
            cells.append(np.column_stack([middle - left / DRIVABLE_CELL_M,
                                          middle - forward / DRIVABLE_CELL_M]))
        cv2.fillPoly(grid, [np.round(ring * (1 << _SHIFT)).astype(np.int32) for ring in cells],
                     255, shift=_SHIFT)
    return grid


def rings_of(polygon: Any) -> list[np.ndarray]:
    """Return a shapely polygon's outer ring and its holes, each float64 (P, 2)."""
    return [np.asarray(ring.coords, dtype=np.float64)[:, :2]
            for ring in (polygon.exterior, *polygon.interiors)]
