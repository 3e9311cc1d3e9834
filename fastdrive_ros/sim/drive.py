# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A seed -> one recorded drive: SceneRecord with odometry at 10 Hz, FrameRecords at the rate asked.

Which seeds are driven for which shard is decided here, too, so that a dataset is the same however
many workers made it and however often they were interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from fastdrive_ros.data.records import SPLITS
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.sim.renderer import Shot
from fastdrive_ros.sim.world import STEP_S
from fastdrive_ros.sim.world import Ego
from fastdrive_ros.sim.world import World

EPOCH_NS = 1_700_000_000_000_000_000
"""Simulated time begins at this stamp: a plausible one, because 0 means 'no stamp' in ROS."""
JPEG_QUALITY = 90
_LATEST_START_STEPS, _RECORDED_STEPS, _MARGIN_STEPS = 200, 200, 30
_FEWEST_FRAMES = 8
SEEDS_A_SHARD = 1000
SEEDS_A_SPLIT = 100_000_000
"""Seeds of train begin at 0, of val and test at one and two of these: no drive is in two."""
_MASK_COMPRESSION = [cv2.IMWRITE_PNG_COMPRESSION, 4]


@dataclass(frozen=True)
class Drive:
    """What came of one seed."""

    scene: SceneRecord
    frames: list[FrameRecord]


def seeds_of(split: str, shard: int) -> Iterator[int]:
    """Yield the seeds of a shard, in the order in which they are driven."""
    first = SPLITS.index(split) * SEEDS_A_SPLIT + shard * SEEDS_A_SHARD
    yield from range(first, first + SEEDS_A_SHARD)


def drive(world: World, seed: int, rate_hz: float,
          on_frame: Callable[[], None] = lambda: None) -> Drive | None:
    """
    Drive a seed, record up to 20 s of it with pictures at ``rate_hz`` (10 / a whole number).

    Recording begins somewhere within the first 20 s of the drive; odometry begins 3 s before the
    first picture and ends 3 s after the last, so that nearly every frame has its past and future.
    None: the road ended before there was anything to record. ``on_frame`` is called after each
    frame, and may raise to break off.
    """
    every = round(1.0 / (STEP_S * rate_hz))
    if every < 1 or abs(every * STEP_S * rate_hz - 1.0) > 1e-6:
        raise ValueError(
            f'pictures are taken at 10 Hz divided by a whole number, not {rate_hz} Hz')
    world.reset(seed)
    name = f'sim-{seed:09d}'
    first = int(np.random.default_rng([seed, 3]).integers(0, _LATEST_START_STEPS))
    egos, frames = [world.ego], []
    for step in range(first + _RECORDED_STEPS + _MARGIN_STEPS):
        if 0 <= step - first <= _RECORDED_STEPS and (step - first) % every == 0:
            frames.append(_frame(world, name, len(frames), _stamp_ns(step)))
            on_frame()
        world.step()
        if world.outcome:
            break
        egos.append(world.ego)
    if len(frames) < _FEWEST_FRAMES:
        return None
    begin = max(0, first - _MARGIN_STEPS)
    scene = SceneRecord(
        name=name, source='metadrive', outcome=world.outcome or 'recorded', cameras=world.cameras,
        ego=_track(egos[begin:], begin), seed=seed, conditions=world.conditions,
        lanes=tuple(np.column_stack([lane, np.zeros(len(lane))]) for lane in world.roads.lanes))
    return Drive(scene, frames)


def _stamp_ns(step: int) -> int:
    return EPOCH_NS + step * round(STEP_S * 1e9)


def _frame(world: World, scene: str, index: int, stamp_ns: int) -> FrameRecord:
    pictures = {name: Picture(stamp_ns, *encode(shot))
                for name, shot in world.pictures().items()}
    return FrameRecord(scene, index, stamp_ns, pictures, world.agents, world.command,
                       world.traffic_light, _png(world.drivable()))


def encode(shot: Shot) -> tuple[bytes, bytes]:
    """Return (JPEG of the picture, PNG of the mask)."""
    return encode_jpeg(shot.rgb), _png(shot.mask)


def encode_jpeg(rgb: np.ndarray) -> bytes:
    """Return a picture as a camera driver would send it."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=JPEG_QUALITY,
                                  colorspace='RGB', colorsubsampling='420')


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode('.png', mask, _MASK_COMPRESSION)[1].tobytes()


def _track(egos: list[Ego], begin: int) -> EgoTrack:
    return EgoTrack(
        np.array([_stamp_ns(begin + step) for step in range(len(egos))], dtype=np.int64),
        np.array([ego.position_m for ego in egos]),
        np.array([ego.orientation_xyzw for ego in egos]),
        np.array([ego.velocity_mps for ego in egos]),
        np.array([ego.angular_velocity_radps for ego in egos]))
