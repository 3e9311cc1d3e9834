# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
VisPruner (arXiv 2412.01818): what the encoder attends to, and the rest without its doubles.

The encoder has no class token, so a token's importance is the attention that its patches receive
from all patches, which is the paper's own advice for such encoders. Importance and similarity are
judged over all cameras together.
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.pruners.sight import best_first

IMPORTANT_SHARE = 0.5
"""r of the released scripts."""
_REMOVED_AT_ONCE = 8


class VisPruner:
    """Half of the budget by attention, half by removing what has a double."""

    needs = frozenset({'attention', 'features'})

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return the important tokens by attention, then the diverse ones."""
        assert sight.attention is not None and sight.features is not None
        present = np.flatnonzero(sight.present_tokens)
        order = best_first(sight.attention, present, len(present))
        num_important = int(num_kept * IMPORTANT_SHARE)
        important, rest = order[:num_important], order[num_important:]
        return np.concatenate([important,
                               _without_doubles(rest, sight.features, num_kept - num_important)])


def _without_doubles(rest: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """
    Return ``count`` of the tokens ``rest``.

    They are split in two halves by turns; those of the first half that are most like one of the
    second are removed, a few at a time.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    while len(rest) > count:
        half, other = rest[::2], rest[1::2]
        if not len(other):
            return rest[:count]
        double = (unit[half] @ unit[other].T).max(axis=1)
        removed = min(_REMOVED_AT_ONCE, len(rest) - count, len(half))
        stay = np.sort(np.argsort(double, kind='stable')[:len(half) - removed])
        rest = np.concatenate([half[stay], other])
    return rest
