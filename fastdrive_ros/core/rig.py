# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Where the cameras sit and how they see: points in base_link -> pixels.

base_link is the middle of the rear axle on the ground, x forward, y left, z up (REP 103, 105;
nuScenes' ego frame). A camera's own frame is optical: x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.rotation import multiply

# Optical axes (right, down, forward) of a camera that looks along x of base_link.
_FORWARD_XYZW = (-0.5, 0.5, -0.5, 0.5)
# camera -> (x_m, y_m, z_m, yaw_deg, horizontal field of view in degrees): the nuScenes cars' rig,
# rounded, without roll and pitch.
_NUSCENES = {
    'CAM_FRONT_LEFT': (1.52, 0.49, 1.51, 55.0, 65.0),
    'CAM_FRONT': (1.70, 0.0, 1.51, 0.0, 65.0),
    'CAM_FRONT_RIGHT': (1.55, -0.49, 1.50, -55.0, 65.0),
    'CAM_BACK_LEFT': (1.03, 0.48, 1.59, 110.0, 65.0),
    'CAM_BACK': (0.03, 0.0, 1.57, 180.0, 110.0),
    'CAM_BACK_RIGHT': (1.01, -0.48, 1.56, -110.0, 65.0),
}


@dataclass(frozen=True)
class Camera:
    """A calibrated camera without lens distortion."""

    name: str
    """nuScenes channel, also its optical frame's id."""
    width: int
    height: int
    k: np.ndarray
    """float64 (3, 3) intrinsics, pixels."""
    position_m: Vector
    """In base_link."""
    orientation_xyzw: Quaternion
    """Rotates optical coordinates into base_link."""

    def rotation(self) -> np.ndarray:
        """Return float64 (3, 3): optical -> base_link."""
        x, y, z, w = self.orientation_xyzw
        return np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def nuscenes_rig(width: int, height: int) -> tuple[Camera, ...]:
    """Return the six nuScenes cameras for pictures of this size, in NUSCENES_CAMERAS' order."""
    cameras = []
    for name, (x_m, y_m, z_m, yaw_deg, fov_deg) in _NUSCENES.items():
        focal_px = width / 2.0 / math.tan(math.radians(fov_deg) / 2.0)
        k = np.array([[focal_px, 0.0, width / 2.0],
                      [0.0, focal_px, height / 2.0],
                      [0.0, 0.0, 1.0]])
        cameras.append(Camera(name, width, height, k, (x_m, y_m, z_m),
                              multiply(from_yaw(math.radians(yaw_deg)), _FORWARD_XYZW)))
    return tuple(cameras)


def project(camera: Camera, points_m: np.ndarray, near_m: float = 0.1) -> (
        tuple[np.ndarray, np.ndarray]):
    """
    Return (pixels (P, 2) as u, v; visible (P,) bool) of points (P, 3) in base_link.

    A point is visible when it lies beyond near_m and inside the picture; pixels of points
    behind the camera are NaN.
    """
    optical = (np.asarray(points_m, dtype=np.float64) - camera.position_m) @ camera.rotation()
    depth_m = optical[:, 2]
    ahead = depth_m > near_m
    pixels = np.full((len(optical), 2), np.nan)
    pixels[ahead] = ((optical[ahead] @ camera.k.T)[:, :2] / depth_m[ahead, None])
    inside = ahead.copy()
    inside[ahead] = ((pixels[ahead] >= 0.0)
                     & (pixels[ahead] < (camera.width, camera.height))).all(axis=1)
    return pixels, inside
