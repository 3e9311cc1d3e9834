# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Odometry to the ego state: between samples, beyond them, in bursts, and badly stamped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.rotation import slerp
from fastdrive_ros.core.rotation import wrap_rad
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.types import EgoError

S = 1_000_000_000
START_NS = 1_532_402_927 * S


def at_s(time_s: float) -> int:
    """Return the stamp ``time_s`` after the start."""
    return START_NS + round(time_s * S)


def straight(time_s: float, speed_mps: float = 10.0) -> OdometrySample:
    """Return a sample of a drive along x that passed the origin at the start."""
    return OdometrySample(at_s(time_s), 'map', (speed_mps * time_s, 0.0, 0.0),
                          (0.0, 0.0, 0.0, 1.0), speed_mps, 0.0, 0.0)


def circle(time_s: float, speed_mps: float = 5.0, yaw_rate_radps: float = 0.5,
           yaw_rad: float = 0.0) -> OdometrySample:
    """Return a sample of a drive round a circle; at the start at (0, -radius) rotated by yaw."""
    radius_m = speed_mps / yaw_rate_radps
    heading_rad = yaw_rad + yaw_rate_radps * time_s
    return OdometrySample(
        at_s(time_s), 'map',
        (radius_m * math.sin(heading_rad), -radius_m * math.cos(heading_rad), 0.0),
        from_yaw(heading_rad), speed_mps, 0.0, yaw_rate_radps)


def filled(*samples: OdometrySample, **config: float) -> EgoBuffer:
    """Return a buffer with these samples."""
    buffer = EgoBuffer(EgoConfig(**config))
    for sample in samples:
        buffer.push(sample)
    return buffer


def times(start_s: float, end_s: float, rate_hz: float = 50.0) -> list[float]:
    """Return sample times."""
    return [start_s + k / rate_hz for k in range(round((end_s - start_s) * rate_hz) + 1)]


# ---- the state

def test_interpolates_between_samples() -> None:
    """A quarter of the way, speed and position alike."""
    ego = filled(straight(0.0), replace(straight(0.1), velocity_x_mps=14.0)).at(at_s(0.025))
    assert ego.position_m == pytest.approx((0.25, 0.0, 0.0))
    assert ego.speed_mps == pytest.approx(11.0)
    assert (ego.stamp_ns, ego.frame_id) == (at_s(0.025), 'map')


def test_extrapolates_beyond_the_newest_sample_on_an_arc() -> None:
    """Half a second round a circle is exactly where the circle is."""
    ego = filled(circle(0.0)).at(at_s(0.5))
    truth = circle(0.5)
    assert ego.position_m == pytest.approx(truth.position_m)
    assert ego.yaw_rad == pytest.approx(0.25)


def test_extrapolates_before_the_oldest_sample() -> None:
    """The first pictures may be a little older than the first odometry."""
    assert filled(straight(1.0)).at(at_s(0.8)).position_m == pytest.approx((8.0, 0.0, 0.0))


def test_extrapolates_sideways_velocity() -> None:
    """1 m/s to the left while facing left in the map is -x."""
    sample = replace(straight(0.0), orientation_xyzw=from_yaw(math.pi / 2), velocity_x_mps=0.0,
                     velocity_y_mps=1.0)
    assert filled(sample).at(at_s(0.5)).position_m == pytest.approx((-0.5, 0.0, 0.0))


def test_yaw_wraps_the_short_way() -> None:
    """Between 179 and -179 degrees lies 180, not 0."""
    first, second = (replace(straight(t), orientation_xyzw=from_yaw(math.radians(angle)))
                     for t, angle in ((0.0, 179.0), (0.1, -179.0)))
    ego = filled(first, second).at(at_s(0.05))
    assert abs(ego.yaw_rad) == pytest.approx(math.pi)


def test_reversing_is_a_negative_speed() -> None:
    """And extrapolates backwards."""
    ego = filled(straight(0.0, -2.0)).at(at_s(0.5))
    assert (ego.speed_mps, ego.position_m[0]) == (-2.0, pytest.approx(-1.0))


