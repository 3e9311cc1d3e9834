# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A frame's labels seen from above, in base_link: cells of 2 m from 8 m behind to 40 m ahead.

Row 0 is the farthest ahead, column 0 the leftmost: float32 (24, 16).
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.core.rotation import conjugate
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DRIVABLE_CELL_M
from fastdrive_ros.data.records import DRIVABLE_CELLS
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord

AHEAD_M, BEHIND_M, SIDE_M, CELL_M = 40.0, 8.0, 16.0, 2.0
SHAPE = (round((AHEAD_M + BEHIND_M) / CELL_M), round(2 * SIDE_M / CELL_M))


def drivable_share(frame: FrameRecord) -> np.ndarray:
    """Return the share of each cell where a car may drive; NaN without a raster."""
    if frame.drivable_png is None:
        return np.full(SHAPE, np.nan, np.float32)
    raster = decode_mask(frame.drivable_png, f'drivable raster of frame {frame.index}')
    middle, side = DRIVABLE_CELLS // 2, round(SIDE_M / DRIVABLE_CELL_M)
    top, bottom = (round(way_m / DRIVABLE_CELL_M) for way_m in (AHEAD_M, BEHIND_M))
    part = raster[middle - top:middle + bottom, middle - side:middle + side]
    pixels = round(CELL_M / DRIVABLE_CELL_M)
    cells = part.reshape(SHAPE[0], pixels, SHAPE[1], pixels)
    return (cells.mean((1, 3)) / 255.0).astype(np.float32)


def agents_from_above(scene: SceneRecord, frame: FrameRecord) -> np.ndarray:
    """Return 1 where a road user's box reaches into a cell, else 0."""
    cells = np.zeros(SHAPE, np.float32)
    origin_m, orientation_xyzw = ego_pose_at(scene, frame.stamp_ns)
    to_base_link = conjugate(orientation_xyzw)
    for agent in frame.agents:
        middle_m = rotate(to_base_link, tuple(np.subtract(agent.position_m, origin_m)))
        points = _points(agent, agent.yaw_rad - yaw_of(orientation_xyzw))
        x_m, y_m = points + np.array(middle_m[:2])[:, None]
        row = np.floor((AHEAD_M - x_m) / CELL_M).astype(int)
        column = np.floor((SIDE_M - y_m) / CELL_M).astype(int)
        inside = (row >= 0) & (row < SHAPE[0]) & (column >= 0) & (column < SHAPE[1])
        cells[row[inside], column[inside]] = 1.0
    return cells


def _points(agent: Agent, yaw_rad: float) -> np.ndarray:
    """Return (2, P) points spread over a box, closer than a cell, round its middle."""
    length_m, width_m, _ = agent.size_m
    along = np.linspace(-length_m / 2, length_m / 2, 2 + int(length_m / CELL_M))
    across = np.linspace(-width_m / 2, width_m / 2, 2 + int(width_m / CELL_M))
    x_m, y_m = (part.ravel() for part in np.meshgrid(along, across))
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.stack([cos * x_m - sin * y_m, sin * x_m + cos * y_m])
