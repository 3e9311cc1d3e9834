# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene graph of a drive: roads, scenery, actors -> Panda3D nodes with their mask classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.sim import things
from fastdrive_ros.sim.ground import Layer
from fastdrive_ros.sim.ground import grain
from fastdrive_ros.sim.ground import sky
from fastdrive_ros.sim.looks import Look
from fastdrive_ros.sim.mesh import Mesh
from fastdrive_ros.sim.mesh import merge
from fastdrive_ros.sim.mesh import quads
from fastdrive_ros.sim.mesh import to_node
from fastdrive_ros.sim.roads import Approach
from fastdrive_ros.sim.rules import Moving
from fastdrive_ros.sim.scenery import Scenery
from fastdrive_ros.sim.scenery import standing_mesh

_TILE_M = 60.0
"""Scenery is merged in tiles of this size, so that what is out of sight is skipped as a whole."""


@cache
def _car_node(model: str) -> Any:
    return to_node(things.car(model), model)


class Stage:
    """What the renderer draws; made anew for each drive."""

    def __init__(self, scene: Any, rng: np.random.Generator) -> None:
        """Hang an empty stage into the renderer's scene."""
        self._root = scene.attach_new_node('stage')
        self._texture = _texture(grain(rng))
        self._hung = 0
        self._cars: dict[str, Any] = {}
        self._shadows: dict[str, Any] = {}
        self._lights: list[dict[str, Any]] = []
        self._walkers: list[tuple[Any, Any, Any]] = []
        self._shadow = to_node(quads(np.array([[(-0.5, -0.5, 0), (0.5, -0.5, 0), (0.5, 0.5, 0),
                                               (-0.5, 0.5, 0)]]), (0.06, 0.06, 0.07)), 'shadow')

    def build(self, layers: Sequence[Layer], scenery: Scenery, look: Look) -> None:
        """Put up all that never moves."""
        dome = self._hang(to_node(sky(look), 'sky'), 'SKY', glow=1.0)
        _flat(dome, 0)
        # The dome goes with the vehicle (follow_sky); fog would hide it.
        dome.set_shader_inputs(fog_density=0.0, glow=1.0)
        self._sky = dome
        for number, layer in enumerate(layers):
            node = self._hang(to_node(layer.mesh, layer.class_name, layer.texture_m),
                              layer.class_name)
            _flat(node, number + 1)
            if layer.texture_m:
                node.set_texture(self._texture)
        for class_name, meshes in scenery.meshes.items():
            for tile in _tiles(meshes):
                self._hang(to_node(tile, class_name), class_name)
        rng = np.random.default_rng(len(scenery.standing))
        for standing in scenery.standing:
            car = standing.model in things.CARS
            node = self._hang(_car_node(standing.model) if car
                              else to_node(standing_mesh(standing), standing.model), standing.kind)
            node.set_pos_hpr(*standing.position_m, 0.0, math.degrees(standing.yaw_rad), 0.0, 0.0)
            if car:
                node.set_color_scale(*paint_of(rng), 1.0)
                self._cast_shadow(standing.position_m, standing.yaw_rad, standing.size_m)

    def add_light(self, approach: Approach) -> None:
        """Put up the traffic light of an approach; ``set_light`` in the same order."""
        lamps = {}
        foot = approach.end_m + 9.0 * np.array([math.cos(approach.yaw_rad),
                                               math.sin(approach.yaw_rad)])
        foot = foot + 2.2 * np.array([math.sin(approach.yaw_rad), -math.cos(approach.yaw_rad)])
        for state in things.LIGHT_STATES:
            solid, lit = things.traffic_light(state, 2.2 + approach.width_m / 2)
            node = self._root.attach_new_node(state)
            self._hang(to_node(solid, 'pole'), 'TRAFFIC_LIGHT', node)
            self._hang(to_node(lit, 'lamps'), 'TRAFFIC_LIGHT', node, glow=1.0)
            node.set_pos_hpr(*foot, 0.0, math.degrees(approach.yaw_rad), 0.0, 0.0)
            node.hide()
            lamps[state] = node
        self._lights.append(lamps)

    def add_walkers(self, count: int, rng: np.random.Generator) -> None:
        """Dress the pedestrians; ``place_walkers`` in the same order."""
        for _ in range(count):
            body, leg = things.pedestrian(rng)
            node = self._root.attach_new_node('walker')
            self._hang(to_node(body, 'body'), 'PEDESTRIAN', node)
            legs = []
            for side in (-0.1, 0.1):
                hip = node.attach_new_node('hip')
                hip.set_pos(0.0, side, 0.82)
                self._hang(to_node(leg.moved(z_m=-0.82), 'leg'), 'PEDESTRIAN', hip)
                legs.append(hip)
            self._walkers.append((node, *legs))

    def set_lights(self, states: Sequence[str]) -> None:
        """Show 'red', 'yellow' or 'green' on each light."""
        for lamps, state in zip(self._lights, states):
            for name, node in lamps.items():
                node.show() if name == state else node.hide()

    def place_walkers(self, walkers: Sequence[Moving], time_s: float) -> None:
        """Move the pedestrians, and their legs."""
        for (node, left, right), walker in zip(self._walkers, walkers):
            node.set_pos_hpr(*walker.position_m, 0.0, math.degrees(walker.yaw_rad), 0.0, 0.0)
            speed = float(np.linalg.norm(walker.velocity_mps))
            swing = 32.0 * math.sin(2 * math.pi * 0.75 * max(speed, 0.6) * time_s) * (speed > 0.1)
            left.set_r(swing)
            right.set_r(-swing)

    def place_cars(self, cars: Mapping[str, tuple[str, Moving, Sequence[float]]],
                   rng: np.random.Generator) -> None:
        """Move the vehicles: name -> (model, motion, size); who is missing has gone."""
        for name in set(self._cars) - set(cars):
            self._cars.pop(name).remove_node()
            self._shadows.pop(name).remove_node()
        for name, (model, moving, size_m) in cars.items():
            if name not in self._cars:
                node = self._hang(_car_node(model), 'TRUCK' if model == 'truck' else 'CAR')
                node.set_color_scale(*paint_of(rng), 1.0)
                self._cars[name] = node
                self._shadows[name] = self._cast_shadow((0.0, 0.0), 0.0, size_m)
            place = (*moving.position_m, 0.0, math.degrees(moving.yaw_rad), 0.0, 0.0)
            self._cars[name].set_pos_hpr(*place)
            self._shadows[name].set_pos_hpr(*place)

    def follow_sky(self, x_m: float, y_m: float) -> None:
        """Keep the dome round the vehicle."""
        self._sky.set_pos(x_m, y_m, 0.0)

    def strike(self) -> None:
        """Take everything down."""
        self._root.remove_node()

    def _cast_shadow(self, position_m: Sequence[float], yaw_rad: float,
                     size_m: Sequence[float]) -> Any:
        """A dark patch under a car. It hides the ground, so it is the ground: ROAD."""
        node = self._hang(self._shadow, 'ROAD')
        _flat(node, 30)
        node.set_pos_hpr(*position_m, 0.0, math.degrees(yaw_rad), 0.0, 0.0)
        node.set_scale(size_m[0] * 0.98, size_m[1] * 1.04, 1.0)
        return node

    def _hang(self, node: Any, class_name: str, parent: Any = None, glow: float = 0.0) -> Any:
        # A node of its own holds place, colour and class: a mesh that is drawn many times has one
        # transform, shared by all who show it.
        path = (parent or self._root).attach_new_node(class_name)
        path.attach_new_node(node)
        path.set_shader_inputs(class_id=float(CLASSES.index(class_name)), glow=glow)
        # In the order of their making: left to itself Panda3D sorts by addresses in memory, and
        # where two things touch, the same seed would give another picture.
        self._hung += 1
        path.set_bin('fixed', self._hung)
        return path


