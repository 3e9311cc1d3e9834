# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Methods before the language model: small cases by hand, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.pruners.budget import select
from fastdrive_ros.pruners.diversity import cosine_distances
from fastdrive_ros.pruners.diversity import farthest_points
from fastdrive_ros.pruners.sight import Sight

BEFORE = [name for name in METHODS if name not in INSIDE and name != 'none']


def make_sight(tokens, present=(True,), **more) -> Sight:
    tokens = np.asarray(tokens, np.float32)
    return Sight(tokens, np.array(present), 1, len(tokens) // len(present), **more)


def random_sight(seed: int, present: tuple[bool, ...], height: int, width: int) -> Sight:
    rng = np.random.default_rng(seed)
    n = len(present) * height * width
    scores = rng.integers(0, 4, n).astype(np.float32)  # many ties
    scores[~np.repeat(present, height * width)] = -np.inf
    return Sight(rng.normal(size=(n, 5)).astype(np.float32), np.array(present), height, width,
                 scores, rng.random(n).astype(np.float32),
                 rng.normal(size=(n, 3)).astype(np.float32), seed)


@given(st.sampled_from(BEFORE), st.integers(0, 1000), st.lists(st.booleans(), min_size=1,
       max_size=4).filter(any), st.integers(1, 3), st.integers(1, 4),
       st.floats(0.01, 1.0), st.sampled_from((0.0, 0.3, 0.5, 1.0)))
@settings(max_examples=150, deadline=None)
def test_every_method_keeps_exactly_k_distinct_present_tokens_in_order(
        name, seed, present, height, width, ratio, floor):
    sight = random_sight(seed, tuple(present), height, width)
    available = sum(present) * height * width
    num_kept = max(1, int(ratio * available))
    kept = select(make_pruner(name), sight, num_kept, floor)
    assert kept.dtype == np.int64
    assert len(kept) == num_kept
    assert (np.diff(kept) > 0).all()
    assert sight.present_tokens[kept].all()
    assert (kept == select(make_pruner(name), sight, num_kept, floor)).all()
    if floor == 1.0:
        counts = np.bincount(kept // (height * width), minlength=len(present))
        assert counts[np.array(present)].min() >= num_kept // sum(present)


def test_none_keeps_every_present_token_whatever_the_budget():
    sight = random_sight(0, (True, False, True), 1, 2)
    assert select(make_pruner('none'), sight, 1, 0.0).tolist() == [0, 1, 4, 5]


def test_random_follows_the_stamp():
    sights = [make_sight(np.eye(12), stamp_ns=stamp) for stamp in (5, 5, 6)]
    a, b, c = (make_pruner('random').rank(sight, 6).tolist() for sight in sights)
    assert a == b != c


def test_uniform_takes_the_middle_of_equal_stretches():
    # Six tokens, K = 3: stretches 01 23 45. K = 2: 012 345.
    assert make_pruner('uniform').rank(make_sight(np.eye(6)), 3).tolist() == [1, 3, 5]
    assert make_pruner('uniform').rank(make_sight(np.eye(6)), 2).tolist() == [1, 4]


def test_recon_takes_the_highest_scores_and_the_lower_index_of_equal_ones():
    sight = make_sight(np.eye(5), scores=np.array([1.0, 3, 2, 3, 2], np.float32))
    assert make_pruner('recon').rank(sight, 3).tolist() == [1, 3, 2]


def test_cosine_distances_by_hand():
    found = cosine_distances(np.array([[1.0, 0], [0, 2], [-3, 0], [0, 0]]))
    np.testing.assert_allclose(found, [[0, 1, 2, 1], [1, 0, 1, 1], [2, 1, 0, 1], [1, 1, 1, 0]])


def test_divprune_by_hand():
    # Angles 0, 10, 90, 100, 200 degrees. Nearest neighbours: 10, 10, 10, 10, 100 degrees away, so
    # token 4 is first. Farthest from it: token 1 (170 away; 0 is 160). Then min angle to {4, 1}:
    # token 0: 10, token 2: 80, token 3: 90.
    angles = np.deg2rad([0, 10, 90, 100, 200])
    sight = make_sight(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert make_pruner('divprune').rank(sight, 3).tolist() == [4, 1, 3]


def test_equal_tokens_are_not_taken_twice():
    assert sorted(farthest_points(cosine_distances(np.ones((4, 2))), 4)) == [0, 1, 2, 3]


def test_prune2drive_shares_the_budget_between_the_views_that_are_there():
    # Camera 0 at 0, 10, 90 degrees, camera 2 at 0, 80, 90; camera 1 is absent. K = 3: camera 0's
    # first (token 2, neighbour 80 away), camera 2's first (token 6), camera 0's second (token 0).
    angles = np.deg2rad([0, 10, 90, 0, 0, 0, 0, 80, 90])
    sight = make_sight(np.stack([np.cos(angles), np.sin(angles)], axis=1), (True, False, True))
    assert make_pruner('prune2drive').rank(sight, 3).tolist() == [2, 6, 0]


def test_vispruner_removes_the_double_first():
    # K = 4: two by attention (0, 1), two of 2 3 4. Halves {2, 4} and {3}: 4 is 3's double.
    features = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], np.float32)
    sight = make_sight(np.eye(5), attention=np.linspace(1, 0, 5), features=features)
    assert make_pruner('vispruner').rank(sight, 4).tolist() == [0, 1, 2, 3]


def test_vispruner_by_hand():
    # K = 2: one by attention (token 3), one of 0, 1, 2, 4, in the order of attention 4 2 0 1.
    # Halves by turns: {4, 0} and {2, 1}. Up to eight go at once, here the whole first half; then
    # {2} and {1}: 2 goes. K = 3 (one by attention, two of the four): only {4, 0} go.
    features = np.array([[0.6, 0.8, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    attention = np.array([0.2, 0.1, 0.3, 0.9, 0.4], np.float32)
    sight = make_sight(np.eye(5), attention=attention, features=features.astype(np.float32))
    assert make_pruner('vispruner').rank(sight, 2).tolist() == [3, 1]
    assert make_pruner('vispruner').rank(sight, 3).tolist() == [3, 2, 1]


def test_a_floor_gives_each_camera_its_best():
    # Scores favour camera 0 throughout. K = 4 of 2 x 4.
    scores = np.array([9, 8, 7, 6, 1, 4, 3, 2], np.float32)
    sight = make_sight(np.eye(8), (True, True), scores=scores)
    recon = make_pruner('recon')
    assert select(recon, sight, 4, 0.0).tolist() == [0, 1, 2, 3]
    assert select(recon, sight, 4, 0.5).tolist() == [0, 1, 2, 5]
    assert select(recon, sight, 4, 1.0).tolist() == [0, 1, 5, 6]


def test_refuses_a_name_that_is_none():
    with pytest.raises(ValueError, match="no pruner 'magic', there are none, random, uniform"):
        make_pruner('magic')


def test_every_method_says_what_it_does():
    assert all(METHODS.values())
    assert set(INSIDE) < set(METHODS)
