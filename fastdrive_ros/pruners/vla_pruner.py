# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
VLA-Pruner (arXiv 2511.16449): what the scene means, and what the last actions looked at.

    S_vl[m]    mean attention of all rows to token m                    (layer 2, before layer 3)
    S_act[m]   mean attention of the action tokens, later half of the layers
    S^_act     sum_{i=1..w} gamma^i S_act of the i-th cycle before this one
    kept       top-K of both together, thinned to K by max-min diversity

This cycle's actions are not known before it is over, hence the window. The paper lets the first w
cycles run unpruned; a vehicle has a deadline, so here they are pruned by S_vl alone.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from fastdrive_ros.pruners.diversity import cosine_distances
from fastdrive_ros.pruners.diversity import farthest_points
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.pruners.inside import top

FIRST_PRUNED_LAYER = 3
WINDOW = 3
"""w of the paper."""
GAMMA = 0.8
NEW_SCENE_NS = 2_000_000_000
"""After a gap this long, or when time runs backwards, what was looked at is forgotten."""


class VlaPruner:
    """One cut, with a memory of what the waypoint queries of the last cycles attended to."""

    def __init__(self) -> None:
        """Start without memory."""
        self._past: deque[np.ndarray] = deque(maxlen=WINDOW)  # newest first
        self._stamp_ns: int | None = None
        self._now: list[np.ndarray] = []

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        """Begin a cycle; the last one's action attention joins the window."""
        if self._now:
            self._past.appendleft(np.mean(self._now, axis=0))
        self._now = []
        if self._stamp_ns is not None and not 0 < stamp_ns - self._stamp_ns <= NEW_SCENE_NS:
            self._past.clear()
        self._num_kept, self._stamp_ns = num_kept, stamp_ns

    def after(self, layer: Layer) -> Cut | None:
        """Note what the queries look at; cut after the layer before FIRST_PRUNED_LAYER."""
        if layer.index >= layer.num_layers // 2:
            seen = np.zeros(len(layer.embeddings), np.float32)  # pruned tokens get none
            seen[layer.visual_indices] = layer.attention[
                np.ix_(layer.query_rows, layer.visual_rows)].mean(axis=0)
            self._now.append(seen)
        if layer.index != FIRST_PRUNED_LAYER - 1 or len(layer.visual_rows) <= self._num_kept:
            return None
        semantic = layer.attention[:, layer.visual_rows].mean(axis=0)
        chosen = top(semantic, self._num_kept)
        if self._past:
            action = self._action_attention()[layer.visual_indices]
            chosen = np.union1d(chosen, top(action, self._num_kept))
        if len(chosen) > self._num_kept:
            tokens = layer.embeddings[layer.visual_indices[chosen]]
            chosen = chosen[farthest_points(cosine_distances(tokens), self._num_kept)]
        return Cut(np.sort(chosen))

    def _action_attention(self) -> np.ndarray:
        """Return S^_act, float (N,)."""
        return sum(GAMMA**i * seen for i, seen in enumerate(self._past, 1))
