# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The K highest learned scores: ReconPruner's, and those of its like that was taught by a planner.

ReconPruner is FastDriveVLA's (arXiv 2507.23318, eq. 9). The other is ours: the same network,
trained to leave the plan as it is (learn/plan_keeping.py).
"""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.pruners.sight import best_first


class Recon:
    """Top-K of ReconPruner's scores."""

    needs = frozenset({'scores'})

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return the present tokens with the highest scores, ties to the lower index."""
        assert sight.scores is not None
        return best_first(sight.scores, np.flatnonzero(sight.present_tokens), num_kept)


class Plan(Recon):
    """Top-K of the scores that a planner taught."""

    needs = frozenset({'plan_scores'})
