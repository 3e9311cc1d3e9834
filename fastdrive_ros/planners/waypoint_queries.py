# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Head waypoint_queries: T learned queries read in one prefill, no decoding loop.

The graph ``planner.onnx`` holds the prompt's embeddings, the M-RoPE table of the full prompt and
the LLM; it returns a residual on kinematic extrapolation, so an untrained head (output layer
zero) plans exactly the extrapolation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners import PlannerOutput
from fastdrive_ros.runtime.engine import Engine


class WaypointQueryPlanner:
    """One prefill of [prompt, kept tokens, ego history, queries] -> (T, 3) waypoints."""

    def __init__(self, section: Mapping[str, Any], engine: Engine) -> None:
        """Take the manifest's ``planner`` section and the engine of planner.onnx."""
        self.num_waypoints: int = section['num_waypoints']
        self.dt_s: float = section['dt_s']
        self._engine = engine

    def plan(self, kept: KeptTokens, ego: EgoState, num_kept: int) -> PlannerOutput:
        """Return extrapolation plus the model's residual (x_m, y_m, yaw_rad)."""
        timer = StageTimer()
        with timer('prefill'):
            residual = self._engine.run({
                'kept_tokens': kept.tokens,                   # (K, D)
                'kept_indices': kept.indices,                 # (K,)
                'ego_history': ego.history,                   # (history_steps, features)
            })['waypoint_residuals']                          # (T, 3)
        base = extrapolate(ego, self.num_waypoints, self.dt_s)
        return PlannerOutput(base + residual.astype(np.float64), timer.stage_ms)
