# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What stands beside the roads: trees, buildings (background), signs, rails, cones (foreground).

    Roads + random numbers -> merged meshes by class, parked cars, places where people walk
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from dataclasses import field

import numpy as np

from fastdrive_ros.sim.ground import SIDEWALK_M
from fastdrive_ros.sim.ground import STRIP_M
from fastdrive_ros.sim.mesh import Mesh
from fastdrive_ros.sim.mesh import box
from fastdrive_ros.sim.mesh import parallel
from fastdrive_ros.sim.mesh import resample
from fastdrive_ros.sim.roads import Roads
from fastdrive_ros.sim.things import CARS
from fastdrive_ros.sim.things import barrier
from fastdrive_ros.sim.things import building
from fastdrive_ros.sim.things import cone
from fastdrive_ros.sim.things import traffic_sign
from fastdrive_ros.sim.things import tree

SURROUNDINGS = ('town', 'suburb', 'country', 'forest')
# surroundings -> (buildings, trees, strips for parking, rails) a place or an edge, 0..1
_DENSITY = {'town': (0.85, 0.25, 0.6, 0.05), 'suburb': (0.45, 0.5, 0.4, 0.1),
            'country': (0.06, 0.3, 0.0, 0.3), 'forest': (0.0, 0.95, 0.0, 0.2)}


@dataclass(frozen=True)
class Standing:
    """An obstacle that never moves and may be hit."""

    kind: str
    """Mask class."""
    model: str
    position_m: tuple[float, float]
    yaw_rad: float
    size_m: tuple[float, float, float]


@dataclass
class Scenery:
    """What a drive passes by."""

    surroundings: str
    strips: list[bool]
    """For each edge of the roads: whether there is a strip for parking."""
    meshes: dict[str, list[Mesh]] = field(default_factory=dict)
    """Mask class ('UNLABELED': background) -> meshes in the map frame."""
    standing: list[Standing] = field(default_factory=list)
    """Parked cars, cones, boards."""
    walks: list[np.ndarray] = field(default_factory=list)
    """Middle lines of sidewalks, float64 (P, 2)."""


def build_scenery(roads: Roads, rng: np.random.Generator) -> Scenery:
    """Return the scenery drawn at random; nothing of it stands on a road."""
    surroundings = str(rng.choice(SURROUNDINGS))
    buildings, trees, strips, rails = _DENSITY[surroundings]
    scenery = Scenery(surroundings, [bool(rng.uniform() < strips) and len(edge) > 8
                                     for edge in roads.edges])
    for edge, strip in zip(roads.edges, scenery.strips):
        inner_m = STRIP_M if strip else 0.0
        scenery.walks.append(parallel(edge, -(sum(SIDEWALK_M) / 2 + inner_m)))
        if strip:
            _park(scenery, edge, rng)
        elif rng.uniform() < rails and len(edge) > 6:
            _rail(scenery, edge, roads)
        if rng.uniform() < 0.15:
            _works(scenery, edge, inner_m, roads, rng)
        if rng.uniform() < 0.35:
            _sign(scenery, edge, inner_m, roads, rng)
        _roadside(scenery, edge, inner_m, (buildings, trees), roads, rng)
    return scenery


def _park(scenery: Scenery, edge: np.ndarray, rng: np.random.Generator) -> None:
    places = resample(parallel(edge, -STRIP_M / 2 - 0.05), 6.8)
    for place, after in zip(places[1:-2], places[2:-1]):
        if rng.uniform() < 0.45:
            model = str(rng.choice([name for name in CARS if name != 'truck']))
            yaw_rad = math.atan2(*(after - place)[::-1]) + rng.normal(0.0, 0.02)
            scenery.standing.append(Standing(
                'CAR', model, (float(place[0]), float(place[1])), yaw_rad, CARS[model]))


def _rail(scenery: Scenery, edge: np.ndarray, roads: Roads) -> None:
    line = resample(parallel(edge, -2.6), 4.0)
    for here, after in zip(line[:-1], line[1:]):
        if not _clear(roads, (here + after) / 2, 2.2):
            continue
        length, yaw_rad = float(np.linalg.norm(after - here)), math.atan2(*(after - here)[::-1])
        middle = (here + after) / 2
        for part in (box((length, 0.06, 0.3), (0.62, 0.64, 0.66), 0.42),
                     box((0.12, 0.12, 0.6), (0.5, 0.5, 0.5))):
            scenery.meshes.setdefault('FENCE', []).append(part.moved(*middle, yaw_rad=yaw_rad))


