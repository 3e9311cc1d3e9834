# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rules of the simulated road, by hand: lights, walkers, who goes first, speed in curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastdrive_ros.sim.rules import Crossing
from fastdrive_ros.sim.rules import Moving
from fastdrive_ros.sim.rules import Path
from fastdrive_ros.sim.rules import Rules
from fastdrive_ros.sim.rules import speed_limit_mps

ROAD, OTHER = ('a', 'b'), ('c', 'd')


def straight(stop_m: float = math.inf, length_m: float = 40.0) -> Path:
    """Return a path along x from the origin."""
    along = np.arange(0.0, length_m, 2.0)
    return Path(np.column_stack([along, np.zeros(len(along))]), along, stop_m, ROAD)


def moving(x: float, y: float, vx: float = 0.0, vy: float = 0.0, yaw_rad: float = 0.0,
           length_m: float = 4.5) -> Moving:
    return Moving(np.array([x, y]), np.array([vx, vy]), yaw_rad, length_m)


def rules_of(time_s: float = 0.0, vehicles: dict[str, Moving] | None = None,
             pedestrians: list[Moving] | None = None,
             crossings: tuple[Crossing, ...] | list[Crossing] = ()) -> Rules:
    rules = Rules(crossings)
    rules.update(time_s, vehicles or {}, pedestrians or [])
    return rules


def test_approaches_have_green_one_after_the_other():
    crossing = Crossing((ROAD, OTHER), offset_s=0.0, green_s=6.0)  # slots of 6 + 2 + 2 s
    states = [(crossing.state(ROAD, t), crossing.state(OTHER, t)) for t in (0, 5.9, 6, 8, 10, 16)]
    assert states == [('green', 'red'), ('green', 'red'), ('yellow', 'red'), ('red', 'red'),
                      ('red', 'green'), ('red', 'yellow')]
    assert crossing.state(ROAD, 20.0) == 'green'
    for t in np.arange(0.0, 40.0, 0.1):
        assert 'red' in (crossing.state(ROAD, t), crossing.state(OTHER, t))


def test_how_long_red_lasts_is_known_to_those_who_want_to_cross():
    crossing = Crossing((ROAD, OTHER), offset_s=0.0, green_s=6.0)
    assert crossing.red_for_s(ROAD, 8.0) == pytest.approx(12.0)
    assert crossing.red_for_s(ROAD, 19.5) == pytest.approx(0.5)
    assert crossing.red_for_s(ROAD, 7.0) == 0.0  # yellow is not red


@pytest.mark.parametrize(('time_s', 'speed_mps', 'free_m'), [
    (0.0, 10.0, math.inf),          # green
    (8.0, 10.0, 30.0 - 2.25),       # red: the front stops at the line
    (6.5, 10.0, 30.0 - 2.25),       # yellow, and 27.75 m are enough to stop from 10 m/s
    (6.5, 14.0, math.inf),          # yellow, but 14 m/s need 28 m: go
])
def test_lights_are_obeyed(time_s: float, speed_mps: float, free_m: float):
    rules = rules_of(time_s, crossings=[Crossing((ROAD, OTHER), 0.0, 6.0)])
    assert rules.free_m('me', straight(stop_m=30.0), speed_mps, 4.5) == pytest.approx(free_m)


def test_who_stands_beyond_the_line_already_is_not_stopped_by_it():
    rules = rules_of(8.0, crossings=[Crossing((ROAD, OTHER), 0.0, 6.0)])
    assert rules.free_m('me', straight(stop_m=0.0), 5.0, 4.5) == math.inf


def test_a_walker_on_the_path_or_about_to_step_on_it_stops_the_car():
    on_it = rules_of(pedestrians=[moving(20.0, 0.5)])
    # The first point of the path within 1.9 m is at 20 m, less half a car, less 2.5 m.
    assert on_it.free_m('me', straight(), 8.0, 4.5) == pytest.approx(20.0 - 2.25 - 2.5)
    coming = rules_of(pedestrians=[moving(20.0, 3.2, vy=-1.5)])
    assert coming.free_m('me', straight(), 8.0, 4.5) == pytest.approx(20.0 - 2.25 - 2.5)
    leaving = rules_of(pedestrians=[moving(20.0, 3.2, vy=1.5)])
    assert leaving.free_m('me', straight(), 8.0, 4.5) == math.inf


def test_who_would_come_second_yields_and_who_comes_first_goes():
    # We reach (20, 0) at 8 m/s after 2.5 s.
    def free_m(y: float) -> float:
        rules = rules_of(vehicles={'it': moving(20.0, y, vy=8.0, yaw_rad=math.pi / 2)})
        return rules.free_m('me', straight(), 8.0, 4.5)

    assert free_m(-18.5) < 20.0 - 2.25  # there 0.2 s before us: we would hit its side
    assert free_m(-12.0) == math.inf    # there a second before us, and gone
    assert free_m(-30.0) == math.inf    # there long after us


def test_followed_and_oncoming_vehicles_are_not_crossing():
    rules = rules_of(vehicles={'leader': moving(12.0, 0.0, vx=8.0),
                            'oncoming': moving(30.0, 3.5, vx=-8.0, yaw_rad=math.pi)})
    assert rules.free_m('me', straight(), 8.0, 4.5) == math.inf


def test_a_vehicle_that_stands_across_the_path_is_an_obstacle():
    rules = rules_of(vehicles={'it': moving(20.0, 0.0, yaw_rad=math.pi / 2)})
    free_m = rules.free_m('me', straight(), 3.0, 4.5)
    assert 10.0 < free_m < 20.0 - 2.25


def test_nobody_waits_forever_for_somebody_who_waits():
    rules = rules_of(vehicles={'it': moving(8.0, -5.2, vy=2.0, yaw_rad=math.pi / 2)})
    waits = [math.isfinite(rules.free_m('me', straight(), 0.0, 4.5)) for _ in range(120)]
    assert waits[0] and not all(waits)
    assert waits.index(False) * 0.1 == pytest.approx(7.0, abs=0.3)


def test_curves_limit_the_speed_by_lateral_acceleration_and_braking_distance():
    angle = np.linspace(0.0, math.pi / 2, 40)
    circle = Path(20.0 * np.column_stack([np.sin(angle), 1.0 - np.cos(angle)]), 20.0 * angle,
                  math.inf, ROAD)
    # v^2 / r = 1.8 m/s^2 at r = 20 m.
    assert speed_limit_mps(circle, 20.0) == pytest.approx(6.0, abs=0.25)
    assert speed_limit_mps(circle, 4.0) == 4.0
    assert speed_limit_mps(straight(), 20.0) == 20.0
    far = Path(circle.points_m, circle.along_m + 30.0, math.inf, ROAD)
    # 30 m before it, braking at 1.6 m/s^2: sqrt(36 + 2 * 1.6 * 30).
    assert speed_limit_mps(far, 20.0) == pytest.approx(math.sqrt(36.0 + 96.0), abs=0.2)
