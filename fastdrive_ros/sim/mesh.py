# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Shapes as arrays: boxes, tubes, ribbons and flat polygons -> Mesh -> what Panda3D draws.

Everything is in metres, z up. Each shape has flat colours a vertex, so that one mesh of thousands
of triangles is one draw call; a texture, where there is one, only adds grain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from typing import Any

import numpy as np

Rgb = Sequence[float]
"""Three numbers, 0..1."""


@dataclass(frozen=True)
class Mesh:
    """Triangles; P vertices, F faces."""

    vertices: np.ndarray
    """float32 (P, 3)."""
    normals: np.ndarray
    """float32 (P, 3), unit."""
    rgb: np.ndarray
    """float32 (P, 3), 0..1."""
    faces: np.ndarray
    """int32 (F, 3), counter-clockwise seen from outside."""

    def moved(self, x_m: float = 0.0, y_m: float = 0.0, z_m: float = 0.0,
              yaw_rad: float = 0.0) -> Mesh:
        """Return the mesh turned about z, then shifted."""
        c, s = math.cos(yaw_rad), math.sin(yaw_rad)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        shift = np.array([x_m, y_m, z_m], dtype=np.float32)
        return replace(self, vertices=self.vertices @ turn + shift, normals=self.normals @ turn)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Return all meshes as one."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]),
                np.concatenate([mesh.normals for mesh in meshes]),
                np.concatenate([mesh.rgb for mesh in meshes]),
                np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts)]))


def quads(corners: np.ndarray, rgb: Rgb | np.ndarray) -> Mesh:
    """Return flat quads of corners (Q, 4, 3), counter-clockwise; ``rgb`` one or (Q, 3)."""
    corners = np.asarray(corners, dtype=np.float32).reshape(-1, 4, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    first = 4 * np.arange(len(corners), dtype=np.int32)[:, None]
    faces = np.concatenate([first + (0, 1, 2), first + (0, 2, 3)]).astype(np.int32)
    colours = np.broadcast_to(np.asarray(rgb, dtype=np.float32), (len(corners), 3))
    return Mesh(corners.reshape(-1, 3), np.repeat(normals, 4, axis=0),
                np.repeat(colours, 4, axis=0), faces)


def box(size_m: Sequence[float], rgb: Rgb, z_m: float = 0.0) -> Mesh:
    """Return a box (length, width, height) centred in x and y that stands on ``z_m``."""
    x, y, h = size_m[0] / 2, size_m[1] / 2, size_m[2]
    ring = [(-x, -y), (x, -y), (x, y), (-x, y)]
    low, high = ([(*corner, z) for corner in ring] for z in (z_m, z_m + h))
    sides = [[low[i], low[(i + 1) % 4], high[(i + 1) % 4], high[i]] for i in range(4)]
    return quads(np.array([*sides, high, low[::-1]]), rgb)


def tube(radii_m: tuple[float, float], z_m: tuple[float, float], rgb: Rgb, sides: int = 8) -> Mesh:
    """Return a cone's stump about z, from the lower to the upper radius, with a lid."""
    angles = np.arange(sides) * (2.0 * math.pi / sides)
    ring = np.column_stack([np.cos(angles), np.sin(angles)])
    low, high = (np.column_stack([radius * ring, np.full(sides, z)])
                 for radius, z in zip(radii_m, z_m))
    after = np.roll(np.arange(sides), -1)
    walls = quads(np.stack([low, low[after], high[after], high], axis=1), rgb)
    if radii_m[1] < 1e-3:
        return walls
    middle = np.broadcast_to([0.0, 0.0, z_m[1]], (sides, 3))
    return merge([walls, quads(np.stack([high, high[after], middle, middle], axis=1), rgb)])


def ribbon(line_m: np.ndarray, offset_m: float, width_m: float, rgb: Rgb,
           z_m: float = 0.0) -> Mesh:
    """Return a flat strip beside a polyline (P, 2); a positive offset lies to its left."""
    left = parallel(line_m, offset_m + width_m / 2)
    right = parallel(line_m, offset_m - width_m / 2)
    z = np.full((len(line_m) - 1, 1), z_m)
    corners = np.stack([np.hstack([points, z]) for points in (
        right[:-1], right[1:], left[1:], left[:-1])], axis=1)
    return quads(corners, rgb)


def parallel(line_m: np.ndarray, offset_m: float) -> np.ndarray:
    """Return float64 (P, 2): the polyline (P, 2) shifted to its left by ``offset_m``."""
    line = np.asarray(line_m, dtype=np.float64)
    heading = np.gradient(line, axis=0)
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-9)
    return line + offset_m * np.column_stack([-heading[:, 1], heading[:, 0]])


def resample(line_m: np.ndarray, step_m: float) -> np.ndarray:
    """Return the polyline (P, 2 or 3) with points every ``step_m`` or a little less."""
    line = np.asarray(line_m, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0.0, along[-1], max(2, math.ceil(along[-1] / step_m) + 1))
    return np.column_stack([np.interp(wanted, along, column) for column in line.T])


def to_node(mesh: Mesh, name: str, texture_m: float = 0.0) -> Any:
    """
    Return panda3d.core.GeomNode of a mesh.

    ``texture_m``: texture coordinates are x and y over this many metres; 0: none are given.
    """
    from panda3d.core import Geom
    from panda3d.core import GeomEnums
    from panda3d.core import GeomNode
    from panda3d.core import GeomTriangles
    from panda3d.core import GeomVertexData
    from panda3d.core import GeomVertexFormat

    table = np.zeros((len(mesh.vertices), 9), np.float32)
    table[:, :3], table[:, 3:6] = mesh.vertices, mesh.normals
    if texture_m:
        table[:, 7:] = mesh.vertices[:, :2] / texture_m
    rgba = np.ones((len(table), 4))
    rgba[:, :3] = np.clip(mesh.rgb, 0.0, 1.0)
    # Format v3 n3 c4 t2: the colour is four packed bytes, where one float of the table stands.
    table[:, 6] = np.round(rgba * 255).astype(np.uint8).view(np.float32)[:, 0]
    data = GeomVertexData(name, GeomVertexFormat.get_v3n3c4t2(), GeomEnums.UH_static)
    data.unclean_set_num_rows(len(table))
    memoryview(data.modify_array(0)).cast('B')[:] = np.ascontiguousarray(table).view(
        np.uint8).reshape(-1).data
    triangles = GeomTriangles(GeomEnums.UH_static)
    triangles.set_index_type(GeomEnums.NT_uint32)
    indices = triangles.modify_vertices()
    indices.unclean_set_num_rows(mesh.faces.size)
    memoryview(indices).cast('B')[:] = np.ascontiguousarray(mesh.faces, dtype=np.uint32).view(
        np.uint8).reshape(-1).data
    geom = Geom(data)
    geom.add_primitive(triangles)
    node = GeomNode(name)
    node.add_geom(geom)
    return node