def test_bursts_half_a_second_late_are_enough() -> None:
    """25 samples at once every 0.5 s, pictures just before the next burst."""
    buffer = EgoBuffer(EgoConfig())
    for burst in range(4):
        for time_s in times(0.5 * burst, 0.5 * burst + 0.48):
            buffer.push(circle(time_s))
        ego = buffer.at(at_s(0.5 * burst + 0.98))
        assert ego.position_m == pytest.approx(circle(0.5 * burst + 0.98).position_m)


# ---- acceleration

def test_acceleration_of_a_steady_pull() -> None:
    """2 m/s2 up, then 4 m/s2 of braking."""
    for rate_mps2 in (2.0, -4.0):
        buffer = filled(*(replace(straight(t), velocity_x_mps=10.0 + rate_mps2 * t)
                          for t in times(0.0, 1.0)))
        assert buffer.at(at_s(1.0)).acceleration_mps2 == pytest.approx(rate_mps2)


def test_acceleration_shrugs_off_outliers() -> None:
    """Three wild speeds in half a second change nothing."""
    samples = [replace(straight(t), velocity_x_mps=10.0 + t) for t in times(0.0, 0.5)]
    for i in (3, 11, 20):
        samples[i] = replace(samples[i], velocity_x_mps=60.0)
    assert filled(*samples).at(at_s(0.5)).acceleration_mps2 == pytest.approx(1.0, abs=0.3)


def test_acceleration_of_a_single_sample_is_zero() -> None:
    """Nothing is known yet."""
    assert filled(straight(0.0)).at(at_s(0.0)).acceleration_mps2 == 0.0


# ---- history

def test_history_of_a_straight_drive() -> None:
    """10 m/s: 15, 10 and 5 m behind, now at the origin."""
    history = filled(*map(straight, times(0.0, 2.0))).at(at_s(2.0)).history
    assert (history.dtype, history.shape) == (np.float32, (4, 7))
    np.testing.assert_allclose(history, [
        [-15, 0, 0, 1, 10, 0, 1], [-10, 0, 0, 1, 10, 0, 1],
        [-5, 0, 0, 1, 10, 0, 1], [0, 0, 0, 1, 10, 0, 1]], atol=1e-5)


@pytest.mark.parametrize('yaw_rad', [0.0, 1.0, 3.0, -3.1])
def test_history_does_not_depend_on_where_north_is(yaw_rad: float) -> None:
    """On a left circle the past lies behind to the left, its yaw to the right; also across pi."""
    samples = [circle(t, yaw_rad=yaw_rad) for t in times(0.0, 2.0)]
    history = filled(*samples, history_steps=2, history_dt_s=1.0).at(at_s(2.0)).history
    radius_m = 10.0
    np.testing.assert_allclose(history[0], [
        -radius_m * math.sin(0.5), radius_m * (1 - math.cos(0.5)),
        math.sin(-0.5), math.cos(-0.5), 5.0, 0.5, 1.0], atol=1e-3)


def test_history_before_the_first_odometry_is_zero() -> None:
    """Two of four rows are known after 0.6 s."""
    history = filled(*map(straight, times(0.0, 0.6))).at(at_s(0.6)).history
    assert history[:, -1].tolist() == [0, 0, 1, 1]
    assert not history[:2].any()


def test_history_of_one_step_is_now() -> None:
    """A planner without memory."""
    history = filled(straight(0.0), history_steps=1).at(at_s(0.0)).history
    assert history.tolist() == [[0, 0, 0, 1, 10, 0, 1]]


# ---- refusals

