# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A drive through the simulated world, a tenth of a second at a time.

    seed -> roads, traffic, lights, walkers, look; step() -> motion; pictures() -> RGB and masks

The same seed is the same drive: everything is drawn from it, and nothing survives a reset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.data.records import Agent
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.looks import Look
from fastdrive_ros.sim.looks import draw_look
from fastdrive_ros.sim.renderer import Renderer
from fastdrive_ros.sim.renderer import Shot
from fastdrive_ros.sim.roads import Approach
from fastdrive_ros.sim.roads import Roads
from fastdrive_ros.sim.roads import read_roads
from fastdrive_ros.sim.rules import Crossing
from fastdrive_ros.sim.rules import Moving
from fastdrive_ros.sim.rules import Rules
from fastdrive_ros.sim.scenery import Scenery
from fastdrive_ros.sim.scenery import build_scenery
from fastdrive_ros.sim.things import CARS
from fastdrive_ros.sim.walkers import HEIGHT_M
from fastdrive_ros.sim.walkers import RADIUS_M
from fastdrive_ros.sim.walkers import Walker
from fastdrive_ros.sim.walkers import draw_walkers

STEP_S = 0.1
WORLD_VERSION = 1
"""Counts up whenever a seed would no longer give the same drive and pictures."""
_STUCK_S = 30.0
# MetaDrive's blocks: straight, curve, crossing, T, roundabout, ramps.
_BLOCKS, _BLOCK_SHARE = 'SCXTOrR', (0.12, 0.22, 0.22, 0.16, 0.12, 0.08, 0.08)
_MODEL_OF = {'DefaultVehicle': 'ferra', 'SVehicle': 'beetle', 'MVehicle': '130',
             'LVehicle': 'lada', 'XLVehicle': 'truck'}
_COMMAND_AHEAD_M = 25.0


@dataclass(frozen=True)
class WorldSettings:
    """What a world is asked for besides the seed."""

    width: int = 448
    height: int = 252


@dataclass(frozen=True)
class Ego:
    """base_link at one instant, as nav_msgs/Odometry has it."""

    position_m: Vector
    """In the map frame, on the ground."""
    orientation_xyzw: Quaternion
    velocity_mps: Vector
    """In base_link."""
    angular_velocity_radps: Vector
    yaw_rad: float


