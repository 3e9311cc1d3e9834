# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The values that cross rooms, in data-flow order.

    Frame -> FrameSet -> CameraBatch -> KeptTokens -> Trajectory -> PlanResult

Letters used for shapes everywhere: V cameras (views), H W pixels, N visual tokens of all
cameras, K kept tokens, D channels, T waypoints. Vehicle coordinates are REP 103 (x forward,
y left, z up, metres, radians); stamps are integer nanoseconds of the header clock, arrivals are
integer nanoseconds of a monotonic clock. The two clocks are never subtracted from each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

import numpy as np

# nuScenes' rig, front row then back row, left to right: the usual order of a bundle. Nothing else
# relies on the order, cameras are always looked up by name.
NUSCENES_CAMERAS = ('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT',
                    'CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT')


class FrameError(Exception):
    """
    One camera frame cannot be used: skip it, count it, say why.

    ``reason`` is a short stable key (a counter's name), the message is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep the counter's key beside the sentence."""
        super().__init__(message)
        self.reason = reason


class EgoError(Exception):
    """The ego state is absent, stale or not finite; ``reason`` is the counter's key."""

    def __init__(self, reason: str, message: str) -> None:
        """Keep the counter's key beside the sentence."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class EncodedImage:
    """A compressed picture as it came: sensor_msgs/CompressedImage without ROS."""

    format: str
    """The message's format string, for example 'jpeg' or 'rgb8; jpeg compressed bgr8'."""
    data: np.ndarray
    """uint8 (bytes,), never copied from the message."""


@dataclass(frozen=True)
class RawImage:
    """An uncompressed picture as it came: sensor_msgs/Image without ROS."""

    encoding: str
    height: int
    width: int
    step: int
    """Bytes from one row to the next, padding included."""
    is_bigendian: bool
    data: np.ndarray
    """uint8 (bytes,); a correct message has at least height * step of them."""


@dataclass(frozen=True)
class Frame:
    """One picture of one camera."""

    camera: str
    """nuScenes channel name, for example CAM_FRONT."""
    stamp_ns: int
    """header.stamp: when the picture was taken."""
    arrival_ns: int
    """Monotonic clock when the message reached us; orders deadlines, never compared to a stamp."""
    image: EncodedImage | RawImage
    convert_ms: float = 0.0
    """What turning the message into this Frame cost."""


@dataclass(frozen=True)
class FrameSet:
    """One sweep of the rig: at most one frame of each camera, all within the stamp window."""

    cameras: tuple[str, ...]
    """Every camera that was expected, in the bundle's order."""
    frames: Mapping[str, Frame]
    """The frames that came, by camera name."""
    ready_ns: int
    """Monotonic clock when the set was complete or its deadline passed."""

    def __post_init__(self) -> None:
        """Refuse an empty set and cameras nobody expected."""
        unknown = set(self.frames) - set(self.cameras)
        if not self.frames or unknown:
            raise ValueError(
                f'a frame set needs frames of {self.cameras}, found {list(self.frames)}')

    @property
    def stamp_ns(self) -> int:
        """The earliest stamp of the set, so that age is never understated."""
        return min(frame.stamp_ns for frame in self.frames.values())

    @property
    def spread_ms(self) -> float:
        """Latest minus earliest stamp."""
        stamps = [frame.stamp_ns for frame in self.frames.values()]
        return (max(stamps) - min(stamps)) / 1e6

    @property
    def missing(self) -> tuple[str, ...]:
        """Expected cameras without a frame; an empty tuple means a whole sweep."""
        return tuple(name for name in self.cameras if name not in self.frames)

    @property
    def first_arrival_ns(self) -> int:
        """When the first frame of the set reached us (monotonic)."""
        return min(frame.arrival_ns for frame in self.frames.values())


@dataclass(frozen=True)
class CameraBatch:
    """What the vision encoder takes."""

    images: np.ndarray
    """uint8 (V, H, W, 3), RGB, 0..255, in the bundle's camera order; absent cameras are zero."""
    present: np.ndarray
    """bool (V,): False where a camera is missing. Its tokens are masked out of every model."""
    errors: Mapping[str, FrameError] = field(default_factory=dict)
    """Cameras whose frame came but could not be decoded, and why."""


