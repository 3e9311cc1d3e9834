# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A scene's odometry -> what the planner is given (the way it came) and what it should answer.

History goes through core.ego.EgoBuffer, sample by sample, as in the vehicle: what a planner is
trained on is what it will be given. The future is interpolated; a vehicle never has it.
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.core.rotation import conjugate
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.core.rotation import slerp
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import SceneRecord

# Between samples further apart than this nobody knows how the vehicle went.
_GAP_NS = 1_000_000_000


def history_at(scene: SceneRecord, stamp_ns: int, steps: int = 4, dt_s: float = 0.5) -> np.ndarray:
    """
    Return float32 (steps, 7), core.types.EGO_FEATURES: as EgoState.history at that stamp.

    Only samples up to the stamp are used. Raises DataError where a vehicle would not know its
    state.
    """
    return ego_state_at(scene, stamp_ns, steps, dt_s).history


def ego_state_at(scene: SceneRecord, stamp_ns: int, steps: int = 4, dt_s: float = 0.5) -> EgoState:
    """
    Return what core.ego.EgoBuffer would say in the vehicle at that stamp, history included.

    Only samples up to the stamp are used. Raises DataError where a vehicle would not know its
    state.
    """
    buffer = EgoBuffer(EgoConfig(history_steps=steps, history_dt_s=dt_s))
    # What the buffer would have forgotten again need not be pushed.
    first_ns = stamp_ns - round(steps * dt_s * 1e9) - 2 * _GAP_NS
    first, end = np.searchsorted(scene.ego.stamps_ns, (first_ns, stamp_ns + 1))
    if first == end:
        raise DataError(_outside(scene, stamp_ns))
    try:
        for i in range(first, end):
            buffer.push(_sample(scene, i))
        return buffer.at(stamp_ns)
    except EgoError as error:
        raise DataError(f'scene {scene.name} at {stamp_ns} ns: {error}') from error


def future_at(scene: SceneRecord, stamp_ns: int, num: int = 6, dt_s: float = 0.5) -> (
        tuple[np.ndarray, np.ndarray]):
    """
    Return (float64 (num, 3): x_m, y_m, yaw_rad in base_link at the stamp; bool (num,): known).

    Row i is for stamp + (i + 1) * dt_s, as in core.types.Trajectory. Where the track has ended,
    or has a gap of more than a second, the row is 0 and not known.
    """
    waypoints, known = np.zeros((num, 3)), np.zeros(num, dtype=bool)
    (ox, oy, oz), orientation_xyzw = ego_pose_at(scene, stamp_ns)
    to_base_link = conjugate(orientation_xyzw)
    for row in range(num):
        pose = _pose_at(scene.ego, stamp_ns + round((row + 1) * dt_s * 1e9))
        if pose is None:
            continue
        (x, y, z), then_xyzw = pose
        x_m, y_m, _ = rotate(to_base_link, (x - ox, y - oy, z - oz))
        waypoints[row] = x_m, y_m, yaw_of(multiply(to_base_link, then_xyzw))
        known[row] = True
    return waypoints, known


def ego_pose_at(scene: SceneRecord, stamp_ns: int) -> tuple[Vector, Quaternion]:
    """
    Return base_link in the map frame: position (m), orientation (x, y, z, w).

    Raises DataError where the track does not reach.
    """
    pose = _pose_at(scene.ego, stamp_ns)
    if pose is None:
        raise DataError(_outside(scene, stamp_ns))
    return pose


def _pose_at(ego: EgoTrack, stamp_ns: int) -> tuple[Vector, Quaternion] | None:
    """Return the pose between the samples round a stamp; None outside and in gaps."""
    after = int(np.searchsorted(ego.stamps_ns, stamp_ns))
    if after == len(ego.stamps_ns):
        return None
    if ego.stamps_ns[after] == stamp_ns:
        return tuple(ego.positions_m[after].tolist()), tuple(ego.orientations_xyzw[after].tolist())
    if after == 0:
        return None
    span_ns = int(ego.stamps_ns[after] - ego.stamps_ns[after - 1])
    if span_ns > _GAP_NS:
        return None
    part = (stamp_ns - int(ego.stamps_ns[after - 1])) / span_ns
    a_m, b_m = ego.positions_m[after - 1:after + 1]
    a_xyzw, b_xyzw = ego.orientations_xyzw[after - 1:after + 1].tolist()
    return tuple((a_m + part * (b_m - a_m)).tolist()), slerp(a_xyzw, b_xyzw, part)


def _sample(scene: SceneRecord, i: int) -> OdometrySample:
    ego = scene.ego
    velocity_x_mps, velocity_y_mps, _ = ego.velocities_mps[i].tolist()
    return OdometrySample(
        int(ego.stamps_ns[i]), scene.frame_id, tuple(ego.positions_m[i].tolist()),
        tuple(ego.orientations_xyzw[i].tolist()), velocity_x_mps, velocity_y_mps,
        float(ego.angular_velocities_radps[i, 2]))


def _outside(scene: SceneRecord, stamp_ns: int) -> str:
    stamps_ns = scene.ego.stamps_ns
    track = (f'from {stamps_ns[0]} to {stamps_ns[-1]} ns' if len(stamps_ns) else 'without samples')
    return (f'scene {scene.name}: no odometry at {stamp_ns} ns, its track is {track}: leave out '
            'the frames that it does not reach')
