# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Waypoints (T, 3) -> Trajectory, and the gate that refuses what a vehicle cannot drive.

Everything is in base_link at the set's stamp (x forward, y left, yaw; metres, radians) until
``to_frame`` moves it into the odometry's frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields

import numpy as np

from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import Refusal
from fastdrive_ros.core.types import Trajectory

# Curvature is measured between points at least this far apart: at a crawl, centimetres of noise
# look like a turn on the spot.
_MIN_SEGMENT_M = 0.5


@dataclass(frozen=True)
class GateLimits:
    """What a published trajectory may ask of the vehicle; beyond it the cycle is refused."""

    max_start_error_m: float = 2.0
    """First waypoint to where constant speed and turn rate would lead."""
    max_speed_mps: float = 40.0
    max_acceleration_mps2: float = 8.0
    """Speeding up and braking; full braking is 6 to 7, the rest is room for odometry noise."""
    max_curvature_1pm: float = 0.35
    """1 / turning radius: 0.35 is 2.9 m, tighter than any car."""
    max_reverse_m: float = 2.0
    """Way driven backwards, beyond what the vehicle's present reverse speed leads to."""

    def __post_init__(self) -> None:
        """Refuse limits that would refuse everything or nothing."""
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not (np.isfinite(value) and value > 0.0):
                raise ValueError(f'{limit.name} must be a finite number above 0, got {value}')


def extrapolate(ego: EgoState, num_waypoints: int, dt_s: float) -> np.ndarray:
    """Return float64 (T, 3): where constant speed and turn rate lead, in base_link."""
    times_s = dt_s * np.arange(1, num_waypoints + 1)
    way_m = ego.speed_mps * times_s
    half_rad = ego.yaw_rate_radps * times_s / 2.0
    # The chord of the arc points along half the turn; np.sinc is exact at turn rate zero.
    chord_m = way_m * np.sinc(half_rad / np.pi)
    return np.stack((chord_m * np.cos(half_rad), chord_m * np.sin(half_rad), 2.0 * half_rad),
                    axis=1)  # (T, 3)


def make_trajectory(stamp_ns: int, dt_s: float, waypoints: np.ndarray) -> Trajectory:
    """
    Return the Trajectory with its speeds: mean forward speed of the segment that ends there.

    Segments are taken as arcs, so constant speed on a bend stays constant. NaN passes through:
    ``check`` refuses it.
    """
    waypoints = np.asarray(waypoints, dtype=np.float64)
    poses = np.vstack((np.zeros(3), waypoints))                 # (T + 1, 3), from here
    step = np.diff(poses[:, :2], axis=0)                        # (T, 2)
    turn_rad = _wrap(np.diff(poses[:, 2]))                      # (T,)
    middle_rad = poses[:-1, 2] + turn_rad / 2.0
    forward = step[:, 0] * np.cos(middle_rad) + step[:, 1] * np.sin(middle_rad)
    length_m = np.hypot(*step.T) / np.sinc(turn_rad / (2.0 * np.pi))
    speeds_mps = np.where(forward < 0.0, -length_m, length_m) / dt_s
    return Trajectory(stamp_ns, dt_s, waypoints, speeds_mps)


def check(trajectory: Trajectory, ego: EgoState, limits: GateLimits) -> Refusal | None:
    """
    Return why the vehicle must not get this trajectory, or None when it is fit to publish.

    Reasons: not_finite, start_jump, speed, acceleration, reverse, curvature.
    """
    if not (np.isfinite(trajectory.waypoints).all() and np.isfinite(trajectory.speeds_mps).all()):
        first = int(np.argmin(np.isfinite(trajectory.waypoints).all(axis=1)))
        return Refusal('not_finite', f'waypoint {first} is not finite: the model or its input is '
                       "broken, check the engine with the bundle's golden output")
    expected = extrapolate(ego, 1, trajectory.dt_s)[0]
    error_m = float(np.hypot(*(trajectory.waypoints[0, :2] - expected[:2])))
    if error_m > limits.max_start_error_m:
        return Refusal('start_jump', f'the first waypoint lies {error_m:.2f} m from where the '
                       f'vehicle is heading, allowed are {limits.max_start_error_m:g} m')
    return (_check_speed(trajectory, limits) or _check_acceleration(trajectory, ego, limits)
            or _check_reverse(trajectory, ego, limits) or _check_curvature(trajectory, limits))


