# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plans of each frame, one a row -> what they did, as arrays over the scene's frames."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from fastdrive_ros.metrics.foreground import TokenShares
from fastdrive_ros.metrics.judge import NUM_STEPS
from fastdrive_ros.metrics.judge import FrameTruth
from fastdrive_ros.metrics.judge import judge
from fastdrive_ros.metrics.judge import starts_off_road
from fastdrive_ros.metrics.protocols import RowFacts
from fastdrive_ros.metrics.protocols import SceneFacts

# Name -> type and shape of one frame's entry.
_STEPS = (NUM_STEPS,)
_SCENE: Mapping[str, tuple[type, tuple[int, ...]]] = {
    'known': (np.bool_, _STEPS), 'boxes_known': (np.bool_, _STEPS), 'box_hits': (np.bool_, _STEPS),
    'cell_hits': (np.bool_, _STEPS), 'starts_off_road': (np.bool_, ()),
    'road_known': (np.bool_, ()), 'foreground': (np.float64, ()), 'things': (np.float64, ()),
    'foreground_tokens': (np.float64, ())}
_ROW: Mapping[str, tuple[type, tuple[int, ...]]] = {
    'waypoints': (np.float32, (NUM_STEPS, 3)), 'error_m': (np.float32, _STEPS),
    'box_hits': (np.bool_, _STEPS), 'cell_hits': (np.bool_, _STEPS),
    'off_road': (np.bool_, _STEPS), 'num_tokens': (np.int64, ()), 'num_kept': (np.int64, ()),
    'kept': (np.float64, ()), 'foreground': (np.float64, ()), 'things': (np.float64, ()),
    'foreground_tokens': (np.float64, ())}
_UNKNOWN = dict.fromkeys(('foreground', 'things', 'foreground_tokens'), float('nan'))


@dataclass(frozen=True)
class Plan:
    """What one row made of one frame."""

    waypoints: np.ndarray
    """float64 (T, 3), T = NUM_STEPS."""
    num_tokens: int = 0
    """N, visual tokens of the cameras that were there; 0 where no model was asked."""
    num_kept: int = 0
    """K."""
    kept_indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """int64 (K or fewer,)."""
    shows_the_frame: bool = True
    """False where the model was shown other pictures: what it kept says nothing of this frame."""


class FactCollector:
    """What has happened in a scene so far."""

    def __init__(self, rows: Sequence[str]) -> None:
        """Begin with no frame."""
        self._scene: dict[str, list[Any]] = {name: [] for name in _SCENE}
        self._rows: dict[str, dict[str, list[Any]]] = {
            row: {name: [] for name in _ROW} for row in rows}

    def add(self, truth: FrameTruth, shares: TokenShares | None, plans: Sequence[Plan]) -> None:
        """Judge one frame's plans, in the order of the rows."""
        way = judge(truth, truth.waypoints[None])
        _append(self._scene, {
            'known': truth.known, 'boxes_known': truth.boxes_known, 'box_hits': way.box_hits[0],
            'cell_hits': way.cell_hits[0], 'starts_off_road': starts_off_road(truth),
            'road_known': truth.blocked is not None,
            **(_UNKNOWN if shares is None else shares.totals())})
        verdict = judge(truth, np.stack([plan.waypoints[:, :2] for plan in plans]))
        for i, (plan, row) in enumerate(zip(plans, self._rows.values())):
            seen = shares is not None and plan.shows_the_frame
            _append(row, {
                'waypoints': plan.waypoints,
                **{name: getattr(verdict, name)[i] for name in vars(verdict)},
                'num_tokens': plan.num_tokens, 'num_kept': plan.num_kept,
                'kept': len(plan.kept_indices),
                **(shares.kept(plan.kept_indices) if seen else _UNKNOWN)})

    def facts(self) -> tuple[SceneFacts, dict[str, RowFacts]]:
        """Return all frames so far."""
        return (SceneFacts(**_arrays(self._scene, _SCENE)),
                {name: RowFacts(**_arrays(row, _ROW)) for name, row in self._rows.items()})


def _append(lists: Mapping[str, list[Any]], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        lists[name].append(value)


def _arrays(lists: Mapping[str, list[Any]],
            kinds: Mapping[str, tuple[type, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    return {name: np.array(lists[name], dtype=dtype).reshape(-1, *shape)
            for name, (dtype, shape) in kinds.items()}
