# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Waypoints (T, 2) -> where the vehicle's body would be: headings, boxes, points inside them.

Both protocols take the heading from the waypoints themselves, each in its own way, and put the
same box round them. A box is x_m, y_m of its middle, yaw_rad, length_m, width_m.
"""

from __future__ import annotations

import numpy as np

EGO_LENGTH_M, EGO_WIDTH_M = 4.084, 1.85
"""nuScenes' car, which both protocols use; ours in the simulator is 4.515 m long, as wide."""
EGO_MIDDLE_M = 0.985793 + 0.5
"""From base_link to the box's middle: rear axle to lidar, lidar to middle, as both protocols."""

# A way shorter than this in all has no direction (SparseDrive's evaluation).
_STANDING_M = 0.5
# A step shorter than this has no direction; the one before stays. Ours, not stated anywhere.
_STEP_M = 0.1


def central_headings(waypoints: np.ndarray) -> np.ndarray:
    """
    Return headings (..., T) of waypoints (..., T, 2), as the evaluation of SparseDrive.

    Central differences, the vehicle's own place before the first, backward at the last; straight
    on where first and last waypoint are closer than half a metre.
    """
    start = np.zeros_like(waypoints[..., :1, :])
    path = np.concatenate([start, waypoints, waypoints[..., -1:, :]], axis=-2)
    step = path[..., 2:, :] - path[..., :-2, :]                         # (..., T, 2)
    headings = np.arctan2(step[..., 1], step[..., 0])
    way = waypoints[..., -1, :] - waypoints[..., 0, :]
    return np.where((np.hypot(way[..., 0], way[..., 1]) < _STANDING_M)[..., None], 0.0, headings)


def step_headings(waypoints: np.ndarray) -> np.ndarray:
    """
    Return headings (..., T) of waypoints (..., T, 2), as the evaluation of OmniDrive.

    From the waypoint before to this one; a step without a direction keeps the heading it had.
    """
    step = np.diff(waypoints, axis=-2, prepend=np.zeros_like(waypoints[..., :1, :]))
    found = np.arctan2(step[..., 1], step[..., 0])
    moves = np.hypot(step[..., 0], step[..., 1]) >= _STEP_M
    headings = np.zeros(waypoints.shape[:-1])
    heading = np.zeros(waypoints.shape[:-2])
    for i in range(waypoints.shape[-2]):
        heading = np.where(moves[..., i], found[..., i], heading)
        headings[..., i] = heading
    return headings


def ego_boxes(waypoints: np.ndarray, headings: np.ndarray) -> np.ndarray:
    """Return boxes (..., 5) of the vehicle with base_link at waypoints (..., 2)."""
    ahead = np.stack([np.cos(headings), np.sin(headings)], axis=-1)
    size = np.broadcast_to((EGO_LENGTH_M, EGO_WIDTH_M), ahead.shape)
    return np.concatenate([waypoints + EGO_MIDDLE_M * ahead, headings[..., None], size], axis=-1)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Return the corners (..., 4, 2) of boxes (..., 5), counter-clockwise from front left."""
    return _placed(boxes, np.array([(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)]))


def inner_points(boxes: np.ndarray, spacing_m: float) -> np.ndarray:
    """
    Return points (..., P, 2) that fill boxes (..., 5), the edges included.

    They are at most ``spacing_m`` apart in boxes of the vehicle's size.
    """
    along, across = (np.linspace(-0.5, 0.5, 1 + int(np.ceil(size_m / spacing_m)))
                     for size_m in (EGO_LENGTH_M, EGO_WIDTH_M))
    return _placed(boxes, np.stack(np.meshgrid(along, across), axis=-1).reshape(-1, 2))


def _placed(boxes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return points (..., P, 2) at shares (P, 2) of the boxes' length and width."""
    forward = boxes[..., 3:4] * shares[:, 0]                            # (..., P)
    left = boxes[..., 4:5] * shares[:, 1]
    c, s = np.cos(boxes[..., 2:3]), np.sin(boxes[..., 2:3])
    return boxes[..., None, :2] + np.stack([c * forward - s * left, s * forward + c * left],
                                           axis=-1)