class World:
    """One of them a process: MetaDrive's engine is a singleton."""

    def __init__(self, settings: WorldSettings = WorldSettings()) -> None:
        """Start the simulator; raises SimError where it, its assets or EGL are missing."""
        self.cameras: tuple[Camera, ...] = nuscenes_rig(settings.width, settings.height)
        self._renderer = Renderer(self.cameras)
        try:
            from fastdrive_ros.sim import driver
            from fastdrive_ros.sim import traffic
        except ModuleNotFoundError as error:
            raise SimError(
                f"the simulator needs {error.name}: pip install 'fastdrive_ros[sim]' "
                '(MetaDrive has files for Python 3.10 and 3.11 only)') from error
        self._policy = driver.LawfulPolicy
        self._env = traffic.make_env()
        self._stage: Any = None

    def reset(self, seed: int) -> None:
        """Begin the drive of a seed."""
        self.seed = seed
        rng = np.random.default_rng([seed, 1])
        length = int(rng.integers(1, 4))
        self._block_names = ''.join(rng.choice(list(_BLOCKS), length, p=_BLOCK_SHARE))
        lanes, width_m = int(rng.integers(1, 4)), float(rng.uniform(3.1, 4.0))
        density = float(rng.uniform(0.0, 0.42))
        self._rules = self._policy.rules = Rules()
        self._policy.NORMAL_SPEED = cruise_km_h = float(rng.uniform(26.0, 48.0))
        self._env.restart(seed, self._block_names, lanes, width_m, density)
        self.time_s, self.outcome, self._standing_s = 0.0, '', 0.0
        self.roads: Roads = read_roads(self._env.current_map)
        self._look: Look = draw_look(rng)
        self._scenery: Scenery = build_scenery(self.roads, rng)
        self._signalled = self._draw_lights(rng)
        self._walkers: list[Walker] = draw_walkers(
            self._scenery.walks, self.roads, self._rules.crossings, int(rng.integers(0, 22)), rng)
        self._ids: dict[str, str] = {}
        self._build_stage(rng)
        self.conditions: Mapping[str, Any] = {
            'roads': self._block_names, 'lanes': lanes, 'lane_width_m': round(width_m, 2),
            'traffic_density': round(density, 3), 'weather': self._look.weather,
            'surroundings': self._scenery.surroundings, 'walkers': len(self._walkers),
            'lights': len(self._signalled), 'exposure': round(self._look.exposure, 3),
            'visibility_m': round(self._look.visibility_m), 'cruise_km_h': round(cruise_km_h, 1)}
        self._update_rules()

    def step(self) -> None:
        """Let a tenth of a second pass; ``outcome`` says when the drive is over."""
        if self.outcome:
            raise SimError(f'the drive is over ({self.outcome}): reset the world first')
        *_, ended, _, info = self._env.step([0.0, 0.0])
        self.time_s = round(self.time_s + STEP_S, 6)
        ego_m = np.array(self._env.agent.position)
        cars = list(self._rules.vehicles.values())
        for walker in self._walkers:
            walker.step(self.time_s, STEP_S, ego_m, cars)
        self._update_rules()
        self.outcome = self._judge(ended, info)

    def pictures(self) -> dict[str, Shot]:
        """Return what the cameras see now."""
        ego = self.ego
        self._stage.place_cars({self._id(vehicle): (
            _MODEL_OF[type(vehicle).__name__], self._rules.vehicles[vehicle.name], _size(vehicle))
            for vehicle in self._env.engine.traffic_manager.moving}, self._paint_rng)
        self._stage.place_walkers(self._rules.pedestrians, self.time_s)
        self._stage.set_lights([self._rules.light(approach.road) for approach in self._signalled])
        self._stage.follow_sky(*ego.position_m[:2])
        return self._renderer.shoot(*ego.position_m[:2], ego.yaw_rad)

    @property
    def ego(self) -> Ego:
        """The vehicle that carries the cameras."""
        vehicle = self._env.agent
        yaw_rad, back_m = vehicle.heading_theta, vehicle.REAR_WHEELBASE
        c, s = math.cos(yaw_rad), math.sin(yaw_rad)
        x_m, y_m = vehicle.position
        vx, vy = vehicle.velocity
        yaw_rate = float(vehicle.body.get_angular_velocity()[2])
        # MetaDrive's position is the middle of the chassis, base_link the rear axle's.
        return Ego((x_m - back_m * c, y_m - back_m * s, 0.0), from_yaw(yaw_rad),
                   (float(vx * c + vy * s), float(vy * c - vx * s - yaw_rate * back_m), 0.0),
                   (0.0, 0.0, yaw_rate), yaw_rad)

    @property
    def agents(self) -> tuple[Agent, ...]:
        """Everybody and everything that must not be hit, except the ego vehicle."""
        cars = [Agent(self._id(vehicle), 'TRUCK' if _size(vehicle)[2] > 2.0 else 'CAR',
                      (*map(float, vehicle.position), _size(vehicle)[2] / 2), _size(vehicle),
                      float(vehicle.heading_theta), tuple(map(float, vehicle.velocity)))
                for vehicle in self._env.engine.traffic_manager.moving]
        walkers = [Agent(f'walker-{i}', 'PEDESTRIAN', (*map(float, each.position_m), HEIGHT_M / 2),
                         (2 * RADIUS_M, 2 * RADIUS_M, HEIGHT_M), each.yaw_rad,
                         tuple(map(float, each.velocity_mps)))
                   for i, each in enumerate(self._rules.pedestrians)]
        standing = [Agent(f'standing-{i}', each.kind, (*each.position_m, each.size_m[2] / 2),
                          each.size_m, each.yaw_rad, (0.0, 0.0))
                    for i, each in enumerate(self._scenery.standing)]
        return (*cars, *walkers, *standing)

    @property
    def command(self) -> str:
        """Where the route turns within the next 25 m: 'left', 'straight' or 'right'."""
        path = self._env.engine.get_policy(self._env.agent.name).path()
        ahead = path.points_m[path.along_m <= _COMMAND_AHEAD_M]
        if len(ahead) < 3:
            return 'straight'
        first, last = ahead[1] - ahead[0], ahead[-1] - ahead[-2]
        turn = math.atan2(first[0] * last[1] - first[1] * last[0], float(first @ last))
        return 'left' if turn > math.radians(20) else (
            'right' if turn < -math.radians(20) else 'straight')

    @property
    def traffic_light(self) -> str:
        """Of the light ahead: 'none', 'green', 'yellow' or 'red'."""
        return self._rules.light(
            self._env.engine.get_policy(self._env.agent.name).path().road)

    def drivable(self) -> np.ndarray:
        """Return the raster of data/records.py, uint8 (512, 512)."""
        ego = self.ego
        return self.roads.raster(*ego.position_m[:2], ego.yaw_rad)

    def close(self) -> None:
        """Stop the simulator."""
        self._env.close()
        self._renderer.close()

    def _draw_lights(self, rng: np.random.Generator) -> list[Approach]:
        """Signal most crossings; return their approaches in the order of the stage's lights."""
        signalled = []
        for block in sorted({approach.block for approach in self.roads.approaches}):
            approaches = [each for each in self.roads.approaches if each.block == block]
            if rng.uniform() < 0.75:
                self._rules.crossings.append(Crossing(
                    tuple(each.road for each in approaches), float(rng.uniform(0.0, 40.0)),
                    float(rng.uniform(5.0, 8.0))))
                signalled += approaches
        return signalled

    def _build_stage(self, rng: np.random.Generator) -> None:
        from fastdrive_ros.sim.ground import paint
        from fastdrive_ros.sim.stage import Stage

        if self._stage:
            self._stage.strike()
        self._paint_rng = np.random.default_rng([self.seed, 2])
        layers = paint(self.roads, self._scenery.strips, self._signalled, self._look,
                       float(rng.uniform(0.0, 0.55)))
        self._renderer.set_look(self._look, rng)
        self._stage = Stage(self._renderer.scene, rng)
        self._stage.build(layers, self._scenery, self._look)
        for approach in self._signalled:
            self._stage.add_light(approach)
        self._stage.add_walkers(len(self._walkers), rng)

    def _update_rules(self) -> None:
        everybody = (self._env.agent, *self._env.engine.traffic_manager.moving)
        self._rules.update(self.time_s, {vehicle.name: Moving(
            np.array(vehicle.position), np.array(vehicle.velocity), float(vehicle.heading_theta),
            vehicle.LENGTH) for vehicle in everybody},
            [walker.state() for walker in self._walkers])

    def _judge(self, ended: bool, info: Mapping[str, Any]) -> str:
        for cause, outcome in (('arrive_dest', 'arrived'), ('crash_vehicle', 'crash_vehicle'),
                               ('crash_object', 'crash_object'), ('out_of_road', 'out_of_road')):
            if info[cause]:
                return outcome
        if ended:
            return 'ended'
        if self._hits_walker():
            return 'crash_pedestrian'
        waits = self._env.agent.speed < 0.3 and self.traffic_light in ('none', 'green')
        self._standing_s = self._standing_s + STEP_S if waits else 0.0
        return 'stuck' if self._standing_s > _STUCK_S else ''

    def _hits_walker(self) -> bool:
        vehicle = self._env.agent
        c, s = math.cos(vehicle.heading_theta), math.sin(vehicle.heading_theta)
        for walker in self._rules.pedestrians:
            dx, dy = walker.position_m - np.array(vehicle.position)
            if (abs(dx * c + dy * s) < vehicle.LENGTH / 2 + RADIUS_M
                    and abs(dy * c - dx * s) < vehicle.WIDTH / 2 + RADIUS_M):
                return True
        return False

    def _id(self, vehicle: Any) -> str:
        """MetaDrive's names are random; ours count."""
        return self._ids.setdefault(vehicle.name, f'vehicle-{len(self._ids)}')


def _size(vehicle: Any) -> Vector:
    return CARS[_MODEL_OF[type(vehicle).__name__]]
