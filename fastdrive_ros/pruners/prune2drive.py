# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Prune2Drive (arXiv 2508.13305): farthest-point sampling of tokens in each view, T-FPS.

The paper searches the views' shares offline for one model and one benchmark; here every view has
the same share, as it is before such a search.
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.diversity import cosine_distances
from fastdrive_ros.pruners.diversity import farthest_points
from fastdrive_ros.pruners.sight import Sight


class Prune2Drive:
    """Max-min diversity within each present camera."""

    needs: frozenset[str] = frozenset()

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return each view's first choice, then each view's second, and so on."""
        cameras = np.flatnonzero(sight.present)
        rounds = -(-num_kept // len(cameras))
        chosen = np.empty((rounds, len(cameras)), dtype=np.int64)
        present = np.flatnonzero(sight.present_tokens)
        # Early pruning leaves every camera as many.
        for column, tokens in enumerate(np.split(present, len(cameras))):
            distances = cosine_distances(sight.tokens[tokens])
            chosen[:, column] = tokens[farthest_points(distances, rounds)]
        return chosen.ravel()[:num_kept]
