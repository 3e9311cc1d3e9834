# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The class ids of every mask, and which of them are foreground in FastDriveVLA's sense.

Foreground is what nuScenes-FG labels (FastDriveVLA, section on nuScenes-FG): humans, roads,
vehicles, traffic signs with traffic lights, and obstacles on or next to the lane. All else is
background. A mask is uint8 (H, W), one id a pixel.
"""

from __future__ import annotations

import numpy as np

CLASSES = ('UNLABELED', 'CAR', 'TRUCK', 'PEDESTRIAN', 'BIKE', 'TERRAIN', 'ROAD', 'SIDEWALK', 'SKY',
           'TRAFFIC_LIGHT', 'FENCE', 'TRAFFIC_SIGN', 'LANE_LINE', 'CROSSWALK', 'BUS')
FOREGROUND = ('CAR', 'TRUCK', 'BUS', 'PEDESTRIAN', 'BIKE', 'ROAD', 'LANE_LINE', 'CROSSWALK',
              'TRAFFIC_LIGHT', 'TRAFFIC_SIGN', 'FENCE')
DRIVEN_ON = ('ROAD', 'LANE_LINE', 'CROSSWALK')

# Colours for people, one RGB row a class.
CLASS_RGB = np.array([
    (0, 0, 0), (60, 120, 255), (30, 60, 170), (255, 60, 90), (190, 60, 200), (120, 140, 80),
    (110, 110, 120), (200, 160, 190), (150, 200, 240), (255, 200, 0), (240, 130, 40),
    (250, 240, 120), (255, 255, 255), (180, 220, 180), (0, 170, 190)], dtype=np.uint8)


def class_ids(names: tuple[str, ...]) -> np.ndarray:
    """Return uint8 (len(names),) ids of class names; raises ValueError for an unknown one."""
    unknown = set(names) - set(CLASSES)
    if unknown:
        raise ValueError(f'unknown mask classes {sorted(unknown)}; known: {", ".join(CLASSES)}')
    return np.array([CLASSES.index(name) for name in names], dtype=np.uint8)


_IS_FOREGROUND = np.isin(np.arange(256), class_ids(FOREGROUND))


def foreground(mask: np.ndarray) -> np.ndarray:
    """Return bool (H, W) of a class-id mask: what a pruner should keep."""
    return _IS_FOREGROUND[mask]
