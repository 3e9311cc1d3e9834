# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The pictures and the way that every bundle is checked with: the same on every platform."""

from __future__ import annotations

import numpy as np


def golden_images(num_cameras: int, height: int, width: int) -> np.ndarray:
    """
    Return uint8 (V, H, W, 3): the picture every bundle is checked with.

    Ramps, tiles and hashed grain in 32-bit integer arithmetic only: the same on every platform.
    """
    view, row, column, channel = np.ogrid[:num_cameras, :height, :width, :3]
    view, row, column, channel = (axis.astype(np.uint32) for axis in (view, row, column, channel))
    ramp = row * 96 // height + (column + 17 * view) * 64 // width
    tiles = ((row // 12 + column // 20 + view) * (5 + 2 * channel)) % 7 * 12
    grain = (column * 73_856_093) ^ (row * 19_349_663) ^ ((3 * view + channel) * 83_492_791)
    grain = (grain * 2_654_435_761) >> 27
    return ((ramp + tiles + grain) % 256).astype(np.uint8)


def golden_history(history_steps: int) -> np.ndarray:
    """
    Return float32 (history_steps, 7): a gentle left turn at 5 m/s, columns as EGO_FEATURES.

    Poses 0.5 s apart on a 50 m circle to second order; oldest first, the last row is now.
    """
    rows = []
    for steps_ago in reversed(range(history_steps)):
        sin_yaw = -0.05 * steps_ago
        cos_yaw = (1.0 - sin_yaw**2) ** 0.5
        rows.append((-2.5 * steps_ago, 0.0625 * steps_ago**2, sin_yaw, cos_yaw, 5.0, 0.1, 1.0))
    return np.array(rows, np.float32).reshape(history_steps, 7) + np.float32(0.0)  # no -0.0
