# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A map of MetaDrive as plain geometry: lanes, painted lines, the drivable area, roadsides.

    current_map -> Roads; Roads + pose -> drivable raster of one frame
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.data.drivable import rasterize
from fastdrive_ros.data.drivable import rings_of
from fastdrive_ros.sim.mesh import parallel
from fastdrive_ros.sim.rules import STOP_BEFORE_END_M

_INTERVAL_M = 2.0
# Blocks with crossings, by MetaDrive's letter.
_CROSSING_BLOCKS = 'XT'


@dataclass(frozen=True)
class Line:
    """Paint on the road."""

    points_m: np.ndarray
    """float64 (P, 2)."""
    yellow: bool
    dashed: bool


@dataclass(frozen=True)
class Approach:
    """A road that leads into a crossing."""

    road: tuple[str, str]
    block: int
    """Which crossing it belongs to."""
    end_m: np.ndarray
    """float64 (2,): the right end of its stop line."""
    yaw_rad: float
    width_m: float
    """Of all its lanes together."""


@dataclass(frozen=True)
class Roads:
    """The map of one drive, in the map frame."""

    lanes: tuple[np.ndarray, ...]
    """Middle lines, float64 (P, 2)."""
    lines: tuple[Line, ...]
    edges: tuple[np.ndarray, ...]
    """Right edges of roads, in driving direction, float64 (P, 2): the roadside is on the right."""
    approaches: tuple[Approach, ...]
    surface: Any
    """shapely geometry: where cars may drive."""

    def raster(self, x_m: float, y_m: float, yaw_rad: float) -> np.ndarray:
        """Return uint8 (512, 512), 255 where drivable, as data/records.py describes it."""
        return rasterize([rings_of(polygon) for polygon in polygons(self.surface)],
                         x_m, y_m, yaw_rad)


def polygons(geometry: Any) -> Sequence[Any]:
    """Return the polygons of a shapely Polygon or MultiPolygon."""
    return getattr(geometry, 'geoms', (geometry,))


def read_roads(current_map: Any) -> Roads:
    """Return the geometry of a MetaDrive map."""
    from shapely import Polygon
    from shapely import unary_union

    middles, shapes, edges = [], [], []
    for start, ends in current_map.road_network.graph.items():
        for lane in (lane for lanes in ends.values() for lane in lanes):
            middle = np.array(lane.get_polyline(_INTERVAL_M))[:, :2]
            shapes.append(Polygon(np.concatenate([
                parallel(middle, lane.width / 2),
                parallel(middle, -lane.width / 2)[::-1]])).buffer(0.0))
            # MetaDrive's 'decoration' is asphalt that no route uses: the tapers of ramps.
            if start != 'decoration':
                middles.append(middle)
    # Closing fills the slivers that crossings leave between their turning lanes.
    surface = unary_union(shapes).buffer(1.5, join_style='mitre').buffer(-1.5, join_style='mitre')
    lines = []
    for feature in current_map.get_map_features(_INTERVAL_M).values():
        kind = feature['type']
        if not kind.startswith('ROAD_LINE'):
            continue
        points = np.array(feature['polyline'])[:, :2]
        if len(points) < 2:
            continue
        line = Line(points, yellow='YELLOW' in kind, dashed='BROKEN' in kind)
        lines.append(line)
        if not line.yellow and not line.dashed:
            edges.append(points)
    return Roads(tuple(middles), tuple(lines), tuple(edges), tuple(_approaches(current_map)),
                 surface)


def _approaches(current_map: Any) -> list[Approach]:
    network = current_map.road_network
    found = []
    for number, block in enumerate(current_map.blocks):
        if block.ID not in _CROSSING_BLOCKS:
            continue
        for road in (block.pre_block_socket.positive_road,
                     *(socket.negative_road for socket in block.get_socket_list())):
            lanes = road.get_lanes(network)
            last = lanes[-1]
            along = last.length - STOP_BEFORE_END_M
            width_m = sum(lane.width for lane in lanes)
            found.append(Approach(
                (road.start_node, road.end_node), number,
                np.array(last.position(along, 0.0)) + last.width / 2 * _right(last, along),
                float(last.heading_theta_at(along)), float(width_m)))
    return found


def _right(lane: Any, along_m: float) -> np.ndarray:
    yaw_rad = lane.heading_theta_at(along_m)
    return np.array([np.sin(yaw_rad), -np.cos(yaw_rad)])
