# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Extrapolation, speeds, the gate's limits, and the way into the odometry's frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.trajectory import GateLimits
from fastdrive_ros.core.trajectory import check
from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.trajectory import make_trajectory
from fastdrive_ros.core.trajectory import to_frame
from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import Refusal
from fastdrive_ros.core.types import Trajectory

LIMITS = GateLimits()


def make_ego(speed_mps: float = 0.0, yaw_rate_radps: float = 0.0, yaw_rad: float = 0.0,
             position_m: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> EgoState:
    """Return a vehicle on flat ground."""
    return EgoState(stamp_ns=1, frame_id='map', position_m=position_m,
                    orientation_xyzw=from_yaw(yaw_rad), yaw_rad=yaw_rad, speed_mps=speed_mps,
                    yaw_rate_radps=yaw_rate_radps, acceleration_mps2=0.0,
                    history=np.zeros((1, len(EGO_FEATURES)), np.float32))


def straight(*x_m: float) -> Trajectory:
    """Return waypoints on the x axis, 0.5 s apart."""
    waypoints = np.zeros((len(x_m), 3))
    waypoints[:, 0] = x_m
    return make_trajectory(1, 0.5, waypoints)


def refused(trajectory: Trajectory, ego: EgoState, limits: GateLimits = LIMITS) -> Refusal:
    """Return the refusal that must be there."""
    refusal = check(trajectory, ego, limits)
    assert refusal is not None
    return refusal


# ---- extrapolation

def test_extrapolates_straight() -> None:
    """10 m/s, half a second apart."""
    waypoints = extrapolate(make_ego(10.0), 3, 0.5)
    assert waypoints.dtype == np.float64
    np.testing.assert_allclose(waypoints, [[5, 0, 0], [10, 0, 0], [15, 0, 0]])


def test_extrapolates_a_quarter_circle_exactly() -> None:
    """Radius 10 m to the left: after a quarter turn at (10, 10), facing left."""
    waypoints = extrapolate(make_ego(5.0 * math.pi, 0.5 * math.pi), 2, 0.5)
    np.testing.assert_allclose(waypoints[1], [10.0, 10.0, math.pi / 2])
    half = 10.0 * math.sqrt(0.5)
    np.testing.assert_allclose(waypoints[0], [half, 10.0 - half, math.pi / 4])


def test_extrapolates_tiny_turns_like_straight_ones() -> None:
    """No division by the turn rate anywhere near zero."""
    nearly = extrapolate(make_ego(10.0, 1e-12), 6, 0.5)
    np.testing.assert_allclose(nearly, extrapolate(make_ego(10.0), 6, 0.5), atol=1e-9)


def test_extrapolates_reversing() -> None:
    """Backwards, and a left yaw rate swings the rear."""
    waypoints = extrapolate(make_ego(-2.0, 0.2), 1, 0.5)
    assert waypoints[0, 0] == pytest.approx(-2.0 / 0.2 * math.sin(0.1))
    assert waypoints[0, 1] < 0.0


# ---- speeds

@pytest.mark.parametrize(('speed_mps', 'yaw_rate_radps'), [(10.0, 0.0), (8.0, 0.9), (-2.0, 0.3)])
def test_speeds_of_an_arc_are_the_vehicle_speed(speed_mps: float, yaw_rate_radps: float) -> None:
    """Chords are shorter than arcs; the speed must not show it."""
    waypoints = extrapolate(make_ego(speed_mps, yaw_rate_radps), 6, 0.5)
    trajectory = make_trajectory(7, 0.5, waypoints)
    np.testing.assert_allclose(trajectory.speeds_mps, speed_mps)
    np.testing.assert_allclose(trajectory.times_s, [0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert trajectory.stamp_ns == 7


def test_speeds_change_sign_with_the_direction() -> None:
    """2 m forward, stop, 1 m back, in half seconds."""
    np.testing.assert_allclose(straight(2.0, 2.0, 1.0).speeds_mps, [4.0, 0.0, -2.0])


# ---- gate

@pytest.mark.parametrize(('speed_mps', 'yaw_rate_radps'), [
    (0.0, 0.0), (0.0, 0.4), (0.3, 0.1), (10.0, 0.3), (39.9, 0.05), (-3.0, 0.2)])
def test_extrapolation_passes_the_gate(speed_mps: float, yaw_rate_radps: float) -> None:
    """An untrained model plans just this, standing, crawling, turning or reversing."""
    ego = make_ego(speed_mps, yaw_rate_radps)
    trajectory = make_trajectory(1, 0.5, extrapolate(ego, 6, 0.5))
    assert check(trajectory, ego, LIMITS) is None


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_not_finite(bad: float) -> None:
    """Wherever it is, before anything is computed with it."""
    refusal = refused(straight(5.0, bad, 15.0), make_ego(10.0))
    assert refusal.reason == 'not_finite'
    assert 'waypoint 1 is not finite' in refusal.detail


def test_start_jump() -> None:
    """The vehicle will be at 5 m; the plan begins at 7.5."""
    refusal = refused(straight(7.5, 12.5), make_ego(10.0))
    assert refusal == Refusal('start_jump', 'the first waypoint lies 2.50 m from where the '
                              'vehicle is heading, allowed are 2 m')


def test_speed() -> None:
    """20.5 m in half a second."""
    refusal = refused(straight(19.0, 39.5), make_ego(38.0))
    assert refusal == Refusal('speed', 'waypoint 1 needs 41.0 m/s, allowed are 40 m/s')


def test_speed_in_reverse_counts() -> None:
    """41 m/s backwards is no better."""
    assert refused(straight(-20.5), make_ego(-41.0)).reason == 'speed'


def test_acceleration_against_the_present_speed() -> None:
    """10 m/s now, 13 m/s in the middle of the first segment: 3 / 0.25 s."""
    refusal = refused(straight(6.5, 13.0), make_ego(10.0))
    assert refusal == Refusal('acceleration', 'waypoint 0 needs 12.0 m/s2, allowed are 8 m/s2 up '
                              'and down')


def test_braking_counts_as_acceleration() -> None:
    """10 m/s, then 5 m/s half a second later."""
    refusal = refused(straight(5.0, 7.5), make_ego(10.0))
    assert 'waypoint 1 needs -10.0 m/s2' in refusal.detail


def test_full_braking_to_standstill_passes() -> None:
    """7 m/s2 from 10 m/s, and stand."""
    times_s = np.minimum(0.5 * np.arange(1, 7), 10.0 / 7.0)
    trajectory = straight(*(10.0 * times_s - 3.5 * times_s**2))
    assert check(trajectory, make_ego(10.0), LIMITS) is None


def test_reverse() -> None:
    """3 m backwards from standing; fine for a vehicle that reverses already."""
    backwards = straight(-0.5, -1.5, -3.0)
    assert refused(backwards, make_ego()).reason == 'reverse'
    assert '3.00 m backwards, allowed are 2.00 m' in refused(backwards, make_ego()).detail
    assert check(backwards, make_ego(-1.0), LIMITS) is None


def circle(radius_m: float, speed_mps: float) -> tuple[Trajectory, EgoState]:
    """Return a plan round a left circle, and a vehicle that is on it."""
    ego = make_ego(speed_mps, speed_mps / radius_m)
    return make_trajectory(1, 0.5, extrapolate(ego, 6, 0.5)), ego


def test_curvature_of_a_circle() -> None:
    """1 / 0.35 is a radius of 2.857 m; the start is measured to half a per cent."""
    assert check(*circle(2.88, 2.0), LIMITS) is None
    assert refused(*circle(2.85, 2.0)).reason == 'curvature'
    refusal = refused(*circle(2.5, 2.0))
    assert refusal == Refusal('curvature', 'the path bends with 0.402 1/m (radius 2.49 m), '
                              'allowed are 0.35 1/m')


def test_curvature_of_positions_whatever_the_yaw_says() -> None:
    """A zigzag with constant yaw."""
    trajectory = make_trajectory(1, 0.5, np.array([[1.0, 0, 0], [1.9, 0.8, 0], [2.8, 0, 0]]))
    assert refused(trajectory, make_ego(2.0)).reason == 'curvature'


def test_curvature_of_yaw_whatever_the_positions_say() -> None:
    """Straight ahead while turning a quarter in a metre."""
    trajectory = make_trajectory(1, 0.5, np.array([[1.0, 0, 0], [2.0, 0, math.pi / 2]]))
    assert refused(trajectory, make_ego(2.0)).reason == 'curvature'


def test_curvature_at_the_start() -> None:
    """A first step to the side is a bend, too."""
    trajectory = make_trajectory(1, 0.5, np.array([[0.9, 0.7, 0.0]]))
    assert refused(trajectory, make_ego(2.0)).reason == 'curvature'


def test_standing_still_with_noise_is_no_curve() -> None:
    """Centimetres in all directions."""
    noise = np.random.default_rng(0).normal(0.0, 0.03, (6, 3))
    assert check(make_trajectory(1, 0.5, noise), make_ego(), LIMITS) is None


def test_yaw_across_pi_is_no_curve() -> None:
    """Waypoint yaws given as 3.1 and -3.1 are close."""
    waypoints = extrapolate(make_ego(5.0, 1.25), 6, 0.5)
    waypoints[:, 2] = (waypoints[:, 2] + math.pi) % (2 * math.pi) - math.pi
    assert check(make_trajectory(1, 0.5, waypoints), make_ego(5.0, 1.25), LIMITS) is None


@pytest.mark.parametrize('name', GateLimits.__dataclass_fields__)
@pytest.mark.parametrize('value', [0.0, -1.0, math.nan, math.inf])
def test_limits_refuse(name: str, value: float) -> None:
    """A limit that lets nothing or everything pass is a mistake."""
    with pytest.raises(ValueError, match=f'{name} must be a finite number above 0'):
        GateLimits(**{name: value})


# ---- frames

def test_to_frame_by_hand() -> None:
    """At (100, 50, 2), facing left: 5 m ahead is +5 in y, 1 m left is -1 in x."""
    ego = make_ego(yaw_rad=math.pi / 2, position_m=(100.0, 50.0, 2.0))
    trajectory = make_trajectory(1, 0.5, np.array([[5.0, 1.0, 0.25]]))
    positions, yaw_rad = to_frame(trajectory, ego)
    np.testing.assert_allclose(positions, [[99.0, 55.0, 2.0]])
    np.testing.assert_allclose(yaw_rad, [math.pi / 2 + 0.25])


def test_to_frame_wraps_yaw() -> None:
    """3 rad and 1 rad are 4 - 2 pi."""
    trajectory = make_trajectory(1, 0.5, np.array([[1.0, 0.0, 1.0]]))
    _, yaw_rad = to_frame(trajectory, make_ego(yaw_rad=3.0))
    np.testing.assert_allclose(yaw_rad, [4.0 - 2.0 * math.pi])


def test_to_frame_climbs_with_the_road() -> None:
    """Nose up by 30 degrees: 10 m ahead is 5 m up."""
    pitch = (0.0, -math.sin(math.pi / 12), 0.0, math.cos(math.pi / 12))
    flat = make_ego()
    ego = EgoState(**{**vars(flat), 'orientation_xyzw': multiply(from_yaw(0.0), pitch)})
    positions, _ = to_frame(straight(10.0), ego)
    np.testing.assert_allclose(positions, [[10.0 * math.cos(math.pi / 6), 0.0, 5.0]], atol=1e-12)
    assert yaw_of(ego.orientation_xyzw) == pytest.approx(0.0)
