# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""K over all cameras together, with a floor for each: a method's ranking -> the kept tokens."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.pruners.sight import TokenPruner


def select(pruner: TokenPruner, sight: Sight, num_kept: int, camera_floor: float) -> np.ndarray:
    """
    Return the kept tokens, int64 ascending.

    ``camera_floor`` is the part of an equal share that no camera goes below: 0 leaves the budget
    to the method, 1 gives every present camera as much as any other. What a camera is owed goes to
    the method's best tokens when that camera is all it sees, the rest to its best of all cameras.
    """
    ranked = pruner.rank(sight, num_kept)
    if camera_floor <= 0.0 or len(ranked) > num_kept:
        return np.sort(ranked)
    cameras = np.flatnonzero(sight.present)
    owed = math.floor(camera_floor * num_kept / len(cameras))
    floors = []
    for camera in cameras if owed else ():
        alone = dataclasses.replace(sight, present=np.arange(len(sight.present)) == camera)
        floors.append(pruner.rank(alone, min(owed, int(alone.present_tokens.sum()))))
    kept = np.concatenate([np.empty(0, np.int64), *floors])
    rest = ranked[~np.isin(ranked, kept)]
    return np.sort(np.concatenate([kept, rest[:num_kept - len(kept)]]))
