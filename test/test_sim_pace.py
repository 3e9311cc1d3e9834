# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Simulated time against a clock that is set by hand."""

from __future__ import annotations

import pytest

from fastdrive_ros.sim.pace import Pace


class Wall:
    """A clock on the wall that stands until somebody moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


def run(pace: Pace, wall: Wall, steps: int, work_s: float, begin_s: float = 0.0) -> None:
    """Do steps of 0.1 s, each costing ``work_s`` before it can wait."""
    for step in range(1, steps + 1):
        wall.now_s += work_s
        wall.now_s += max(0.0, pace.wait_s(begin_s + step * 0.1))
        pace.reached(begin_s + step * 0.1)


def test_steps_are_due_at_the_speed_asked(wall: Wall):
    pace = Pace(2.0, wall)
    pace.start(50.0)
    assert pace.wait_s(50.1) == pytest.approx(0.05)
    wall.now_s += 0.08
    assert pace.wait_s(50.1) == pytest.approx(-0.03)
    assert pace.wait_s(51.0) == pytest.approx(0.42)


def test_in_time(wall: Wall):
    pace = Pace(1.0, wall)
    pace.start(0.0)
    run(pace, wall, 30, work_s=0.06)
    assert wall.now_s == pytest.approx(1003.0)
    assert pace.factor == pytest.approx(1.0)
    assert not pace.behind
    assert pace.lost_s == 0.0


def test_a_hiccup_is_caught_up_with(wall: Wall):
    pace = Pace(1.0, wall)
    pace.start(0.0)
    wall.now_s += 0.15      # a step that cost 0.25 s: 0.15 s late
    run(pace, wall, 30, work_s=0.05)
    assert wall.now_s == pytest.approx(1003.0)
    assert pace.lost_s == 0.0


def test_too_slow_a_computer_is_counted_and_never_races_afterwards(wall: Wall):
    pace = Pace(1.0, wall)
    pace.start(0.0)
    run(pace, wall, 60, work_s=0.2)      # half of real time: 6 s too much
    assert pace.factor == pytest.approx(0.5)
    assert pace.behind
    assert pace.lost_s == pytest.approx(6.0, abs=0.2)
    before_s = wall.now_s
    run(pace, wall, 60, work_s=0.01, begin_s=6.0)
    assert wall.now_s - before_s == pytest.approx(6.0, abs=0.2)
    assert not pace.behind


def test_nothing_is_waited_for_at_speed_0(wall: Wall):
    pace = Pace(0.0, wall)
    pace.start(0.0)
    run(pace, wall, 20, work_s=0.05)
    assert wall.now_s == pytest.approx(1001.0)
    assert pace.factor == pytest.approx(2.0)
    assert not pace.behind
    assert pace.lost_s == 0.0


def test_a_start_forgets_how_it_was_reached(wall: Wall):
    pace = Pace(1.0, wall)
    assert pace.factor == 0.0
    pace.start(0.0)
    run(pace, wall, 20, work_s=0.3)
    wall.now_s += 60.0
    pace.start(100.0)
    assert pace.wait_s(100.1) == pytest.approx(0.1)
    assert not pace.behind
