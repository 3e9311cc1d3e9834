# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What stands and moves in the world, as meshes: cars from files, all else built from a few boxes.

Everything stands on z = 0 with its middle at the origin and looks along x.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.assets import assets_dir
from fastdrive_ros.sim.mesh import Mesh
from fastdrive_ros.sim.mesh import box
from fastdrive_ros.sim.mesh import merge
from fastdrive_ros.sim.mesh import quads
from fastdrive_ros.sim.mesh import tube

# A model of MetaDrive's wheel -> length, width, height in metres of the vehicle it belongs to.
CARS = {'ferra': (4.515, 1.852, 1.19), 'beetle': (4.3, 1.70, 1.70), 'lada': (4.87, 2.046, 1.85),
        '130': (4.6, 1.85, 1.37), 'truck': (5.74, 2.3, 2.8)}
_MAX_FACES = 6000
_LAMP_RGB = {'red': (1.0, 0.12, 0.08), 'yellow': (1.0, 0.75, 0.1), 'green': (0.1, 0.95, 0.35)}
LIGHT_STATES = tuple(_LAMP_RGB)


def car(model: str) -> Mesh:
    """
    Return a car of CARS, scaled to its vehicle's size, simplified to a few thousand triangles.

    Grey paint, so that a colour scale paints it. The simplified mesh is kept beside the assets.
    """
    kept = assets_dir() / 'simplified' / f'{model}-{_MAX_FACES}.npz'
    if not kept.exists():
        _simplify(assets_dir() / 'models' / 'vehicle' / model / 'vehicle.gltf', kept)
    with np.load(kept) as arrays:
        body = Mesh(*(arrays[name] for name in ('vertices', 'normals', 'rgb', 'faces')))
    length, width, height = CARS[model]
    low, high = body.vertices.min(axis=0), body.vertices.max(axis=0)
    scale = np.array([length, width, height - 0.18]) / (high - low)
    vertices = (body.vertices - (low + high) / 2) * scale
    vertices[:, 2] += (height + 0.18) / 2
    return merge([Mesh(vertices.astype(np.float32), body.normals, body.rgb, body.faces),
                  *_wheels(length, width)])


def _simplify(source: Path, kept: Path) -> None:
    import fast_simplification
    import trimesh
    from scipy.spatial import cKDTree

    if not source.exists():
        raise SimError(f'{source} is missing: run `fastdrive data assets` again')
    scene = trimesh.load(source)
    parts = [(geometry.vertices @ transform[:3, :3].T + transform[:3, 3], geometry.faces,
              _colours(geometry))
             for geometry, transform in _placed(scene)]
    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in parts[:-1])])
    vertices = np.concatenate([vertices for vertices, _, _ in parts])
    faces = np.concatenate([part[1] + start for part, start in zip(parts, starts)])
    rgb = np.concatenate([colours for _, _, colours in parts])
    # The files repeat a vertex for every normal and texture seam; simplified like that, the body
    # would tear along them.
    welded = trimesh.Trimesh(vertices, faces, process=False)
    welded.merge_vertices(merge_tex=True, merge_norm=True, digits_vertex=3)
    points, triangles = fast_simplification.simplify(
        welded.vertices.astype(np.float32), welded.faces.astype(np.int32),
        target_reduction=max(0.0, 1.0 - _MAX_FACES / len(welded.faces)))
    _, nearest = cKDTree(vertices).query(points)
    # In the files y is up and the cars look along -z. Here: z up, along x.
    turn = np.array([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], dtype=np.float64)
    mesh = trimesh.Trimesh(points @ turn.T, triangles, process=False)
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Processes that start together simplify together; each its own file.
    staging = kept.with_suffix(f'.{os.getpid()}.partial.npz')
    np.savez(staging, vertices=mesh.vertices.astype(np.float32), faces=triangles.astype(np.int32),
             normals=mesh.vertex_normals.astype(np.float32), rgb=rgb[nearest].astype(np.float32))
    staging.replace(kept)


def _placed(scene: Any) -> list[tuple[Any, np.ndarray]]:
    """Return each geometry of a trimesh scene with its transform, in the file's order."""
    return [(scene.geometry[name], transform) for transform, name in (
        scene.graph[node] for node in sorted(scene.graph.nodes_geometry))]


