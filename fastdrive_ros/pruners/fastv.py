# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""FastV (arXiv 2403.06764): after two layers, the tokens that the last token attends to."""

from __future__ import annotations

from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.pruners.inside import top

FIRST_PRUNED_LAYER = 2
"""K of the paper; the attention is that of the layer before."""


class FastV:
    """One cut, by the last row's attention."""

    def begin(self, num_kept: int, stamp_ns: int) -> None:
        """Begin a cycle."""
        self._num_kept = num_kept

    def after(self, layer: Layer) -> Cut | None:
        """Cut after layer K - 1. The last row is the last query: there an answer begins."""
        if layer.index != FIRST_PRUNED_LAYER - 1 or len(layer.visual_rows) <= self._num_kept:
            return None
        attention = layer.attention[layer.query_rows[-1], layer.visual_rows]
        return Cut(top(attention, self._num_kept))
