# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Kept tokens to waypoints: one file for each way a planner can speak.

A head reads the manifest's ``planner`` section and owns the engine of its graph:

    waypoint_queries   in one prefill (waypoint_queries.py), or layer by layer for methods that
                       prune inside the language model (layered.py)
    text               writes its waypoints (text.py)

All turn KeptTokens and EgoState into waypoints, and name their own inner stages.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol

import numpy as np

from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners.language import LanguageModel
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import layer_graphs

LANGUAGE = 'language_model'
"""The graph of head text."""


@dataclass(frozen=True)
class PlannerOutput:
    """What a head says in one cycle."""

    waypoints: np.ndarray
    """float64 (T, 3): x_m, y_m, yaw_rad in base_link at the set's stamp."""
    stage_ms: Mapping[str, float]
    """The head's inner stages, for example {'prefill': 12.0, 'answer': 80.0}."""
    text: str = ''
    """What a text-decoding head wrote; empty for the others."""
    kept_indices: np.ndarray | None = None
    """int64 (K,), ascending: the visual tokens that were left at the end, where the head itself
    prunes. None where it read all that it was given."""


class Planner(Protocol):
    """A planner head. ``plan`` raises EngineError when its graph fails."""

    num_waypoints: int
    dt_s: float

    def plan(self, kept: KeptTokens, ego: EgoState, num_kept: int) -> PlannerOutput:
        """
        Turn one cycle's kept tokens and ego state into waypoints.

        ``num_kept`` is the budget; a head that does not prune was given no more than that.
        """


def planner_graphs(method: str, available: Iterable[str]) -> tuple[str, ...]:
    """Return the planner's graphs that a pruning method needs, of a bundle's ``available``."""
    if LANGUAGE in (available := tuple(available)):
        return (LANGUAGE,)
    if method not in INSIDE:
        return ('planner',)
    layers = layer_graphs(available) or ('planner_layer_00',)
    return ('planner_embed', *layers, 'planner_output')


def make_planner(manifest: Mapping[str, Any], folder: Path, engines: Mapping[str, Engine],
                 method: str, language: LanguageModel | None = None) -> Planner:
    """
    Make the head that a bundle's ``planner`` section names, for a pruning method.

    ``folder`` is the bundle's; ``language`` writes in place of the engine of language_model.
    Raises EngineError when no head has that name.
    """
    from fastdrive_ros.planners.engine_language import EngineLanguage
    from fastdrive_ros.planners.layered import LayeredPlanner
    from fastdrive_ros.planners.text import text_planner
    from fastdrive_ros.planners.waypoint_queries import WaypointQueryPlanner

    section = manifest['planner']
    if section['head'] == 'text':
        return text_planner(manifest, folder, language or EngineLanguage(
            engines[LANGUAGE], section['cache']))
    if section['head'] != 'waypoint_queries':
        raise EngineError(f"the bundle wants planner head '{section['head']}', this version has "
                          "'waypoint_queries' and 'text': export the bundle again with one")
    if method in INSIDE:
        return LayeredPlanner(section, engines, make_pruner(method))
    return WaypointQueryPlanner(section, engines['planner'])
