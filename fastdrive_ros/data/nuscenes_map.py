# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The nuScenes map expansion -> the drivable raster round the vehicle (data/records.py)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fastdrive_ros.data.drivable import rasterize
from fastdrive_ros.data.drivable import rings_of
from fastdrive_ros.data.records import DataError

_ARCHIVE = 'nuScenes-map-expansion-v1.3.zip'


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
        return [rings_of(polygon) for polygon in polygons]