@dataclass(frozen=True)
class KeptTokens:
    """The visual tokens that survive pruning, in their original order."""

    tokens: np.ndarray
    """float32 (K, D), the encoder's own values (FastDriveVLA eq. 9: V, not V*); in the memory of
    the device that the next engine runs on, where encoder and pruner are one graph there."""
    indices: np.ndarray
    """int64 (K,), ascending, each in 0..N-1: camera-major, then row, then column."""
    scores: np.ndarray | None = None
    """float32 (N,), ReconPruner's score of every token; -inf for tokens of absent cameras. None
    where another method chose."""
    method: str = ''
    """Which pruning method chose them (pruners.METHODS)."""

    num_tokens: int = 0
    """N: the tokens of all cameras, present or not."""

    def only(self, indices: np.ndarray) -> KeptTokens:
        """Return what is left when just ``indices``, ascending and all of them kept, stay."""
        rows = np.searchsorted(self.indices, indices)
        return replace(self, tokens=self.tokens[rows], indices=indices)


# Columns of EgoState.history, the planner's ego input.
EGO_FEATURES = ('x_m', 'y_m', 'sin_yaw', 'cos_yaw', 'speed_mps', 'yaw_rate_radps', 'valid')


@dataclass(frozen=True)
class EgoState:
    """The vehicle at one instant, and the way it came."""

    stamp_ns: int
    frame_id: str
    """The odometry's frame ('map' or 'odom'): what the pose is expressed in."""
    position_m: tuple[float, float, float]
    orientation_xyzw: tuple[float, float, float, float]
    yaw_rad: float
    speed_mps: float
    """Forward speed in base_link; negative when reversing."""
    yaw_rate_radps: float
    acceleration_mps2: float
    history: np.ndarray
    """float32 (history_steps, len(EGO_FEATURES)): oldest first, last row is now (0, 0, 0, 1, ...).
    Poses are relative to the present base_link; rows before the first odometry are all zero."""


@dataclass(frozen=True)
class Trajectory:
    """Where the vehicle should be, in base_link at ``stamp_ns``."""

    stamp_ns: int
    """The frame set's stamp t0; waypoint i is for t0 + (i + 1) * dt_s."""
    dt_s: float
    waypoints: np.ndarray
    """float64 (T, 3): x_m, y_m, yaw_rad in base_link at t0."""
    speeds_mps: np.ndarray
    """float64 (T,), forward speed at each waypoint."""

    @property
    def times_s(self) -> np.ndarray:
        """float64 (T,): seconds after t0 of each waypoint."""
        return self.dt_s * np.arange(1, len(self.waypoints) + 1)


@dataclass(frozen=True)
class Refusal:
    """Why a cycle published no trajectory."""

    reason: str
    """Stable key, the counter's name, for example 'frame_too_old' or 'curvature'."""
    detail: str
    """Sentence for people: what was found, what is allowed, how to mend it."""


@dataclass(frozen=True)
class PlanResult:
    """Everything one cycle has to say; exactly one of trajectory and refusal is set."""

    stamp_ns: int
    trajectory: Trajectory | None
    refusal: Refusal | None
    ego: EgoState | None
    kept: KeptTokens | None
    images: np.ndarray | None
    """uint8 (V, H, W, 3): the encoder's input, for the overlay."""
    present: tuple[str, ...]
    """Cameras that the plan really used."""
    missing: tuple[str, ...]
    """Cameras it had to do without (absent, late or undecodable): never silent."""
    frame_errors: Mapping[str, FrameError]
    num_tokens: int
    """N of the present cameras."""
    stage_ms: Mapping[str, float]
    """Stage name (core.latency.STAGES) -> milliseconds."""
    frame_age_ms: float
    """Header clock now minus the set's stamp, when the plan was ready."""
