# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Head waypoint_queries, one language layer after another, for methods that prune in between.

    planner_embed -> planner_layer_00 -> cut -> planner_layer_01 -> ... -> planner_output

The graphs are those of ``fastdrive export --rivals``; together they are planner.onnx. A row keeps
its slot (its place in the unpruned sequence) however many rows around it go, so positions and
causality stay those of the whole prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners import PlannerOutput
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import InsidePruner
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import layer_graphs


@dataclass(frozen=True)
class _Sequence:
    """The rows between two layers: text, visual, ego, queries."""

    hidden: np.ndarray           # float32 (S, D)
    slots: np.ndarray            # int64 (S,)
    visual_indices: np.ndarray   # int64 (K,), ascending: which of the N tokens the visual rows are
    num_text: int
    num_ego: int

    def rows(self) -> dict[str, np.ndarray]:
        """Return which rows are what, under the names of ``Layer``."""
        bounds = np.cumsum([self.num_text, len(self.visual_indices), self.num_ego])
        parts = np.split(np.arange(len(self.slots)), bounds)
        names = ('text_rows', 'visual_rows', 'ego_rows', 'query_rows')
        return dict(zip(names, parts, strict=True))

    def cut(self, cut: Cut) -> _Sequence:
        """Return the sequence with only the kept visual rows, and the merged ones among them."""
        visual = self.num_text + np.arange(len(self.visual_indices))
        chosen = np.concatenate([cut.keep, cut.merged_places])
        order = np.argsort(chosen, kind='stable')
        merged = cut.merged.reshape(-1, self.hidden.shape[1])
        states = np.concatenate([self.hidden[visual[cut.keep]], merged])[order]
        chosen = chosen[order]
        before, after = slice(0, self.num_text), slice(self.num_text + len(visual), None)
        return dataclasses.replace(
            self,
            hidden=np.concatenate([self.hidden[before], states, self.hidden[after]]),
            slots=np.concatenate(
                [self.slots[before], self.slots[visual[chosen]], self.slots[after]]),
            visual_indices=self.visual_indices[chosen])


class LayeredPlanner:
    """One prefill whose rows become fewer on the way."""

    def __init__(self, section: Mapping[str, Any], engines: Mapping[str, Engine],
                 pruner: InsidePruner) -> None:
        """Take the manifest's ``planner`` section, the engines of its graphs and the method."""
        self.num_waypoints: int = section['num_waypoints']
        self.dt_s: float = section['dt_s']
        self._embed = engines['planner_embed']
        self._layers = [engines[name] for name in layer_graphs(engines)]
        self._output = engines['planner_output']
        self._pruner = pruner

    def plan(self, kept: KeptTokens, ego: EgoState, num_kept: int) -> PlannerOutput:
        """Return extrapolation plus the model's residual, and the tokens that were left."""
        timer = StageTimer()
        with timer('prefill'):
            self._pruner.begin(num_kept, ego.stamp_ns)
            sequence = self._prefill(kept, ego.history)
            residual = self._output.run({
                'hidden': sequence.hidden[-self.num_waypoints:],      # (T, D)
                'ego_history': ego.history,                           # (history_steps, features)
            })['waypoint_residuals']                                  # (T, 3)
        base = extrapolate(ego, self.num_waypoints, self.dt_s)
        return PlannerOutput(base + residual.astype(np.float64), timer.stage_ms,
                             kept_indices=sequence.visual_indices)

    def _prefill(self, kept: KeptTokens, history: np.ndarray) -> _Sequence:
        out = self._embed.run({'kept_tokens': kept.tokens, 'kept_indices': kept.indices,
                               'ego_history': history})
        num_text = len(out['slots']) - len(kept.indices) - len(history) - self.num_waypoints
        sequence = _Sequence(out['hidden'], out['slots'], kept.indices, num_text, len(history))
        text, visual = np.split(out['hidden'][:num_text + len(kept.indices)], [num_text])
        embeddings = np.zeros((kept.num_tokens, visual.shape[1]), visual.dtype)  # absent: zero
        embeddings[kept.indices] = visual
        for index, layer in enumerate(self._layers):
            out = layer.run({'hidden': sequence.hidden, 'slots': sequence.slots})
            sequence = dataclasses.replace(sequence, hidden=out['next_hidden'])
            cut = self._pruner.after(Layer(
                index, len(self._layers), hidden=out['next_hidden'], attention=out['attention'],
                visual_indices=sequence.visual_indices, embeddings=embeddings,
                text_embeddings=text, **sequence.rows()))
            if cut is not None:
                sequence = sequence.cut(cut)
        return sequence
