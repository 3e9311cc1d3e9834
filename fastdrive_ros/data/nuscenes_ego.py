# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
nuScenes' poses -> EgoTrack: velocities off the poses, or as the CAN bus expansion recorded them.

nuScenes has a pose for every reading of every sensor, some of them half a millisecond apart and
none with a velocity. Its quaternions are w, x, y, z, its stamps microseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.core.rotation import conjugate
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack

CAN_BUS_FOLDER = 'can_bus'
# A velocity is the way from the pose this long before to the one this long after.
_REACH_NS = 50_000_000
_NS_PER_US = 1000


def track_from_poses(rows: Iterable[Mapping[str, Any]]) -> EgoTrack:
    """
    Return the track of ego_pose rows in any order, with velocities from finite differences.

    Of rows with the same stamp one counts. At the ends of the track the difference is one-sided.
    """
    by_stamp = {row['timestamp']: row for row in rows}
    ordered = [by_stamp[stamp] for stamp in sorted(by_stamp)]
    stamps_ns = np.array([row['timestamp'] for row in ordered], dtype=np.int64) * _NS_PER_US
    positions_m = _table([row['translation'] for row in ordered], 3)
    orientations = _units(_xyzw(_table([row['rotation'] for row in ordered], 4)))
    last = len(stamps_ns) - 1
    before = np.searchsorted(stamps_ns, stamps_ns - _REACH_NS)
    after = np.searchsorted(stamps_ns, stamps_ns + _REACH_NS, side='right') - 1
    alone = before == after
    before[alone] = np.maximum(before[alone] - 1, 0)
    after[alone] = np.minimum(after[alone] + 1, last)
    span_s = np.maximum(stamps_ns[after] - stamps_ns[before], 1)[:, None] / 1e9
    to_base_link = conjugate(tuple(orientations.T))
    velocities = rotate(to_base_link, tuple(((positions_m[after] - positions_m[before])
                                             / span_s).T))
    turns = multiply(conjugate(tuple(orientations[before].T)), tuple(orientations[after].T))
    return EgoTrack(stamps_ns, positions_m, orientations, np.stack(velocities, axis=1),
                    _rotation_vectors(np.stack(turns, axis=1)) / span_s)


def with_velocities(track: EgoTrack, can_bus: EgoTrack) -> EgoTrack:
    """Return the track with the CAN bus's velocities where that was recording."""
    known = ((track.stamps_ns >= can_bus.stamps_ns[0])
             & (track.stamps_ns <= can_bus.stamps_ns[-1]))[:, None]

    def mixed(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        # Relative to the first stamp: nanoseconds since 1970 do not fit a float64.
        at_s = (track.stamps_ns - can_bus.stamps_ns[0]) / 1e9
        known_s = (can_bus.stamps_ns - can_bus.stamps_ns[0]) / 1e9
        columns = [np.interp(at_s, known_s, theirs[:, i]) for i in range(3)]
        return np.where(known, np.stack(columns, axis=1), ours)

    return EgoTrack(
        track.stamps_ns, track.positions_m, track.orientations_xyzw,
        mixed(track.velocities_mps, can_bus.velocities_mps),
        mixed(track.angular_velocities_radps, can_bus.angular_velocities_radps))


def thinned(track: EgoTrack, max_rate_hz: float) -> EgoTrack:
    """Return the track with gaps of at least a period of ``max_rate_hz`` between samples."""
    gap_ns = round(1e9 / max_rate_hz)
    kept: list[int] = []
    for i, stamp_ns in enumerate(track.stamps_ns.tolist()):
        if not kept or stamp_ns - track.stamps_ns[kept[-1]] >= gap_ns:
            kept.append(i)
    return EgoTrack(*(array[kept] for array in (
        track.stamps_ns, track.positions_m, track.orientations_xyzw, track.velocities_mps,
        track.angular_velocities_radps)))


def can_bus_track(root: Path, scene: str) -> EgoTrack | None:
    """
    Return the 50 Hz poses of the CAN bus expansion; None where it has nothing of the scene.

    Raises DataError when the file is there and cannot be read.
    """
    file = root / CAN_BUS_FOLDER / f'{scene}_pose.json'
    if not file.is_file():
        return None
    try:
        rows = json.loads(file.read_bytes())
        by_stamp = {row['utime']: row for row in rows}
        ordered = [by_stamp[stamp] for stamp in sorted(by_stamp)]
        track = EgoTrack(
            np.array(sorted(by_stamp), dtype=np.int64) * _NS_PER_US,
            _table([row['pos'] for row in ordered], 3),
            _units(_xyzw(_table([row['orientation'] for row in ordered], 4))),
            _table([row['vel'] for row in ordered], 3),
            _table([row['rotation_rate'] for row in ordered], 3))
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f'{file} is damaged ({error}): unpack can_bus.zip into {root} again'
                        ) from error
    return track if len(track.stamps_ns) else None


def _table(rows: Sequence[Sequence[float]], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.float64).reshape(-1, width)


def _xyzw(wxyz: np.ndarray) -> np.ndarray:
    return np.roll(wxyz, -1, axis=1)


def _units(quaternions: np.ndarray) -> np.ndarray:
    return quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)


def _rotation_vectors(xyzw: np.ndarray) -> np.ndarray:
    """Return float64 (M, 3): axis times angle, the shorter way."""
    xyzw = xyzw * np.where(xyzw[:, 3:] < 0.0, -1.0, 1.0)
    sines = np.linalg.norm(xyzw[:, :3], axis=1)
    # math's atan2, because NumPy's gives another last bit on another processor, and NumPy 1.26's
    # even at another address; a dataset has a checksum. For no rotation angle / sine becomes 2.
    scales = [2.0 * math.atan2(sine, cosine) / sine if sine else 2.0
              for sine, cosine in zip(sines.tolist(), xyzw[:, 3].tolist())]
    return xyzw[:, :3] * np.array(scales)[:, None]
