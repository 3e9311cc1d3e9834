# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Where the vehicle went, as a corridor on the ground, and what of it a camera sees.

    EgoTrack + stamp       -> DrivenPath in base_link at that stamp, on its plane z = 0
    DrivenPath + Camera    -> polygons and lines in pixels, clipped at the near plane
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.records import SceneRecord

WIDTH_M = 1.8
STEP_S = 0.1
_NEAR_M = 0.3


@dataclass(frozen=True)
class DrivenPath:
    """A way of S poses, 0.1 s apart, the first at the stamp itself."""

    middle_m: np.ndarray
    """float64 (S, 2): x forward, y left."""
    left_m: np.ndarray
    """float64 (S, 2): the corridor's edge."""
    right_m: np.ndarray
    """float64 (S, 2)."""

    @property
    def length_m(self) -> float:
        """Along the middle."""
        return float(np.linalg.norm(np.diff(self.middle_m, axis=0), axis=1).sum())

    @property
    def seconds_m(self) -> np.ndarray:
        """float64 (N, 2): where the middle is after 1 s, 2 s, ..."""
        return self.middle_m[round(1 / STEP_S)::round(1 / STEP_S)]


def driven_path(scene: SceneRecord, stamp_ns: int, seconds: float) -> DrivenPath:
    """
    Return the way of the next seconds (below 0: of the last), as far as odometry reaches.

    Raises DataError where there is no odometry at the stamp.
    """
    steps = round(abs(seconds) / STEP_S)
    poses, known = future_at(scene, stamp_ns, steps, np.copysign(STEP_S, seconds))
    reached = steps if known.all() else int(np.argmin(known))
    poses = np.vstack([np.zeros(3), poses[:reached]])
    aside = np.column_stack([-np.sin(poses[:, 2]), np.cos(poses[:, 2])]) * WIDTH_M / 2
    return DrivenPath(poses[:, :2], poses[:, :2] + aside, poses[:, :2] - aside)


def corridor_px(camera: Camera, path: DrivenPath) -> list[np.ndarray]:
    """Return what the camera sees of the corridor as polygons (N, 2) of pixels u, v."""
    left, right = _optical(camera, path.left_m), _optical(camera, path.right_m)
    polygons = (_clipped(np.array([left[i], left[i + 1], right[i + 1], right[i]]), closed=True)
                for i in range(len(left) - 1))
    return [_pixels(camera, polygon) for polygon in polygons if len(polygon) >= 3]


def line_px(camera: Camera, points_m: np.ndarray) -> list[np.ndarray]:
    """Return what the camera sees of a line (S, 2) on the ground as segments (2, 2) of pixels."""
    optical = _optical(camera, points_m)
    segments = (_clipped(optical[i:i + 2], closed=False) for i in range(len(optical) - 1))
    return [_pixels(camera, segment) for segment in segments if len(segment) == 2]


def _optical(camera: Camera, points_m: np.ndarray) -> np.ndarray:
    """Return ground points (S, 2) of base_link in the camera's own axes, (S, 3)."""
    on_ground = np.column_stack([points_m, np.zeros(len(points_m))])
    return (on_ground - camera.position_m) @ camera.rotation()


def _clipped(points: np.ndarray, closed: bool) -> np.ndarray:
    """Return the part of a polygon or line that lies beyond the near plane."""
    kept: list[np.ndarray] = []
    for i, point in enumerate(points):
        before = points[i - 1]
        if (i or closed) and (before[2] > _NEAR_M) != (point[2] > _NEAR_M):
            part = (_NEAR_M - before[2]) / (point[2] - before[2])
            kept.append(before + part * (point - before))
        if point[2] > _NEAR_M:
            kept.append(point)
    return np.array(kept).reshape(-1, 3)


def _pixels(camera: Camera, optical: np.ndarray) -> np.ndarray:
    return (optical @ camera.k.T)[:, :2] / optical[:, 2:]
