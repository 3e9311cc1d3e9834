# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The rules of the road that MetaDrive leaves out: how far a vehicle may go, and how fast.

    path ahead + lights, pedestrians, crossing vehicles -> free metres; curvature -> speed limit

The expert and all traffic obey the same rules; sim/driver.py turns their answer into pedals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STOP_BEFORE_END_M = 4.0
"""The stop line lies this far before the lane's end: the crosswalk is between."""
_LATERAL_MPS2 = 1.8
_BRAKING_MPS2 = 1.6
_HARD_BRAKING_MPS2 = 3.5
_CLEARANCE_M = 2.4
_WALKER_GAP_M = 1.9
_SIGHT_M = 40.0
_LOOK_S = 3.5
_CROSSING_COS = math.cos(math.radians(25.0))
# Who has yielded this long without anybody passing goes on, or two would wait for each other.
_PATIENCE_S, _IMPATIENCE_S = 7.0, 4.0


@dataclass
class Crossing:
    """A signalled crossing: its approaches have green one after the other."""

    roads: tuple[tuple[str, str], ...]
    """The approaches, as MetaDrive's (start node, end node)."""
    offset_s: float
    green_s: float
    yellow_s: float = 2.0
    clear_s: float = 2.0

    def state(self, road: tuple[str, str], time_s: float) -> str:
        """Return 'green', 'yellow' or 'red' for an approach."""
        slot_s = self.green_s + self.yellow_s + self.clear_s
        since_s = (time_s + self.offset_s - slot_s * self.roads.index(road)) % (
            slot_s * len(self.roads))
        if since_s < self.green_s:
            return 'green'
        return 'yellow' if since_s < self.green_s + self.yellow_s else 'red'

    def red_for_s(self, road: tuple[str, str], time_s: float) -> float:
        """Return how long an approach still has red; 0.0 when it has not."""
        slot_s = self.green_s + self.yellow_s + self.clear_s
        cycle_s = slot_s * len(self.roads)
        since_s = (time_s + self.offset_s - slot_s * self.roads.index(road)) % cycle_s
        return cycle_s - since_s if since_s >= self.green_s + self.yellow_s else 0.0


@dataclass(frozen=True)
class Path:
    """Where a vehicle is about to go, S points of its lanes' middle."""

    points_m: np.ndarray
    """float64 (S, 2), the first about where the vehicle is."""
    along_m: np.ndarray
    """float64 (S,): distance from the vehicle's middle."""
    stop_m: float
    """Distance of its middle to the stop line of its lane; inf where the lane has none."""
    road: tuple[str, str]


@dataclass(frozen=True)
class Moving:
    """Somebody who may be in the way."""

    position_m: np.ndarray
    velocity_mps: np.ndarray
    yaw_rad: float
    length_m: float


class Everybody:
    """Moving things as arrays, M of them, so that one driver looks at all of them at once."""

    def __init__(self, moving: Mapping[str, Moving]) -> None:
        """Stack them."""
        self.names = list(moving)
        values = moving.values()
        self.positions_m = np.array([each.position_m for each in values]).reshape(-1, 2)
        self.velocities_mps = np.array([each.velocity_mps for each in values]).reshape(-1, 2)
        self.speeds_mps = np.hypot(*self.velocities_mps.T)
        self.yaws_rad = np.array([each.yaw_rad for each in values])
        self.lengths_m = np.array([each.length_m for each in values])

    def near(self, place_m: np.ndarray, reach_m: float, but: str = '') -> np.ndarray:
        """Return the indices of those within reach, without one name."""
        close = (np.abs(self.positions_m - place_m) < reach_m).all(axis=1)
        if but in self.names:
            close[self.names.index(but)] = False
        return np.flatnonzero(close)


