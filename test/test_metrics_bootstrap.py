# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Intervals over scenes: of constants, of known spreads, paired."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdrive_ros.metrics.bootstrap import Interval
from fastdrive_ros.metrics.bootstrap import Resampling


def test_constant_data_have_no_spread():
    sums = np.array([(2.0 * frames, frames) for frames in (1.0, 10.0, 40.0)])
    assert Resampling(3).ratio(sums) == Interval(2.0, 2.0, 2.0)


def test_a_ratio_is_of_sums_not_a_mean_of_ratios():
    assert Resampling(2).ratio(np.array([(1.0, 1.0), (0.0, 9.0)])).value == pytest.approx(0.1)


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(5.0, 1.0, 400)
    found = Resampling(400).ratio(np.stack([values, np.ones(400)], axis=1))
    # 1.96 / sqrt(400) = 0.098 on both sides of the mean.
    assert found.value == pytest.approx(values.mean())
    spread = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - spread, abs=0.01)
    assert found.high == pytest.approx(values.mean() + spread, abs=0.01)


def test_pairing_removes_what_scenes_have_in_common():
    base = np.stack([np.random.default_rng(2).uniform(1, 9, 30), np.ones(30)], axis=1)
    worse = base + (0.1, 0.0)
    resampling = Resampling(30)
    assert resampling.ratio(worse).high - resampling.ratio(worse).low > 1.0
    difference = resampling.difference(worse, base)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    relative = resampling.relative(base * (1.02, 1.0), base)
    assert (relative.value, relative.low, relative.high) == pytest.approx((0.02, 0.02, 0.02))


def test_the_same_draws_every_time():
    sums = np.random.default_rng(3).random((7, 2))
    assert Resampling(7).ratio(sums) == Resampling(7).ratio(sums)


def test_nothing_to_divide_is_not_a_number():
    nothing = Resampling(3).ratio(np.zeros((3, 2)))
    assert all(math.isnan(each) for each in (nothing.value, nothing.low, nothing.high))
    # A scene without frames that count leaves the others their interval.
    some = Resampling(3).ratio(np.array([(0.0, 0.0), (1.0, 2.0), (3.0, 6.0)]))
    assert some == Interval(0.5, 0.5, 0.5)


def test_one_scene_has_no_interval():
    one = Resampling(1).ratio(np.array([(1.0, 4.0)]))
    assert one.value == 0.25 and math.isnan(one.low) and math.isnan(one.high)
