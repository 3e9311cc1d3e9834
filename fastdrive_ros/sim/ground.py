# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Roads -> flat coloured layers, painted one over the other: verge, sidewalk, asphalt, paint.

All layers lie at z = 0 and are drawn in this order without a depth test, so none can flicker
through another at a distance; everything else stands on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.sim.looks import Look
from fastdrive_ros.sim.mesh import Mesh
from fastdrive_ros.sim.mesh import merge
from fastdrive_ros.sim.mesh import quads
from fastdrive_ros.sim.mesh import resample
from fastdrive_ros.sim.mesh import ribbon
from fastdrive_ros.sim.roads import Approach
from fastdrive_ros.sim.roads import Roads
from fastdrive_ros.sim.roads import polygons

SIDEWALK_M = (0.2, 2.2)
"""From the road's edge, where nobody parks."""
STRIP_M = 2.4
"""Width of a strip for parking; the sidewalk begins behind it."""
_WHITE, _YELLOW = np.array((0.90, 0.90, 0.88)), np.array((0.88, 0.70, 0.16))
_LINE_M, _DASH_M, _PERIOD_M = 0.16, 3.0, 9.0
_CROSSWALK_M = (0.9, 3.2)
"""From the lanes' end back towards the stop line."""
_VERGE_M = 1200.0


@dataclass(frozen=True)
class Layer:
    """One coat."""

    class_name: str
    mesh: Mesh
    texture_m: float
    """Size of the grain's tile; 0: none."""


def paint(roads: Roads, strips: Sequence[bool], crosswalks: Sequence[Approach], look: Look,
          wear: float) -> list[Layer]:
    """
    Return the layers from the lowest up.

    ``strips``: for each edge, whether cars may park beside it; ``wear`` 0..1 fades the paint.
    """
    asphalt = np.array(look.asphalt_rgb)
    slabs = np.clip(asphalt * 0.5 + 0.36, 0.0, 1.0)
    fade = 1.0 - wear
    walks, parking = [], []
    for edge, strip in zip(roads.edges, strips):
        inner = STRIP_M if strip else 0.0
        near, far = SIDEWALK_M[0] + inner, SIDEWALK_M[1] + inner
        walks.append(ribbon(edge, -(near + far) / 2, far - near, slabs))
        if strip:
            parking.append(ribbon(edge, -STRIP_M / 2, STRIP_M, asphalt * 0.92))
    marks = [_stop_line(approach, _WHITE * fade) for approach in roads.approaches]
    for line in roads.lines:
        colour = (_YELLOW if line.yellow else _WHITE) * fade + asphalt * wear
        marks += _paint_line(line.points_m, line.dashed, colour)
    layers = [Layer('TERRAIN', _verge(look), 9.0)]
    if walks:
        layers.append(Layer('SIDEWALK', merge(walks), 2.5))
    if parking:
        layers.append(Layer('ROAD', merge(parking), 5.0))
    layers.append(Layer('ROAD', _surface(roads, asphalt), 5.0))
    if crosswalks:
        layers.append(Layer('CROSSWALK', merge([
            bar for approach in crosswalks for bar in _crosswalk(approach, _WHITE * fade)]), 0.0))
    if marks:
        layers.append(Layer('LANE_LINE', merge(marks), 0.0))
    return layers


def _verge(look: Look) -> Mesh:
    r = _VERGE_M
    return quads(np.array([[(-r, -r, 0), (r, -r, 0), (r, r, 0), (-r, r, 0)]]), look.verge_rgb)


def _surface(roads: Roads, asphalt: np.ndarray) -> Mesh:
    from shapely import constrained_delaunay_triangles

    corners = np.array([
        np.asarray(triangle.exterior.coords)[:3, :2]
        for polygon in polygons(roads.surface)
        for triangle in constrained_delaunay_triangles(polygon).geoms])
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    clockwise = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] < 0
    corners[clockwise] = corners[clockwise][:, ::-1]
    vertices = np.zeros((3 * len(corners), 3), np.float32)
    vertices[:, :2] = corners.reshape(-1, 2)
    up = np.broadcast_to(np.float32((0, 0, 1)), vertices.shape)
    return Mesh(vertices, up, np.broadcast_to(asphalt.astype(np.float32), vertices.shape),
                np.arange(len(vertices), dtype=np.int32).reshape(-1, 3))


