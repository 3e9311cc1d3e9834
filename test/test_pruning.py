# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How many tokens are kept, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest

from fastdrive_ros.core.pruning import kept_mask
from fastdrive_ros.core.pruning import kept_per_camera
from fastdrive_ros.core.pruning import num_kept

CAMERAS = ('CAM_FRONT', 'CAM_BACK')


@pytest.mark.parametrize(('keep_ratio', 'tokens', 'kept'), [
    (1.0, 672, 672),
    (0.5, 672, 336),
    (0.5, 3249, 1624),      # FastDriveVLA's own rows (Table 1)
    (0.75, 3249, 2436),
    (0.25, 3249, 812),
    (0.29, 100, 29),        # 28.999999999999996 in binary
    (float(np.float32(0.29)), 100, 29),
    (1 / 3, 672, 224),
    (0.999, 100, 99),
    (0.01, 10, 1),          # never none
])
def test_num_kept(keep_ratio: float, tokens: int, kept: int) -> None:
    """Floor, at least one, safe from rounding."""
    assert num_kept(keep_ratio, tokens) == kept


def test_every_percentage_is_exact() -> None:
    """Any whole per cent of 100 tokens is that many tokens."""
    assert [num_kept(k / 100, 100) for k in range(1, 101)] == list(range(1, 101))


@pytest.mark.parametrize('keep_ratio', [0.0, -0.5, 1.01, float('nan')])
def test_num_kept_refuses_ratio(keep_ratio: float) -> None:
    """Only (0, 1]."""
    with pytest.raises(ValueError, match=r'keep_ratio must lie in \(0, 1\]'):
        num_kept(keep_ratio, 100)


def test_num_kept_refuses_no_tokens() -> None:
    """There is nothing to keep."""
    with pytest.raises(ValueError, match='at least one token, got 0'):
        num_kept(0.5, 0)


def test_kept_mask_is_camera_major_then_row_then_column() -> None:
    """On a 2 x 3 grid: token 4 is row 1, column 1; token 6 is the second camera's first."""
    masks = kept_mask(np.array([0, 4, 6, 11]), CAMERAS, 2, 3)
    assert list(masks) == list(CAMERAS)
    assert masks['CAM_FRONT'].tolist() == [[True, False, False], [False, True, False]]
    assert masks['CAM_BACK'].tolist() == [[True, False, False], [False, False, True]]


def test_kept_per_camera_adds_up() -> None:
    """A camera that keeps nothing is in the answer, too."""
    assert kept_per_camera(np.array([0, 4, 5]), CAMERAS, 6) == {'CAM_FRONT': 3, 'CAM_BACK': 0}
    assert kept_per_camera(np.array([5, 6]), CAMERAS, 6) == {'CAM_FRONT': 1, 'CAM_BACK': 1}
    assert kept_per_camera(np.array([], np.int64), CAMERAS, 6) == dict.fromkeys(CAMERAS, 0)


@pytest.mark.parametrize('indices', [[12], [-1, 3]])
def test_indices_of_another_bundle_are_refused(indices: list[int]) -> None:
    """Instead of wrapping round to a wrong camera."""
    with pytest.raises(ValueError, match=r'must lie in 0\.\.11'):
        kept_mask(np.array(indices), CAMERAS, 2, 3)
    with pytest.raises(ValueError, match=r'must lie in 0\.\.11'):
        kept_per_camera(np.array(indices), CAMERAS, 6)
