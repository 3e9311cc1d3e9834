# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames, sweeps and odometry as the cameras and the vehicle would send them."""

from __future__ import annotations

import cv2
import numpy as np

from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet

T0_NS = 1_700_000_000_000_000_000


def make_jpeg(height: int = 56, width: int = 112, seed: int = 0) -> np.ndarray:
    """Return the bytes of a smooth, colourful JPEG, uint8 (bytes,)."""
    coarse = np.random.RandomState(seed).randint(0, 255, (4, 7, 3)).astype(np.uint8)
    _, data = cv2.imencode('.jpg', cv2.resize(coarse, (width, height)))
    return data.reshape(-1)


def make_frame(camera: str, stamp_ns: int = T0_NS, arrival_ns: int = 0,
               data: np.ndarray | None = None) -> Frame:
    """Return one JPEG frame."""
    jpeg = make_jpeg(seed=len(camera)) if data is None else data
    return Frame(camera, stamp_ns, arrival_ns, EncodedImage('jpeg', jpeg))


def make_set(cameras: tuple[str, ...], missing: tuple[str, ...] = (), stamp_ns: int = T0_NS,
             data: dict[str, np.ndarray] | None = None) -> FrameSet:
    """Return one sweep; ``data`` replaces the JPEG of single cameras."""
    frames = {camera: make_frame(camera, stamp_ns, data=(data or {}).get(camera))
              for camera in cameras if camera not in missing}
    return FrameSet(cameras, frames, ready_ns=0)


def make_odometry(stamp_ns: int, speed_mps: float = 5.0, t0_ns: int = T0_NS) -> OdometrySample:
    """Return odometry of a vehicle that drives straight along x of the map."""
    return OdometrySample(
        stamp_ns=stamp_ns, frame_id='map',
        position_m=(speed_mps * (stamp_ns - t0_ns) / 1e9, 0.0, 0.0),
        orientation_xyzw=(0.0, 0.0, 0.0, 1.0),
        velocity_x_mps=speed_mps, velocity_y_mps=0.0, yaw_rate_radps=0.0)
