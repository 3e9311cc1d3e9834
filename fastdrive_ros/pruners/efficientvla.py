# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
EfficientVLA (arXiv 2506.10100, section 3.2): key tokens, task-relevant tokens, diverse tokens.

The paper sums attention between a visual token and the context in 'selected layers', tokens
pruned from layer 2 on. Here: the layer before, and the context's attention to the token, because
under causal attention a visual token cannot look at the text behind it.
"""

from __future__ import annotations

import math

import numpy as np

from fastdrive_ros.pruners.diversity import cosine_distances
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer

FIRST_PRUNED_LAYER = 2
NUM_KEY = 4
"""K_key of the paper's experiments."""
TASK_SHARE = 0.5
"""alpha: share of the rest of the budget that goes by relevance."""


class EfficientVla:
    """One cut: V_key, then V_task, then V_div."""

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        """Begin a cycle."""
        self._num_kept = num_kept

    def after(self, layer: Layer) -> Cut | None:
        """Cut after the layer before FIRST_PRUNED_LAYER."""
        if layer.index != FIRST_PRUNED_LAYER - 1 or len(layer.visual_rows) <= self._num_kept:
            return None
        relevance = layer.attention[np.ix_(layer.context_rows, layer.visual_rows)].sum(axis=0)
        by_relevance = np.argsort(-relevance, kind='stable')
        num_key = min(NUM_KEY, self._num_kept)
        num_task = math.floor(TASK_SHARE * (self._num_kept - num_key))
        key, rest = by_relevance[:num_key], np.sort(by_relevance[num_key + num_task:])
        distances = cosine_distances(layer.embeddings[layer.visual_indices])
        diversity = distances[np.ix_(rest, key)].min(axis=1)        # 1 - max cos to V_key
        num_diverse = self._num_kept - num_key - num_task
        diverse = rest[np.argsort(-diversity, kind='stable')[:num_diverse]]
        return Cut(np.sort(np.concatenate([by_relevance[:num_key + num_task], diverse])))
