# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Kept tokens to waypoints: one file for each way a planner can speak.

A head reads the manifest's ``planner`` section and owns the engine of its graph. Today:
waypoint_queries (one prefill). A text-decoding head and a diffusion head fit the same protocol:
both turn KeptTokens and EgoState into waypoints, and name their own inner stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Protocol

import numpy as np

from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.runtime.engine import Engine


@dataclass(frozen=True)
class PlannerOutput:
    """What a head says in one cycle."""

    waypoints: np.ndarray
    """float64 (T, 3): x_m, y_m, yaw_rad in base_link at the set's stamp."""
    stage_ms: Mapping[str, float]
    """The head's inner stages, for example {'prefill': 12.0, 'decode': 80.0}."""
    text: str = ''
    """What a text-decoding head wrote; empty for the others."""


class Planner(Protocol):
    """A planner head. ``plan`` raises EngineError when its graph fails."""

    num_waypoints: int
    dt_s: float

    def plan(self, kept: KeptTokens, ego: EgoState) -> PlannerOutput:
        """Turn one cycle's kept tokens and ego state into waypoints."""


def make_planner(section: Mapping[str, Any], engines: Mapping[str, Engine]) -> Planner:
    """
    Make the head that the manifest's ``planner`` section names.

    Raises ValueError when no head has that name.
    """
    from fastdrive_ros.planners.waypoint_queries import WaypointQueryPlanner

    heads = {'waypoint_queries': WaypointQueryPlanner}
    if section['head'] not in heads:
        raise ValueError(f"the bundle wants planner head '{section['head']}', this version has "
                         f'{sorted(heads)}: export the bundle again with one of them')
    return heads[section['head']](section, engines['planner'])