def _colours(geometry: Any) -> np.ndarray:
    """Return float64 (P, 3): texture or material, greyed so that a colour scale can paint it."""
    material, uv = geometry.visual.material, geometry.visual.uv
    picture = getattr(material, 'baseColorTexture', None)
    if picture is not None and uv is not None:
        pixels = np.asarray(picture.convert('RGB'))
        rows = (1.0 - uv[:, 1]) % 1.0 * (pixels.shape[0] - 1)
        columns = uv[:, 0] % 1.0 * (pixels.shape[1] - 1)
        rgb = pixels[rows.astype(int), columns.astype(int)] / 255.0
    else:
        rgb = np.broadcast_to(material.main_color[:3] / 255.0, geometry.vertices.shape)
    grey = rgb @ (0.3, 0.59, 0.11)
    return 0.35 * rgb + 0.65 * grey[:, None]


def _wheels(length: float, width: float) -> list[Mesh]:
    wheel = tube((0.33, 0.33), (0.0, 0.24), (0.05, 0.05, 0.055), 12)
    # Turned onto its side: the axle lies along y.
    vertices = np.column_stack([wheel.vertices[:, 0], wheel.vertices[:, 2], wheel.vertices[:, 1]])
    normals = np.column_stack([wheel.normals[:, 0], wheel.normals[:, 2], wheel.normals[:, 1]])
    lying = Mesh(vertices, normals, wheel.rgb, wheel.faces[:, ::-1])
    return [lying.moved(x * length, y * (width / 2 - 0.12) - 0.12, 0.33)
            for x in (0.29, -0.29) for y in (-1.0, 1.0)]


def cone() -> Mesh:
    """Return a traffic cone, 0.72 m high."""
    orange, white = (1.0, 0.36, 0.08), (0.95, 0.95, 0.95)
    return merge([box((0.36, 0.36, 0.04), orange), tube((0.15, 0.11), (0.04, 0.30), orange),
                  tube((0.11, 0.08), (0.30, 0.48), white),
                  tube((0.08, 0.03), (0.48, 0.72), orange)])


def barrier() -> Mesh:
    """Return a red and white board on two feet, 1.8 m wide across x."""
    boards = [box((0.05, 0.3, 0.25), (0.85, 0.1, 0.1) if i % 2 else (0.95, 0.95, 0.95), 0.7).moved(
        y_m=0.3 * i - 0.75) for i in range(6)]
    feet = [box((0.5, 0.06, 0.7), (0.45, 0.45, 0.45)).moved(y_m=y) for y in (-0.75, 0.75)]
    return merge([*boards, *feet])


def traffic_light(state: str, arm_m: float) -> tuple[Mesh, Mesh]:
    """Return (pole, arm and housings; lamps) of a light; its arm reaches left over the road."""
    grey, dark = (0.35, 0.36, 0.37), (0.07, 0.08, 0.07)
    arm = box((0.12, arm_m, 0.12), grey, 4.85).moved(y_m=arm_m / 2)
    solid = [tube((0.11, 0.08), (0.0, 5.0), grey), arm]
    lamps = []
    for y, z in ((arm_m, 3.65), (0.0, 2.3)):
        solid.append(box((0.28, 0.42, 1.15), dark, z).moved(y_m=y))
        for i, name in enumerate(('green', 'yellow', 'red')):
            rgb = _LAMP_RGB[name] if name == state else (0.10, 0.10, 0.10)
            # Faces those who come along x: on the side of -x.
            lamps.append(box((0.04, 0.26, 0.26), rgb, z + 0.1 + 0.35 * i).moved(-0.16, y))
    return merge(solid), merge(lamps)


def traffic_sign(kind: int) -> tuple[Mesh, Mesh]:
    """Return (pole, plate) of one of three kinds: limit, warning, direction."""
    corners = 3 if kind == 1 else 16
    angles = np.arange(corners) * 2 * math.pi / corners + math.pi / 2
    ring = np.column_stack([np.zeros(len(angles)), 0.36 * np.cos(angles), 0.36 * np.sin(angles)])
    if kind == 2:
        ring = np.array([[0, -0.5, -0.3], [0, 0.5, -0.3], [0, 0.5, 0.3], [0, -0.5, 0.3]])
    rim, field = (((0.8, 0.1, 0.1), (0.95, 0.95, 0.93)) if kind < 2
                  else ((0.9, 0.9, 0.9), (0.1, 0.3, 0.7)))

    def plate(scale: float, x: float, rgb: tuple[float, float, float]) -> Mesh:
        points = ring * scale + (x, 0.0, 2.3)
        middle = np.broadcast_to([x, 0.0, 2.3], points.shape)
        after = np.roll(points, -1, axis=0)
        return quads(np.stack([points, middle, middle, after], axis=1), rgb)

    pole = tube((0.035, 0.035), (0.0, 2.4), (0.5, 0.5, 0.5), 6)
    return pole, merge([plate(1.0, -0.05, rim), plate(0.78, -0.07, field)])


