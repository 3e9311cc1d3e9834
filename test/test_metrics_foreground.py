# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks on token grids, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fastdrive_ros.metrics.foreground import TokenShares
from fastdrive_ros.metrics.foreground import area_shares


def test_a_token_is_the_mean_over_its_area():
    mask = np.zeros((4, 8), bool)
    mask[:2, :3] = True
    # Tokens are 2 x 4 pixels: the upper left one has 6 of 8, no other has any.
    assert area_shares(mask, 2, 2).tolist() == [0.75, 0, 0, 0]


def test_a_pixel_on_a_border_counts_in_part_for_both():
    # Three pixel columns on two tokens: the middle one belongs to both by halves.
    mask = np.array([[False, True, False]])
    assert area_shares(mask, 1, 2) == pytest.approx([1 / 3, 1 / 3], abs=1e-9)
    left = np.array([[True, False, False]])
    assert area_shares(left, 1, 2) == pytest.approx([2 / 3, 0], abs=1e-9)


def test_a_small_mask_is_stretched():
    assert area_shares(np.array([[True, False]]), 2, 4).tolist() == [1, 1, 0, 0] * 2


def test_all_pixels_are_shared_out():
    mask = np.random.default_rng(0).random((63, 111)) < 0.3
    assert area_shares(mask, 8, 14).mean() == pytest.approx(mask.mean())


def test_what_is_kept_is_summed():
    shares = TokenShares(np.array([0.5, 0.25, 1.0, 0.0]), np.array([0.5, 0.0, 0.25, 0.0]))
    assert shares.kept(np.array([0, 1])) == {
        'foreground': 0.75, 'things': 0.5, 'foreground_tokens': 1.0}
    assert shares.totals() == {'foreground': 1.75, 'things': 0.75, 'foreground_tokens': 2.0}