@pytest.mark.parametrize(('change', 'reason'), [
    ({'position_m': (math.nan, 0.0, 0.0)}, 'odometry_not_finite'),
    ({'velocity_x_mps': math.inf}, 'odometry_not_finite'),
    ({'yaw_rate_radps': math.nan}, 'odometry_not_finite'),
    ({'stamp_ns': 0}, 'odometry_zero_stamp'),
    ({'orientation_xyzw': (0.0, 0.0, 0.0, 0.0)}, 'odometry_bad_quaternion'),
    ({'orientation_xyzw': (0.0, 0.0, 2.0, 0.0)}, 'odometry_bad_quaternion'),
])
def test_bad_samples_are_refused(change: dict[str, object], reason: str) -> None:
    """By name, and leave the buffer as it was."""
    buffer = filled(straight(0.0))
    with pytest.raises(EgoError, match='odometry') as caught:
        buffer.push(replace(straight(0.1), **change))
    assert caught.value.reason == reason
    assert buffer.at(at_s(0.0)).speed_mps == 10.0


def test_nearly_unit_quaternions_are_made_unit() -> None:
    """Float32 publishers are off by a little."""
    ego = filled(replace(straight(0.0), orientation_xyzw=(0.0, 0.0, 0.0, 1.05))).at(at_s(0.0))
    assert ego.orientation_xyzw == (0.0, 0.0, 0.0, 1.0)


def test_absent() -> None:
    """Nothing ever came."""
    with pytest.raises(EgoError, match='no odometry has come') as caught:
        filled().at(at_s(0.0))
    assert caught.value.reason == 'odometry_absent'


@pytest.mark.parametrize(('time_s', 'match'), [
    (1.601, 'newest odometry is 601 ms older than the pictures, allowed are 600 ms'),
    (-0.7, 'oldest odometry is 700 ms newer than the pictures, allowed are 600 ms'),
])
def test_stale(time_s: float, match: str) -> None:
    """Says how old, and what is allowed."""
    with pytest.raises(EgoError, match=match) as caught:
        filled(*map(straight, times(0.0, 1.0))).at(at_s(time_s))
    assert caught.value.reason == 'odometry_stale'


def test_stale_in_a_gap() -> None:
    """Two samples a second apart, 0.1 s allowed."""
    with pytest.raises(EgoError, match='gap'):
        filled(straight(0.0), straight(1.0), max_age_ms=100.0).at(at_s(0.5))


def test_reconfigure() -> None:
    """A live change of the age holds at once."""
    buffer = filled(straight(0.0))
    buffer.reconfigure(EgoConfig(max_age_ms=100.0))
    with pytest.raises(EgoError, match='allowed are 100 ms'):
        buffer.at(at_s(0.2))


@pytest.mark.parametrize(('values', 'match'), [
    ({'max_age_ms': 0.0}, 'max_age_ms must be a finite number above 0'),
    ({'history_steps': 0}, 'history_steps must be at least 1, got 0'),
    ({'history_dt_s': math.nan}, 'history_dt_s must be a finite number above 0'),
])
def test_config_refuses(values: dict[str, float], match: str) -> None:
    """With what was found."""
    with pytest.raises(ValueError, match=match):
        EgoConfig(**values)


# ---- order and clocks

def test_out_of_order_and_repeated_samples() -> None:
    """The late one is sorted in, the doubled one counted."""
    buffer = filled(straight(0.0), straight(0.2), replace(straight(0.1), velocity_x_mps=13.0),
                    straight(0.2))
    assert buffer.at(at_s(0.1)).speed_mps == 13.0
    assert buffer.ignored == {'repeated_stamp': 1}


def test_memory_is_bounded_by_time() -> None:
    """Ten minutes at 50 Hz leave a few seconds."""
    buffer = filled(*map(straight, times(0.0, 600.0)))
    with pytest.raises(EgoError, match='oldest odometry'):
        buffer.at(at_s(590.0))
    assert buffer.at(at_s(598.0)).history[:, -1].all()


def test_single_glitch_is_ignored() -> None:
    """A stamp far off, either side, changes nothing."""
    buffer = filled(*map(straight, times(5.0, 6.0)))
    for glitch_s in (1.0, 9000.0):
        buffer.push(straight(glitch_s))
        buffer.push(straight(6.0 + glitch_s / 1e5))
    assert buffer.at(at_s(5.5)).position_m == pytest.approx((55.0, 0.0, 0.0))
    assert buffer.ignored == {'stamp_jump': 2}
    assert buffer.resets == 0