class Rules:
    """Everything that all drivers need to know of the others; the world keeps it up to date."""

    def __init__(self, crossings: Sequence[Crossing] = ()) -> None:
        """Begin with an empty road."""
        self.crossings = list(crossings)
        self._waiting_s: dict[str, float] = {}
        self.update(0.0, {}, [])

    def update(self, time_s: float, vehicles: Mapping[str, Moving],
               pedestrians: Sequence[Moving]) -> None:
        """Take note of where everybody is."""
        self.time_s = time_s
        self.vehicles, self.pedestrians = vehicles, pedestrians
        self._cars = Everybody(vehicles)
        self._walkers = Everybody({str(i): walker for i, walker in enumerate(pedestrians)})

    def light(self, road: tuple[str, str]) -> str:
        """Return 'green', 'yellow', 'red', or 'none' for an approach without lights."""
        for crossing in self.crossings:
            if road in crossing.roads:
                return crossing.state(road, self.time_s)
        return 'none'

    def free_m(self, me: str, path: Path, speed_mps: float, length_m: float) -> float:
        """Return how far the vehicle's middle may still go; inf when nothing is in the way."""
        front_m = length_m / 2
        free = min(self._light_m(path, speed_mps, front_m), self._pedestrians_m(path, front_m))
        crossing = self._crossing_m(me, path, speed_mps, front_m)
        waited_s = self._waiting_s.get(me, 0.0)
        if math.isfinite(crossing) and speed_mps < 0.5:
            self._waiting_s[me] = waited_s + 0.1
        elif not math.isfinite(crossing):
            self._waiting_s.pop(me, None)
        if waited_s % (_PATIENCE_S + _IMPATIENCE_S) > _PATIENCE_S:
            crossing = math.inf
        return min(free, crossing)

    def _light_m(self, path: Path, speed_mps: float, front_m: float) -> float:
        state = self.light(path.road) if math.isfinite(path.stop_m) else 'none'
        distance = path.stop_m - front_m
        if state in ('none', 'green') or distance < -1.5:
            return math.inf
        if state == 'yellow' and distance < speed_mps ** 2 / (2 * _HARD_BRAKING_MPS2):
            return math.inf
        return distance

    def _pedestrians_m(self, path: Path, front_m: float) -> float:
        them = self._walkers
        near = them.near(path.points_m[0], path.along_m[-1] + 6.0)
        # Where they are, and where the next step and a half will take them: (near, 3, 2).
        where = them.positions_m[near, None] + (
            np.array([0.0, 0.8, 1.6])[:, None] * them.velocities_mps[near, None])
        gaps = np.linalg.norm(path.points_m[:, None, None] - where, axis=-1)
        hit = (gaps < _WALKER_GAP_M).any(axis=(1, 2)) & (path.along_m > front_m)
        return path.along_m[np.argmax(hit)] - front_m - 2.5 if hit.any() else math.inf

    def _crossing_m(self, me: str, path: Path, speed_mps: float, front_m: float) -> float:
        them = self._cars
        near = them.near(path.points_m[0], _SIGHT_M, me)
        if not len(near):
            return math.inf
        arrival_s = path.along_m / max(speed_mps, 2.5)
        soon = (arrival_s < _LOOK_S) | (path.along_m < 9.0)
        ahead = path.along_m > front_m
        heading = np.gradient(path.points_m, axis=0)
        heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-6)
        yaws, speeds = them.yaws_rad[near], them.speeds_mps[near]
        cosine = heading @ np.stack([np.cos(yaws), np.sin(yaws)])  # (S, near)
        now = np.linalg.norm(path.points_m[:, None] - them.positions_m[near], axis=-1)
        then = np.linalg.norm(path.points_m[:, None] - them.positions_m[near] - (
            arrival_s[:, None, None] * them.velocities_mps[near]), axis=-1)
        # Followed and oncoming vehicles are not crossing; their own lane keeps them apart.
        crossing = ((soon & (path.along_m > front_m - 1.0))[:, None] & (then < _CLEARANCE_M)
                    & (np.abs(cosine) < _CROSSING_COS))
        # Who is there before us, or about when we are, goes first.
        first = (speeds > 0.5) & (now / np.maximum(speeds, 0.5) < arrival_s[:, None] + 0.5)
        standing = ahead[:, None] & (now < 1.6) & (speeds < 0.5)
        return min(_nearest(path.along_m - front_m - 4.0, (crossing & first).any(axis=1)), *(
            _nearest(path.along_m - front_m - length / 2 - 1.5, column)
            for length, column in zip(them.lengths_m[near], standing.T)))


def _nearest(distances_m: np.ndarray, where: np.ndarray) -> float:
    return float(distances_m[np.argmax(where)]) if where.any() else math.inf


def speed_limit_mps(path: Path, wish_mps: float) -> float:
    """Return the speed from which every curve of the path can still be taken comfortably."""
    points, along = path.points_m, path.along_m
    if len(points) < 3:
        return wish_mps
    steps = np.diff(points, axis=0)
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-3)
    curvature = np.abs(np.diff(headings)) / ((lengths[:-1] + lengths[1:]) / 2)
    in_curve = np.sqrt(_LATERAL_MPS2 / np.maximum(curvature, 1e-4))
    before = np.maximum(along[1:-1], 0.0)
    return float(min(wish_mps, np.sqrt(in_curve ** 2 + 2 * _BRAKING_MPS2 * before).min()))

