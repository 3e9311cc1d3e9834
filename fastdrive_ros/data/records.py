# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What one drive is made of, whoever recorded it: the simulator, nuScenes or a bag.

    SceneRecord (calibration, odometry, lanes) 1 --- n FrameRecord (six pictures, masks, boxes)

Positions are in the scene's map frame, metres; orientations are unit quaternions x, y, z, w;
stamps are integer nanoseconds of the recording's clock. History and future of the vehicle are not
stored: they are read off the odometry, by the same code that runs in the vehicle (core/ego.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rotation import Vector

SPLITS = ('train', 'val', 'test')
COMMANDS = ('left', 'straight', 'right')
# Outcomes that make a drive a demonstration; any other is a failure and is kept apart.
GOOD_OUTCOMES = ('arrived', 'recorded')

# The drivable raster: uint8 (512, 512), 255 where a car may drive, base_link in the middle
# (row 256, column 256), x forward = up, y left = left.
DRIVABLE_CELLS = 512
DRIVABLE_CELL_M = 0.2


class DataError(Exception):
    """Data cannot be used or made; the message says what was found and what mends it."""


@dataclass(frozen=True)
class Picture:
    """What one camera saw."""

    stamp_ns: int
    jpeg: bytes
    """As it was recorded; never encoded again."""
    mask_png: bytes | None = None
    """8-bit grey PNG of class ids (core/classes.py), the picture's size; None where unlabelled."""


@dataclass(frozen=True)
class Agent:
    """Another road user, or an obstacle, at a frame's stamp."""

    id: str
    """The same through the whole scene."""
    kind: str
    """A name of core.classes.CLASSES: 'CAR', 'PEDESTRIAN', 'FENCE', ..."""
    position_m: Vector
    """Middle of the box, in the map frame."""
    size_m: Vector
    """Length, width, height."""
    yaw_rad: float
    velocity_mps: tuple[float, float]
    """In the map frame; NaN where the source does not know it."""


@dataclass(frozen=True)
class FrameRecord:
    """One sweep of the rig."""

    scene: str
    index: int
    """0, 1, 2, ... within the scene."""
    stamp_ns: int
    """When the sweep counts as taken: the lidar's stamp in nuScenes, the latest picture's else."""
    pictures: Mapping[str, Picture]
    """By camera name; a camera that gave none is absent."""
    agents: tuple[Agent, ...] = ()
    command: str = 'straight'
    """Where the route leads within the next seconds, one of COMMANDS."""
    traffic_light: str = 'unknown'
    """Of the light ahead: 'none', 'green', 'yellow', 'red'; 'unknown' where nobody recorded it."""
    drivable_png: bytes | None = None
    """The raster described above, as PNG."""


@dataclass(frozen=True)
class EgoTrack:
    """The vehicle's odometry through a scene, M samples in the order of their stamps."""

    stamps_ns: np.ndarray
    """int64 (M,)."""
    positions_m: np.ndarray
    """float64 (M, 3), base_link in the map frame."""
    orientations_xyzw: np.ndarray
    """float64 (M, 4)."""
    velocities_mps: np.ndarray
    """float64 (M, 3), in base_link."""
    angular_velocities_radps: np.ndarray
    """float64 (M, 3), in base_link."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together, and stamps out of order."""
        found = [array.shape for array in (self.positions_m, self.orientations_xyzw,
                                           self.velocities_mps, self.angular_velocities_radps)]
        m = len(self.stamps_ns)
        if found != [(m, 3), (m, 4), (m, 3), (m, 3)]:
            raise ValueError(f'an ego track of {m} stamps needs arrays (M, 3), (M, 4), (M, 3), '
                             f'(M, 3), found {found}')
        if (np.diff(self.stamps_ns) <= 0).any():
            raise ValueError('the stamps of an ego track must increase')


@dataclass(frozen=True)
class SceneRecord:
    """One drive."""

    name: str
    """Unique in the dataset: 'sim-000000123', 'scene-0061', ..."""
    source: str
    """'metadrive', 'nuscenes' or 'bag'."""
    outcome: str
    """'arrived', 'recorded' (nothing went wrong), or a failure: 'crash_vehicle', ..."""
    cameras: tuple[Camera, ...]
    ego: EgoTrack
    frame_id: str = 'map'
    """What the ego track is expressed in."""
    seed: int | None = None
    """The simulator's; None for a recorded drive."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """JSON-able: road, weather, exposure, location, ..."""
    lanes: tuple[np.ndarray, ...] = ()
    """Centre lines, each float64 (P, 3) in the map frame."""

    @property
    def good(self) -> bool:
        """Whether the drive may serve as a demonstration."""
        return self.outcome in GOOD_OUTCOMES
