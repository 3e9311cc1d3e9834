# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Multiplications of the tiny bundle's graphs, counted by hand."""

from __future__ import annotations

import pytest
from tiny_bundle import CAMERAS
from tiny_bundle import HIDDEN_SIZE
from tiny_bundle import HISTORY_STEPS
from tiny_bundle import NUM_TOKENS
from tiny_bundle import NUM_WAYPOINTS
from tiny_bundle import PATCH

from fastdrive_ros.config import share_dir
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.onnx_cost import graph_macs


def test_a_convolution(tiny_bundle: Bundle):
    # One product for each pixel, colour and channel.
    assert len(CAMERAS) * 8 == NUM_TOKENS
    assert graph_macs(tiny_bundle.graph_path('vision_encoder'), {}) == (
        NUM_TOKENS * HIDDEN_SIZE * 3 * PATCH * PATCH)


def test_products_of_matrices(tiny_bundle: Bundle):
    assert graph_macs(tiny_bundle.graph_path('recon_pruner'), {'K': 12}) == (
        NUM_TOKENS * HIDDEN_SIZE)
    # The tiny planner pools its tokens: only the ego history and the head are products.
    assert graph_macs(tiny_bundle.graph_path('planner'), {'K': 12}) == (
        HISTORY_STEPS * 7 * HIDDEN_SIZE + HIDDEN_SIZE * 3 * NUM_WAYPOINTS)


def test_a_transformer_grows_with_the_square_of_its_tokens():
    planner = load_bundle(share_dir() / 'engines' / 'nano').graph_path('planner')
    macs = [graph_macs(planner, {'K': kept}) for kept in (100, 200, 300, 400)]
    # Weights meet each token once, attention each pair: a quadratic in K.
    first = [b - a for a, b in zip(macs, macs[1:])]
    assert first[1] - first[0] == first[2] - first[1] > 0


def test_a_size_that_is_not_given(tiny_bundle: Bundle):
    with pytest.raises(KeyError, match='K'):
        graph_macs(tiny_bundle.graph_path('planner'), {})
