# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where a vehicle really went -> the command that its route would have given it."""

from __future__ import annotations

import numpy as np

from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.records import SceneRecord

# This far to a side after three seconds is a turn (the convention of VAD and UniAD).
_TURN_M = 2.0
_STEPS, _DT_S = 6, 0.5


def command_from_future(scene: SceneRecord, stamp_ns: int) -> str:
    """
    Return 'left' or 'right' when the vehicle is beyond 2 m aside after 3 s, else 'straight'.

    At the end of a drive, where it was last seen. Raises DataError where there is no odometry.
    """
    waypoints, known = future_at(scene, stamp_ns, _STEPS, _DT_S)
    if not known.any():
        return 'straight'
    aside_m = waypoints[np.flatnonzero(known)[-1], 1]
    return 'left' if aside_m > _TURN_M else 'right' if aside_m < -_TURN_M else 'straight'
