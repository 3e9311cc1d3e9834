# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Pedestrians: along sidewalks, over crosswalks while the cars have red, now and then just across.

They do not walk into a car, but neither do they look out for one: it is the drivers who must give
way (sim/rules.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastdrive_ros.sim.mesh import parallel
from fastdrive_ros.sim.mesh import resample
from fastdrive_ros.sim.roads import Approach
from fastdrive_ros.sim.roads import Roads
from fastdrive_ros.sim.rules import STOP_BEFORE_END_M
from fastdrive_ros.sim.rules import Crossing
from fastdrive_ros.sim.rules import Moving

RADIUS_M, HEIGHT_M = 0.3, 1.75
_STAND_OFF_M = 1.3
"""From the road's edge to where one waits to cross."""
_HALF_CAR_M = 1.1
_ON_CROSSWALK_M = 2.0
"""Beyond the stop line, about the middle of the crosswalk."""


@dataclass
class Walker:
    """One pedestrian on a polyline, to and fro."""

    line_m: np.ndarray
    """float64 (P, 2), points 1 m apart or less."""
    speed_mps: float
    along_m: float
    forward: bool
    crossing: Crossing | None = None
    """Waits at either end of the line until the cars of ``road`` have red for long enough."""
    road: tuple[str, str] = ('', '')
    trigger_m: float = math.inf
    """Waits until the ego vehicle is closer than this, then crosses once."""
    walking: bool = True

    @cached_property
    def length_m(self) -> float:
        """Of the line."""
        return float(np.linalg.norm(np.diff(self.line_m, axis=0), axis=1).sum())

    def state(self) -> Moving:
        """Return where the walker is and goes."""
        share = min(max(self.along_m / max(self.length_m, 1e-6), 0.0), 1.0)
        share *= len(self.line_m) - 1
        i = min(int(share), len(self.line_m) - 2)
        step = self.line_m[i + 1] - self.line_m[i]
        yaw_rad = math.atan2(step[1], step[0]) + (0.0 if self.forward else math.pi)
        speed = self.speed_mps if self.walking else 0.0
        return Moving(self.line_m[i] + (share - i) * step,
                      speed * np.array([math.cos(yaw_rad), math.sin(yaw_rad)]), yaw_rad,
                      2 * RADIUS_M)

    def step(self, time_s: float, dt_s: float, ego_m: np.ndarray, cars: Sequence[Moving]) -> None:
        """Walk on, turn round at an end, or wait: there, or for a car that is in the way."""
        length = self.length_m
        at_end = self.along_m <= 0.0 or self.along_m >= length
        if at_end and self.crossing is not None:
            need_s = length / self.speed_mps + 1.0
            self.walking = self.crossing.red_for_s(self.road, time_s) > need_s
        elif math.isfinite(self.trigger_m):
            near = float(np.linalg.norm(ego_m - self.state().position_m)) < self.trigger_m
            started = self.along_m > 0.0
            self.walking = (near or started) and self.along_m < length
        else:
            self.walking = True
        if self.walking and self._blocked(cars):
            self.walking = False
        if self.walking:
            self.along_m += self.speed_mps * dt_s * (1.0 if self.forward else -1.0)
            if not 0.0 < self.along_m < length and not math.isfinite(self.trigger_m):
                self.along_m = min(max(self.along_m, 0.0), length)
                self.forward = self.along_m <= 0.0

    def _blocked(self, cars: Sequence[Moving]) -> bool:
        here = self.state()
        ahead = here.position_m + 0.9 * np.array([math.cos(here.yaw_rad), math.sin(here.yaw_rad)])
        for car in cars:
            dx, dy = ahead - car.position_m
            c, s = math.cos(car.yaw_rad), math.sin(car.yaw_rad)
            if (abs(dx * c + dy * s) < car.length_m / 2 + 0.7
                    and abs(dy * c - dx * s) < _HALF_CAR_M + 0.5):
                return True
        return False


def draw_walkers(walks: Sequence[np.ndarray], roads: Roads, crossings: Sequence[Crossing],
                 count: int, rng: np.random.Generator) -> list[Walker]:
    """Return ``count`` walkers: most on sidewalks, some at crosswalks, a few across the road."""
    walkers = []
    long_walks = [walk for walk in walks if len(walk) > 8]
    for _ in range(count):
        draw = rng.uniform()
        if draw < 0.35 and crossings:
            walkers.append(_at_crosswalk(roads.approaches, crossings, rng))
        elif draw < 0.45 and roads.edges:
            walkers.append(_across(roads, roads.edges[int(rng.integers(len(roads.edges)))], rng))
        elif long_walks:
            line = resample(long_walks[int(rng.integers(len(long_walks)))], 1.0)
            line = parallel(line, float(rng.uniform(-0.6, 0.6)))
            walkers.append(Walker(line, float(rng.uniform(0.8, 1.7)),
                                  float(rng.uniform(1.0, len(line) - 2.0)),
                                  bool(rng.uniform() < 0.5)))
    return [walker for walker in walkers if len(walker.line_m) > 1]


def _at_crosswalk(approaches: Sequence[Approach], crossings: Sequence[Crossing],
                  rng: np.random.Generator) -> Walker:
    crossing = crossings[int(rng.integers(len(crossings)))]
    road = crossing.roads[int(rng.integers(len(crossing.roads)))]
    approach = next(each for each in approaches if each.road == road)
    ahead = np.array([math.cos(approach.yaw_rad), math.sin(approach.yaw_rad)])
    leftward = np.array([-ahead[1], ahead[0]])
    beyond_m = STOP_BEFORE_END_M - _ON_CROSSWALK_M + rng.uniform(-0.7, 0.7)
    start = approach.end_m + beyond_m * ahead - _STAND_OFF_M * leftward
    # Only over the lanes that have red; the ones that leave are somebody else's green.
    line = np.stack([start, start + (approach.width_m + _STAND_OFF_M) * leftward])
    return Walker(resample(line, 1.0), float(rng.uniform(1.1, 1.7)), 0.0, True, crossing, road,
                  walking=False)


def _across(roads: Roads, edge: np.ndarray, rng: np.random.Generator) -> Walker:
    from shapely import Point
    from shapely import dwithin

    i = int(rng.integers(1, max(2, len(edge) - 1)))
    step = edge[i] - edge[i - 1]
    leftward = np.array([-step[1], step[0]]) / max(float(np.linalg.norm(step)), 1e-6)
    start = edge[i] - _STAND_OFF_M * leftward
    width_m = next((width for width in np.arange(4.0, 60.0, 0.5) if not dwithin(
        roads.surface, Point(start + width * leftward), _STAND_OFF_M)), 4.0)
    line = np.stack([start, start + width_m * leftward])
    return Walker(resample(line, 1.0), float(rng.uniform(1.2, 2.2)), 0.0, True,
                  trigger_m=float(rng.uniform(22.0, 40.0)), walking=False)