def test_bag_loop_starts_again_once() -> None:
    """The second sample of the new time empties the buffer."""
    buffer = filled(*map(straight, times(0.0, 20.0)))
    for time_s in times(0.0, 0.1):
        buffer.push(straight(time_s))
    assert buffer.resets == 1
    assert buffer.at(at_s(0.1)).position_m == pytest.approx((1.0, 0.0, 0.0))
    with pytest.raises(EgoError, match='newest odometry is 19900 ms older'):
        buffer.at(at_s(20.0))


def test_pause_of_odometry_goes_on() -> None:
    """Two samples after the gap are believed."""
    buffer = filled(straight(0.0), straight(5.0), straight(5.02))
    assert buffer.at(at_s(5.02)).position_m == pytest.approx((50.2, 0.0, 0.0))
    assert buffer.resets == 0


def test_no_way_is_made_up_between_two_drives() -> None:
    """One drive ends at 500 m, the next begins 3 s later at the origin: history has only that."""
    ended = [replace(straight(time_s, 0.0), position_m=(500.0, 0.0, 0.0)) for time_s in (0.0, 0.1)]
    buffer = filled(*ended, *(straight(time_s, 0.0) for time_s in (2.9, 3.0)))
    history = buffer.at(at_s(3.0)).history
    assert history[:, 0].tolist() == [0, 0, 0, 0]
    assert history[:, -1].tolist() == [0, 0, 0, 1]   # the drive began at 2.9 s


def test_a_jump_of_the_position_is_not_the_way_that_the_vehicle_came() -> None:
    """Localisation finds itself 50 m off: what lies before is forgotten, and counted."""
    buffer = filled(*map(straight, times(0.0, 3.0)))
    moved = [replace(straight(time_s), position_m=(10.0 * time_s + 50.0, 0.0, 0.0))
             for time_s in (3.1, 3.2)]
    before = len(times(0.0, 3.0))
    for sample in moved:
        buffer.push(sample)
    assert buffer.ignored == {'position_jump': before}
    assert buffer.resets == 1
    state = buffer.at(at_s(3.2))
    assert state.position_m == pytest.approx((82.0, 0.0, 0.0))
    assert state.history[:, -1].tolist() == [0, 0, 0, 1]


def test_another_frame_starts_again() -> None:
    """Poses of 'map' and 'odom' are never mixed."""
    buffer = filled(straight(0.0), replace(straight(0.1), frame_id='odom'))
    assert buffer.at(at_s(0.1)).frame_id == 'odom'
    assert buffer.at(at_s(0.1)).history[:, -1].tolist() == [0, 0, 0, 1]
    assert buffer.resets == 1


def test_reset() -> None:
    """Empty, as after a jump that the node saw on its clock."""
    buffer = filled(straight(100.0))
    buffer.reset()
    buffer.push(straight(0.0))
    assert buffer.at(at_s(0.0)).speed_mps == 10.0


# ---- properties

@settings(max_examples=100, deadline=None)
@given(st.permutations(times(0.0, 0.9, 20.0)), st.floats(0.0, 0.9))
def test_order_of_arrival_does_not_matter(order: list[float], time_s: float) -> None:
    """Any permutation within the jump limit gives the same state."""
    shuffled = filled(*(circle(t) for t in order)).at(at_s(time_s))
    in_order = filled(*(circle(t) for t in sorted(order))).at(at_s(time_s))
    assert shuffled.position_m == in_order.position_m
    np.testing.assert_array_equal(shuffled.history, in_order.history)


@given(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0), st.floats(0.0, 1.0))
def test_slerp_of_yaws_is_linear(a_rad: float, b_rad: float, part: float) -> None:
    """The short way round, at constant speed."""
    turn_rad = wrap_rad(b_rad - a_rad)
    if abs(abs(turn_rad) - math.pi) > 1e-6:
        found_rad = yaw_of(slerp(from_yaw(a_rad), from_yaw(b_rad), part))
        assert wrap_rad(found_rad - a_rad - part * turn_rad) == pytest.approx(0.0, abs=1e-6)