def _paint_line(points_m: np.ndarray, dashed: bool, rgb: np.ndarray) -> list[Mesh]:
    if not dashed:
        return [ribbon(points_m, 0.0, _LINE_M, rgb)]
    fine = resample(points_m, 1.0)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    dashes = []
    for start in np.arange(0.0, along[-1], _PERIOD_M):
        points = fine[(along >= start) & (along <= start + _DASH_M)]
        if len(points) > 1:
            dashes.append(ribbon(points, 0.0, _LINE_M, rgb))
    return dashes


def _stop_line(approach: Approach, rgb: np.ndarray) -> Mesh:
    return _across(approach, 0.0, 0.4, 0.0, approach.width_m, rgb)


def _crosswalk(approach: Approach, rgb: np.ndarray) -> list[Mesh]:
    from fastdrive_ros.sim.rules import STOP_BEFORE_END_M

    near, far = (STOP_BEFORE_END_M - back for back in reversed(_CROSSWALK_M))
    # Over the lanes that come and those that leave.
    return [_across(approach, near, far, at, at + 0.45, rgb)
            for at in np.arange(0.3, 2 * approach.width_m - 0.3, 0.95)]


def _across(approach: Approach, near_m: float, far_m: float, right_m: float, left_m: float,
            rgb: np.ndarray) -> Mesh:
    """Return a rectangle ``near`` .. ``far`` beyond the stop line, from its right end."""
    ahead = np.array([np.cos(approach.yaw_rad), np.sin(approach.yaw_rad)])
    leftward = np.array([-ahead[1], ahead[0]])
    corners = [approach.end_m + x * ahead + y * leftward for x, y in (
        (near_m, right_m), (far_m, right_m), (far_m, left_m), (near_m, left_m))]
    return quads(np.array([[(*corner, 0.0) for corner in corners]]), rgb)


def sky(look: Look, radius_m: float = 700.0) -> Mesh:
    """Return a dome round the rig, from the horizon's colour to the zenith's; seen from inside."""
    steps, sides = np.array([-0.06, 0.0, 0.06, 0.18, 0.4, 0.75, 1.0]) * (np.pi / 2), 24
    angles = np.arange(sides + 1) * 2 * np.pi / sides
    rings = [np.column_stack([np.cos(e) * np.cos(angles), np.cos(e) * np.sin(angles),
                              np.full(sides + 1, np.sin(e))]) * radius_m for e in steps]
    shades = [np.array(look.horizon_rgb) * (1 - t) + np.array(look.zenith_rgb) * t
              for t in np.clip(np.sin(np.maximum(steps, 0.0)) * 1.6, 0.0, 1.0)]
    parts = []
    for low, high, shade_low, shade_high in zip(rings, rings[1:], shades, shades[1:]):
        part = quads(np.stack([low[:-1], high[:-1], high[1:], low[1:]], axis=1), shade_low)
        rgb = part.rgb.reshape(-1, 4, 3).copy()
        rgb[:, 1:3] = shade_high
        parts.append(Mesh(part.vertices, part.normals, rgb.reshape(-1, 3), part.faces))
    return merge(parts)


def grain(rng: np.random.Generator, size: int = 256) -> np.ndarray:
    """Return uint8 (size, size, 3): a seamless grey texture around 85 % white."""
    texture = np.zeros((size, size))
    for octave, strength in ((8, 0.35), (32, 0.3), (size, 0.35)):
        coarse = rng.uniform(-1.0, 1.0, (octave, octave))
        texture += strength * np.kron(coarse, np.ones((size // octave, size // octave)))
    level = np.clip(0.85 + 0.11 * texture, 0.0, 1.0)
    return np.repeat((255 * level).astype(np.uint8)[..., None], 3, axis=2)