def _works(scenery: Scenery, edge: np.ndarray, inner_m: float, roads: Roads,
           rng: np.random.Generator) -> None:
    """Roadworks: boards at both ends of a row of cones, just outside the lane."""
    line = resample(parallel(edge, -(inner_m + 0.45)), 2.5)
    count = int(rng.integers(4, 12))
    if len(line) < count + 4:
        return
    start = int(rng.integers(1, len(line) - count - 1))
    for number, (here, after) in enumerate(zip(line[start:start + count], line[start + 1:])):
        end = number in (0, count - 1)
        if not _clear(roads, here, 0.3):
            continue
        yaw_rad = math.atan2(*(after - here)[::-1])
        where = here - (0.7 if end else 0.0) * np.array([-math.sin(yaw_rad), math.cos(yaw_rad)])
        scenery.standing.append(Standing(
            'FENCE', 'barrier' if end else 'cone', (float(where[0]), float(where[1])), yaw_rad,
            (0.5, 1.8, 0.95) if end else (0.36, 0.36, 0.72)))


def _sign(scenery: Scenery, edge: np.ndarray, inner_m: float, roads: Roads,
          rng: np.random.Generator) -> None:
    line = parallel(edge, -(inner_m + 0.9))
    i = int(rng.integers(0, len(line) - 1))
    if _clear(roads, line[i], 0.6):
        yaw_rad = math.atan2(*(line[i + 1] - line[i])[::-1])
        for part in traffic_sign(int(rng.integers(3))):
            scenery.meshes.setdefault('TRAFFIC_SIGN', []).append(
                part.moved(*line[i], yaw_rad=yaw_rad))


def _roadside(scenery: Scenery, edge: np.ndarray, inner_m: float, density: tuple[float, float],
              roads: Roads, rng: np.random.Generator) -> None:
    background = scenery.meshes.setdefault('UNLABELED', [])
    for place in resample(edge, 22.0)[:-1]:
        if rng.uniform() < density[0]:
            mesh, (length, width) = building(rng)
            yaw_rad = _yaw_at(edge, place) + rng.choice((0.0, math.pi / 2))
            reach = math.hypot(length, width) / 2
            where = _beside(edge, place, inner_m + 3.2 + reach + rng.uniform(0.0, 6.0))
            if _clear(roads, where, reach + 2.6):
                background.append(mesh.moved(*where, yaw_rad=yaw_rad))
    for place in resample(edge, 7.0)[:-1]:
        for distance in (rng.uniform(3.5, 8.0), rng.uniform(8.0, 30.0), rng.uniform(30.0, 70.0)):
            if rng.uniform() < density[1] * 0.6:
                where = _beside(edge, place, inner_m + distance) + rng.normal(0.0, 1.5, 2)
                if _clear(roads, where, 3.4):
                    background.append(tree(rng).moved(*where, yaw_rad=rng.uniform(0.0, 6.0)))


def _yaw_at(edge: np.ndarray, place: np.ndarray) -> float:
    i = min(int(np.argmin(np.linalg.norm(edge - place, axis=1))), len(edge) - 2)
    return math.atan2(*(edge[i + 1] - edge[i])[::-1])


def _beside(edge: np.ndarray, place: np.ndarray, distance_m: float) -> np.ndarray:
    yaw_rad = _yaw_at(edge, place)
    return place + distance_m * np.array([math.sin(yaw_rad), -math.cos(yaw_rad)])


def _clear(roads: Roads, place: np.ndarray, distance_m: float) -> bool:
    from shapely import Point
    from shapely import dwithin

    return not dwithin(roads.surface, Point(place), distance_m)


def standing_mesh(standing: Standing) -> Mesh:
    """Return the mesh of a cone or a board; cars have their own (things.car)."""
    return {'cone': cone, 'barrier': barrier}[standing.model]()
