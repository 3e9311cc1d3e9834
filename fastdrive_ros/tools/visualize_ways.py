# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One frame -> what each method keeps of it at each ratio, and the plan that it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.metrics.judge import NUM_STEPS
from fastdrive_ros.metrics.judge import STEP_S
from fastdrive_ros.tools.evaluate_models import Models
from fastdrive_ros.tools.evaluate_rows import EXTRAPOLATION
from fastdrive_ros.tools.evaluate_rows import UNPRUNED
from fastdrive_ros.tools.visualize_frames import Shown


@dataclass(frozen=True)
class Way:
    """One method at one ratio."""

    method: str
    keep_ratio: float
    waypoints: np.ndarray
    """float64 (T, 2), base_link; of no use where the frame has no odometry."""
    kept: np.ndarray
    """int64 (K,), token indices."""


def ways_of(frame: Shown, models: Models, methods: Sequence[str],
            ratios: Sequence[float]) -> list[Way]:
    """Return extrapolation (where there is odometry), the unpruned plan, then all methods."""
    ego = frame.ego or _nothing_known(frame, models)
    ways = [_way(frame, models, ego, UNPRUNED, 1.0)]
    if frame.ego is not None:
        ways.insert(0, Way(EXTRAPOLATION, 1.0, extrapolate(ego, NUM_STEPS, STEP_S)[:, :2],
                           np.zeros(0, np.int64)))
    return ways + [_way(frame, models, ego, method, ratio) for method in methods
                   if method != UNPRUNED for ratio in ratios]


def _way(frame: Shown, models: Models, ego: EgoState, method: str, ratio: float) -> Way:
    sight = models.encode(method, frame.batch, frame.stamp_ns)
    budget = sight.budget(ratio)
    kept = models.prune(method, sight, budget)
    # A new planner each time: nothing is remembered from the frame before.
    output = models.planner(models.bundle.path.resolve().name, method).plan(kept, ego, budget)
    left = kept.indices if output.kept_indices is None else output.kept_indices
    return Way(method, ratio, output.waypoints[:NUM_STEPS, :2], left)


def _nothing_known(frame: Shown, models: Models) -> EgoState:
    """Return what a vehicle says before its first odometry: methods inside the planner need it."""
    history = np.zeros((models.bundle.planner['history_steps'], len(EGO_FEATURES)), np.float32)
    return EgoState(frame.stamp_ns, 'map', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0.0, 0.0, 0.0,
                    0.0, history)
