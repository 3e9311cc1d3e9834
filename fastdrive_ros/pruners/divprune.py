# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DivPrune (arXiv 2503.02175): K tokens as unlike each other as can be."""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.diversity import cosine_distances
from fastdrive_ros.pruners.diversity import farthest_points
from fastdrive_ros.pruners.sight import Sight


class DivPrune:
    """Max-min diversity over the tokens of all cameras, before the language model."""

    needs: frozenset[str] = frozenset()

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return the tokens in the order in which the greedy choice takes them."""
        present = np.flatnonzero(sight.present_tokens)
        return present[farthest_points(cosine_distances(sight.tokens[present]), num_kept)]