def pedestrian(rng: np.random.Generator) -> tuple[Mesh, Mesh]:
    """Return (torso and head, one leg from hip to ground at the origin) in random clothes."""
    shirt, trousers = rng.uniform(0.05, 0.9, 3), rng.uniform(0.05, 0.5, 3)
    skin = np.array((0.85, 0.65, 0.5)) * rng.uniform(0.4, 1.0)
    arms = [box((0.11, 0.11, 0.6), shirt, 0.82).moved(y_m=y) for y in (-0.27, 0.27)]
    body = merge([tube((0.17, 0.21), (0.82, 1.42), shirt), *arms,
                  tube((0.06, 0.11), (1.42, 1.60), skin),
                  tube((0.11, 0.05), (1.60, 1.75), skin * 0.5)])
    leg = merge([box((0.15, 0.14, 0.8), trousers),
                 box((0.27, 0.12, 0.08), (0.1, 0.1, 0.1)).moved(0.05)])
    return body, leg


def tree(rng: np.random.Generator) -> Mesh:
    """Return a conifer or a round tree, 4 to 9 m high."""
    height = rng.uniform(4.0, 9.0)
    bark = (0.30, 0.22, 0.15)
    leaf = np.array((0.16, 0.34, 0.14)) * rng.uniform(0.6, 1.5)
    leaf = leaf + rng.uniform(0.0, 0.1, 3) * (1, 0.5, 0)
    if rng.uniform() < 0.5:
        crown = [tube((r * height, 0.0), (lo * height, hi * height), leaf * shade, 7)
                 for r, lo, hi, shade in ((0.24, 0.2, 0.62, 0.8), (0.18, 0.45, 0.85, 0.95),
                                          (0.11, 0.68, 1.0, 1.1))]
    else:
        crown = [tube((a * height, b * height), (lo * height, hi * height), leaf * shade, 8)
                 for a, b, lo, hi, shade in ((0.10, 0.28, 0.30, 0.52, 0.75),
                                             (0.28, 0.25, 0.52, 0.76, 0.95),
                                             (0.25, 0.06, 0.76, 1.0, 1.1))]
    return merge([tube((0.16, 0.12), (0.0, 0.5 * height), bark, 6), *crown])


def building(rng: np.random.Generator) -> tuple[Mesh, tuple[float, float]]:
    """Return a block with rows of windows, and its footprint (length, width) in metres."""
    length, width = rng.uniform(9.0, 24.0), rng.uniform(8.0, 16.0)
    floors = int(rng.integers(1, 7))
    height = 3.1 * floors + 0.6
    wall = np.array((0.62, 0.57, 0.52)) * rng.uniform(0.5, 1.3) + rng.uniform(-0.08, 0.08, 3)
    pane = np.array((0.20, 0.26, 0.32)) * rng.uniform(0.5, 1.6)
    parts = [box((length, width, height), wall),
             box((length + 0.6, width + 0.6, 0.35), wall * rng.uniform(0.4, 0.8), height)]
    windows = []
    for side, span in ((width / 2 + 0.03, length), (-width / 2 - 0.03, length)):
        count = int(span // 3.0)
        for i in range(count):
            x = (i + 0.5) * span / count - span / 2
            windows += [[(x - 0.7, side, z), (x + 0.7, side, z), (x + 0.7, side, z + 1.4),
                         (x - 0.7, side, z + 1.4)][::1 if side < 0 else -1]
                        for z in 3.1 * np.arange(floors) + 1.0]
    for side in (length / 2 + 0.03, -length / 2 - 0.03):
        count = int(width // 3.0)
        for i in range(count):
            y = (i + 0.5) * width / count - width / 2
            windows += [[(side, y - 0.7, z), (side, y + 0.7, z), (side, y + 0.7, z + 1.4),
                         (side, y - 0.7, z + 1.4)][::1 if side > 0 else -1]
                        for z in 3.1 * np.arange(floors) + 1.0]
    return merge([*parts, quads(np.array(windows), pane)]), (length, width)
