# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small drives as the simulator, nuScenes or a bag would record them: real JPEG and PNG bytes."""

from __future__ import annotations

import cv2
import numpy as np
from make_inputs import T0_NS
from make_inputs import make_jpeg

from fastdrive_ros.core.classes import class_ids
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.data.records import DRIVABLE_CELLS
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord

WIDTH, HEIGHT = 112, 56
# The track: an arc to the left from the map's origin, 5 m/s on a radius of 20 m.
SPEED_MPS, YAW_RATE_RADPS = 5.0, 0.25
# A scene's track goes on this long after its last frame.
FUTURE_S = 3.0
# Cameras fire one after the other; the sweep counts as taken with the last of them.
CAMERA_GAP_NS = 5_000_000


def make_png(image: np.ndarray) -> bytes:
    """Return a grey picture, uint8 (H, W), as PNG."""
    return cv2.imencode('.png', image)[1].tobytes()


def make_mask(shift: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """
    Return uint8 (H, W): sky in the upper half, road below, on it a car an eighth as wide.

    The car is half as high as the road: 1/2 SKY, 15/32 ROAD, 1/32 CAR, and 1/2 is foreground.
    """
    sky, road, car = class_ids(('SKY', 'ROAD', 'CAR'))
    mask = np.full((height, width), sky)
    mask[height // 2:] = road
    left = shift % (width - width // 8)
    mask[height // 2:height // 2 + height // 4, left:left + width // 8] = car
    return mask


def make_track(duration_s: float, rate_hz: float = 10.0, t0_ns: int = T0_NS) -> EgoTrack:
    """Return the arc's odometry from ``t0_ns`` on."""
    seconds = np.arange(round(duration_s * rate_hz) + 1) / rate_hz
    yaws_rad = YAW_RATE_RADPS * seconds
    radius_m = SPEED_MPS / YAW_RATE_RADPS
    zeros, ones = np.zeros_like(seconds), np.ones_like(seconds)
    return EgoTrack(
        stamps_ns=t0_ns + np.round(seconds * 1e9).astype(np.int64),
        positions_m=np.stack(
            [radius_m * np.sin(yaws_rad), radius_m * (1 - np.cos(yaws_rad)), zeros], axis=1),
        orientations_xyzw=np.array([from_yaw(yaw_rad) for yaw_rad in yaws_rad]),
        velocities_mps=np.stack([SPEED_MPS * ones, zeros, zeros], axis=1),
        angular_velocities_radps=np.stack([zeros, zeros, YAW_RATE_RADPS * ones], axis=1))


def make_frames(name: str, num_frames: int, seed: int, rate_hz: float, masks: bool,
                cameras: tuple[str, ...], width: int, height: int) -> list[FrameRecord]:
    """Return a scene's sweeps, the first at T0_NS plus what its cameras take to fire."""
    rng = np.random.default_rng(seed)
    drivable = np.zeros((DRIVABLE_CELLS, DRIVABLE_CELLS), np.uint8)
    drivable[:, 240:272] = 255
    frames = []
    for i in range(num_frames):
        first_ns = T0_NS + round(i / rate_hz * 1e9)
        pictures = {
            camera: Picture(
                first_ns + j * CAMERA_GAP_NS,
                make_jpeg(height, width, seed=int(rng.integers(1 << 31))).tobytes(),
                make_png(make_mask(seed + 10 * i + j, width, height)) if masks else None)
            for j, camera in enumerate(cameras)}
        agents = (
            Agent('car-1', 'CAR', (12.0 + i, *rng.normal(size=2).tolist()), (4.5, 1.9, 1.6), 0.1,
                  (4.0, 0.5)),
            Agent('walker-1', 'PEDESTRIAN', (8.0, -4.0, 0.9), (0.6, 0.6, 1.8), -1.5,
                  (float('nan'), float('nan'))))
        frames.append(FrameRecord(
            name, i, first_ns + (len(cameras) - 1) * CAMERA_GAP_NS, pictures, agents,
            ('left', 'straight', 'right')[i % 3], ('none', 'green', 'red')[i % 3],
            make_png(drivable)))
    return frames


def make_scene(name: str = 'sim-000000000', num_frames: int = 3, seed: int = 0,
               rate_hz: float = 2.0, outcome: str = 'arrived', masks: bool = True,
               cameras: tuple[str, ...] = NUSCENES_CAMERAS, width: int = WIDTH,
               height: int = HEIGHT) -> tuple[SceneRecord, list[FrameRecord]]:
    """Return a drive and its sweeps; the seed decides what the pictures show."""
    frames = make_frames(name, num_frames, seed, rate_hz, masks, cameras, width, height)
    rig = tuple(camera for camera in nuscenes_rig(width, height) if camera.name in cameras)
    return SceneRecord(
        name, 'metadrive', outcome, rig, make_track((num_frames - 1) / rate_hz + FUTURE_S),
        seed=seed, conditions={'weather': ('clear', 'fog')[seed % 2], 'exposure': 1.25},
        lanes=(np.array([(0.0, 1.75, 0.0), (30.0, 1.75, 0.0)]),
               np.array([(0.0, -1.75, 0.0), (15.0, -1.75, 0.1), (30.0, -1.75, 0.2)])),
    ), frames
