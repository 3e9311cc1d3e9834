# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Who drives: MetaDrive's IDM follows lanes and leaders, ours obeys lights, walkers and curves, too.

This file and sim/traffic.py are imported only after MetaDrive is known to be there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from metadrive.policy.idm_policy import IDMPolicy

from fastdrive_ros.sim.rules import STOP_BEFORE_END_M
from fastdrive_ros.sim.rules import Path
from fastdrive_ros.sim.rules import Rules
from fastdrive_ros.sim.rules import speed_limit_mps

_STEP_M = 2.0
_MIN_AHEAD_M = 24.0
_AHEAD_S = 4.0
_PUSH_MPS2, _EASE_MPS2, _BRAKE_MPS2, _EMERGENCY_MPS2 = 1.8, 1.8, 4.0, 8.0
# What a pedal of 1 gives, as measured: acceleration = 4 * force / mass, but deceleration is far
# stronger than its force says, linear up to a pedal of about 0.25.
_ENGINE_GAIN, _BRAKE_GAIN = 4.0, 197.0


class LawfulPolicy(IDMPolicy):
    """IDM that stops where sim/rules.py says and slows down for curves."""

    rules: Rules
    """Of the running world; set on the class, because MetaDrive makes the policies."""

    def acceleration(self, front_obj: Any, dist_to_front: float) -> float:
        """Return the pedal, -1 (brake) .. 1 (throttle): IDM's, and never past a stop."""
        vehicle = self.control_object
        path = self.path()
        speed_mps = vehicle.speed
        cruise_km_h = self.target_speed
        self.target_speed = max(3.6 * speed_limit_mps(path, cruise_km_h / 3.6), 4.0)
        wish = 2.0 * super().acceleration(front_obj, dist_to_front)
        self.target_speed = cruise_km_h
        # Above the limit IDM brakes with all it has; for a curve, easing off is enough.
        wish = float(np.clip(wish, -_BRAKE_MPS2 if front_obj else -_EASE_MPS2, _PUSH_MPS2))
        free_m = self.rules.free_m(vehicle.name, path, speed_mps, vehicle.LENGTH)
        if math.isfinite(free_m):
            wanted_m = 0.6 + 0.6 * speed_mps + speed_mps ** 2 / 5.0
            wish = max(min(wish, wish - 2.0 * (wanted_m / max(free_m, 0.3)) ** 2),
                       -_EMERGENCY_MPS2)
        return self._pedal(wish)

    def _pedal(self, wish_mps2: float) -> float:
        vehicle = self.control_object
        force, gain = ((vehicle.config['max_engine_force'], _ENGINE_GAIN) if wish_mps2 > 0.0
                       else (vehicle.config['max_brake_force'], _BRAKE_GAIN))
        return float(np.clip(wish_mps2 * vehicle.MASS / (gain * force), -1.0, 1.0))

    def path(self) -> Path:
        """Return the lanes ahead, as far as matters at this speed."""
        vehicle = self.control_object
        lane = self.routing_target_lane or vehicle.lane
        along, _ = lane.local_coordinates(vehicle.position)
        road = tuple(lane.index[:2])
        stop_m = lane.length - STOP_BEFORE_END_M - along
        wanted_m = max(_MIN_AHEAD_M, _AHEAD_S * vehicle.speed)
        points, distances = [], []
        reached_m = -along  # distance from the vehicle to the start of `lane`
        while True:
            following = self._after(lane)
            # Beyond the last lane of the route the way goes on as that lane ends.
            end_m = wanted_m if following is None else min(wanted_m, reached_m + lane.length)
            here = np.arange(distances[-1] + _STEP_M if distances else 0.0, end_m, _STEP_M)
            points += [lane.position(distance - reached_m, 0.0) for distance in here]
            distances += here.tolist()
            if end_m >= wanted_m:
                return Path(np.array(points), np.array(distances), stop_m, road)
            reached_m += lane.length
            lane = following

    def _after(self, lane: Any) -> Any:
        """Return the lane of the route that goes on where this one ends, or None."""
        navigation = self.control_object.navigation
        nodes = navigation.checkpoints
        end = lane.index[1]
        if end not in nodes[:-1]:
            return None
        lanes = navigation.map.road_network.graph[end][nodes[nodes.index(end) + 1]]
        last = lane.position(lane.length, 0.0)
        gaps = [np.linalg.norm(np.subtract(other.position(0.0, 0.0), last)) for other in lanes]
        best = int(np.argmin(gaps))
        return lanes[best] if gaps[best] < 6.0 else None