def to_frame(trajectory: Trajectory, ego: EgoState) -> tuple[np.ndarray, np.ndarray]:
    """
    Return positions float64 (T, 3) and yaw float64 (T,) in the odometry's frame.

    ``ego`` must be the state at the trajectory's stamp.
    """
    # The columns of the rotation are where the axes of base_link point.
    forward = np.array(rotate(ego.orientation_xyzw, (1.0, 0.0, 0.0)))
    left = np.array(rotate(ego.orientation_xyzw, (0.0, 1.0, 0.0)))
    x_m, y_m, yaw_rad = trajectory.waypoints.T
    positions = np.array(ego.position_m) + np.outer(x_m, forward) + np.outer(y_m, left)  # (T, 3)
    return positions, _wrap(ego.yaw_rad + yaw_rad)


def _check_speed(trajectory: Trajectory, limits: GateLimits) -> Refusal | None:
    """Refuse a segment that is faster than the vehicle."""
    worst = int(np.argmax(np.abs(trajectory.speeds_mps)))
    found_mps = abs(float(trajectory.speeds_mps[worst]))
    if found_mps <= limits.max_speed_mps:
        return None
    return Refusal('speed', f'waypoint {worst} needs {found_mps:.1f} m/s, allowed are '
                   f'{limits.max_speed_mps:g} m/s')


def _check_acceleration(trajectory: Trajectory, ego: EgoState,
                        limits: GateLimits) -> Refusal | None:
    """Refuse speeding up or braking beyond the limit, the present speed included."""
    # A segment's mean speed is reached in its middle: 0, dt/2, 3dt/2, ...
    times_s = np.concatenate(([0.0], trajectory.times_s - trajectory.dt_s / 2.0))
    speeds_mps = np.concatenate(([ego.speed_mps], trajectory.speeds_mps))
    found = np.diff(speeds_mps) / np.diff(times_s)              # (T,)
    worst = int(np.argmax(np.abs(found)))
    if abs(found[worst]) <= limits.max_acceleration_mps2:
        return None
    return Refusal('acceleration', f'waypoint {worst} needs {found[worst]:.1f} m/s2, allowed are '
                   f'{limits.max_acceleration_mps2:g} m/s2 up and down')


def _check_reverse(trajectory: Trajectory, ego: EgoState, limits: GateLimits) -> Refusal | None:
    """Refuse driving backwards, unless the vehicle is already doing so."""
    found_m = -float(np.minimum(trajectory.speeds_mps, 0.0).sum()) * trajectory.dt_s
    going_m = max(0.0, -ego.speed_mps) * float(trajectory.times_s[-1])
    if found_m <= limits.max_reverse_m + going_m:
        return None
    return Refusal('reverse', f'the way leads {found_m:.2f} m backwards, allowed are '
                   f'{limits.max_reverse_m + going_m:.2f} m at {ego.speed_mps:.1f} m/s now')


def _check_curvature(trajectory: Trajectory, limits: GateLimits) -> Refusal | None:
    """Refuse a bend tighter than the limit, in the positions or in the yaw angles."""
    poses = _spaced(np.vstack((np.zeros(3), trajectory.waypoints)))   # (P, 3)
    if len(poses) < 2:
        return None
    step = np.diff(poses[:, :2], axis=0)                        # (P - 1, 2)
    length_m = np.hypot(*step.T)
    middle_yaw_rad = poses[:-1, 2] + _wrap(np.diff(poses[:, 2])) / 2.0
    heading_rad = np.arctan2(step[:, 1], step[:, 0])
    backwards = np.cos(heading_rad - middle_yaw_rad) < 0.0
    heading_rad = heading_rad + np.pi * backwards
    # The path's direction at the origin is the vehicle's own; at a segment it holds in its middle.
    turn_rad = _wrap(np.diff(heading_rad, prepend=0.0))
    apart_m = np.convolve(np.concatenate(([0.0], length_m)), (0.5, 0.5), mode='valid')
    # A circle's chord is 2 r sin(turn / 2).
    by_path = 2.0 * np.sin(np.abs(turn_rad) / 2.0) / apart_m
    by_yaw = 2.0 * np.sin(np.abs(_wrap(np.diff(poses[:, 2]))) / 2.0) / length_m
    found = float(max(by_path.max(), by_yaw.max()))
    if found <= limits.max_curvature_1pm:
        return None
    return Refusal('curvature', f'the path bends with {found:.3f} 1/m (radius {1.0 / found:.2f} '
                   f'm), allowed are {limits.max_curvature_1pm:g} 1/m')


def _spaced(poses: np.ndarray) -> np.ndarray:
    """Return the poses that are at least _MIN_SEGMENT_M from the one kept before."""
    kept = [poses[0]]
    for pose in poses[1:]:
        if np.hypot(*(pose[:2] - kept[-1][:2])) >= _MIN_SEGMENT_M:
            kept.append(pose)
    return np.array(kept)


def _wrap(angle_rad: np.ndarray) -> np.ndarray:
    """Return the same directions in [-pi, pi)."""
    return (angle_rad + np.pi) % (2.0 * np.pi) - np.pi