def paint_of(rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a car's colour scale: mostly greys, some strong colours."""
    if rng.uniform() < 0.55:
        grey = rng.uniform(0.25, 1.3)
        return (grey, grey, grey * rng.uniform(0.95, 1.05))
    r, g, b = rng.uniform(0.15, 1.25, 3)
    return (float(r), float(g), float(b))


def _flat(node: Any, order: int) -> None:
    node.set_bin('background', order)
    node.set_depth_test(False)
    node.set_depth_write(False)


def _texture(pixels: np.ndarray) -> Any:
    from panda3d.core import SamplerState
    from panda3d.core import Texture

    texture = Texture('grain')
    texture.setup_2d_texture(pixels.shape[1], pixels.shape[0], Texture.T_unsigned_byte,
                             Texture.F_rgb8)
    texture.set_ram_image(np.ascontiguousarray(pixels).tobytes())
    texture.set_minfilter(SamplerState.FT_linear_mipmap_nearest)
    texture.set_wrap_u(SamplerState.WM_repeat)
    texture.set_wrap_v(SamplerState.WM_repeat)
    return texture


def _tiles(meshes: Sequence[Mesh]) -> list[Mesh]:
    groups: dict[tuple[int, int], list[Mesh]] = {}
    for mesh in meshes:
        x, y = np.floor(mesh.vertices[:, :2].mean(axis=0) / _TILE_M).astype(int)
        groups.setdefault((int(x), int(y)), []).append(mesh)
    return [merge(group) for _, group in sorted(groups.items())]
