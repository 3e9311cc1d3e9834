# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ReconPruner (FastDriveVLA, arXiv 2507.23318, eq. 9): the K highest scores of its graph."""

from __future__ import annotations

import numpy as np

from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.pruners.sight import best_first


class Recon:
    """Top-K of the learned scores."""

    needs = frozenset({'scores'})

    def rank(self, sight: Sight, num_kept: int) -> np.ndarray:
        """Return the present tokens with the highest scores, ties to the lower index."""
        assert sight.scores is not None
        return best_first(sight.scores, np.flatnonzero(sight.present_tokens), num_kept)
