# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The nuScenes map expansion -> the drivable raster round the vehicle (data/records.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fastdrive_ros.data.records import DRIVABLE_CELL_M
from fastdrive_ros.data.records import DRIVABLE_CELLS
from fastdrive_ros.data.records import DataError

_ARCHIVE = 'nuScenes-map-expansion-v1.3.zip'
# fillPoly takes fixed point numbers: sixteenths of a cell.
_SHIFT = 4


class DrivableMaps:
    """The drivable_area layer of the four maps, each read when it is first asked for."""

    def __init__(self, root: Path) -> None:
        """Look whether the expansion is there."""
        self._root = root
        self._areas: dict[str, list[list[np.ndarray]]] = {}
        self.installed = (root / 'maps' / 'expansion').is_dir()
        """Without it there is no drivable area."""

    @property
    def advice(self) -> str:
        """What to say when the expansion is not installed."""
        return (f'no map expansion in {self._root}/maps/expansion: frames get no drivable area '
                f'(for it, unpack {_ARCHIVE} into {self._root}/maps and import into a new folder)')

    def raster_png(self, location: str, x_m: float, y_m: float, yaw_rad: float) -> bytes | None:
        """
        Return the raster round base_link as PNG; None where the expansion is not installed.

        Raises DataError when the location's map is missing or damaged.
        """
        if not self.installed:
            return None
        if location not in self._areas:
            self._areas[location] = self._read(location)
        return cv2.imencode('.png', rasterize(self._areas[location], x_m, y_m, yaw_rad))[
            1].tobytes()

    def _read(self, location: str) -> list[list[np.ndarray]]:
        file = self._root / 'maps' / 'expansion' / f'{location}.json'
        mend = f'unpack {_ARCHIVE} into {self._root}/maps again'
        if not file.is_file():
            raise DataError(f'{file} is missing: {mend}')
        from nuscenes.map_expansion.map_api import NuScenesMap

        try:
            area = NuScenesMap(dataroot=str(self._root), map_name=location)
            polygons = [area.extract_polygon(token) for record in area.drivable_area
                        for token in record['polygon_tokens']]
        except OSError:
            raise
        except Exception as error:  # the devkit raises that very class for maps before 1.3
            raise DataError(f'{file} cannot be used ({type(error).__name__}: {error}): {mend}'
                            ) from error
        return [_rings(polygon) for polygon in polygons]


def rasterize(areas: list[list[np.ndarray]], x_m: float, y_m: float,
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


def _rings(polygon: Any) -> list[np.ndarray]:
    return [np.asarray(ring.coords, dtype=np.float64)[:, :2]
            for ring in (polygon.exterior, *polygon.interiors)]
