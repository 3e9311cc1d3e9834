# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A recorded drive -> what became of each frame, and what its pictures show.

    odometry --> where the vehicle went        later frames --> where the others were then
    drivable raster --> where no car may be    class masks --> foreground of each visual token
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastdrive_ros.core.classes import DRIVEN_ON
from fastdrive_ros.core.classes import class_ids
from fastdrive_ros.core.classes import foreground
from fastdrive_ros.core.rotation import conjugate
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.data.drivable import rasterize
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.ego import future_at
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DRIVABLE_CELL_M
from fastdrive_ros.data.records import DRIVABLE_CELLS
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.metrics.footprint import corners
from fastdrive_ros.metrics.foreground import TokenShares
from fastdrive_ros.metrics.foreground import area_shares
from fastdrive_ros.metrics.judge import NUM_STEPS
from fastdrive_ros.metrics.judge import STEP_S
from fastdrive_ros.metrics.judge import FrameTruth

VEHICLES = ('CAR', 'TRUCK', 'BUS', 'BIKE')
"""What protocol any_cell collides with: nuScenes' vehicle.*, bicycles among them."""
ROAD_USERS = (*VEHICLES, 'PEDESTRIAN')
"""What protocol mean_box collides with. Obstacles ('FENCE': cones, barriers) are in neither."""

# A frame this near to a step shows who was where then; keyframes of nuScenes come every 0.5 s,
# give or take 0.05.
_NEAR_NS = 100_000_000
# Nobody further away is met within three seconds by a box that is not counted out anyway.
_REACH_M = DRIVABLE_CELLS * DRIVABLE_CELL_M


def frame_truth(scene: SceneRecord, frames: Sequence[FrameRecord], index: int) -> FrameTruth:
    """Return what became of a frame; raises DataError where the odometry does not reach."""
    frame = frames[index]
    waypoints, known = future_at(scene, frame.stamp_ns, NUM_STEPS, STEP_S)
    stamps_ns = np.array([each.stamp_ns for each in frames])
    steps: list[np.ndarray] = []
    boxes_known = np.zeros(NUM_STEPS, dtype=bool)
    vehicles = np.zeros((NUM_STEPS, DRIVABLE_CELLS, DRIVABLE_CELLS), dtype=bool)
    for step in range(NUM_STEPS):
        away_ns = np.abs(stamps_ns - frame.stamp_ns - round((step + 1) * STEP_S * 1e9))
        then = frames[int(away_ns.argmin())]
        boxes_known[step] = away_ns.min() <= _NEAR_NS
        agents = then.agents if boxes_known[step] else ()
        steps.append(_boxes(scene, frame.stamp_ns, agents, ROAD_USERS))
        solid = corners(_boxes(scene, frame.stamp_ns, agents, VEHICLES))
        vehicles[step] = rasterize([[box] for box in solid], 0.0, 0.0, 0.0) > 0
    boxes = np.full((NUM_STEPS, max(1, *map(len, steps)), 5), np.nan)
    for step, found in enumerate(steps):
        boxes[step, :len(found)] = found
    blocked = None
    if frame.drivable_png is not None:
        blocked = decode_mask(frame.drivable_png, f'{scene.name} {index}: drivable')[None] == 0
    return FrameTruth(waypoints[:, :2], known, boxes, boxes_known, vehicles, blocked,
                      DRIVABLE_CELL_M)


def token_shares(frame: FrameRecord, cameras: Sequence[str], present: np.ndarray,
                 grid_height: int, grid_width: int) -> TokenShares | None:
    """Return what of each visual token is foreground; None unless every camera has its mask."""
    shares = np.zeros((2, len(cameras), grid_height * grid_width))
    for i, camera in enumerate(cameras):
        if not present[i]:
            continue
        png = frame.pictures[camera].mask_png
        if png is None:
            return None
        mask = decode_mask(png, f'{frame.scene} {frame.index}: mask of {camera}')
        is_foreground = foreground(mask)
        is_thing = is_foreground & ~np.isin(mask, class_ids(DRIVEN_ON))
        shares[:, i] = [area_shares(each, grid_height, grid_width)
                        for each in (is_foreground, is_thing)]
    return TokenShares(*shares.reshape(2, -1))


def _boxes(scene: SceneRecord, stamp_ns: int, agents: Sequence[Agent],
           kinds: Sequence[str]) -> np.ndarray:
    """Return float64 (A, 5), boxes near enough, in base_link at a stamp."""
    origin_m, orientation_xyzw = ego_pose_at(scene, stamp_ns)
    to_base_link, yaw_rad = conjugate(orientation_xyzw), yaw_of(orientation_xyzw)
    boxes = []
    for agent in agents:
        x_m, y_m, _ = rotate(to_base_link, tuple(np.subtract(agent.position_m, origin_m).tolist()))
        if agent.kind in kinds and np.hypot(x_m, y_m) < _REACH_M:
            boxes.append((x_m, y_m, agent.yaw_rad - yaw_rad, *agent.size_m[:2]))
    return np.array(boxes, dtype=np.float64).reshape(-1, 5)
