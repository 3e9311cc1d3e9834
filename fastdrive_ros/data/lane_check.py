# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Do masks, calibration, odometry and map agree? Lane centres, projected, must fall on the road.

    SceneRecord + FrameRecord -> lane points seen, and how many of them lie on road or paint
"""

from __future__ import annotations

import cv2
import numpy as np

from fastdrive_ros.core.classes import DRIVEN_ON
from fastdrive_ros.core.classes import class_ids
from fastdrive_ros.core.rig import project
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord

NEAR_M = 30.0
_ON_ROAD = class_ids(DRIVEN_ON)
# What stands on the ground hides lane points behind it; these hide nothing, they are the ground.
_GROUND = class_ids((*DRIVEN_ON, 'TERRAIN', 'SIDEWALK', 'SKY'))


def lane_points(scene: SceneRecord, frame: FrameRecord) -> tuple[int, int, int]:
    """
    Return (projected into some camera, of them not hidden by a thing, of those on the road).

    Points of lane centres within 30 m of the vehicle; cameras without a mask are left out.
    """
    position, orientation = ego_pose_at(scene, frame.stamp_ns)
    yaw_rad = yaw_of(orientation)
    points = np.concatenate([np.zeros((0, 3)), *scene.lanes]) - position
    near = points[np.linalg.norm(points[:, :2], axis=1) < NEAR_M]
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    in_base = np.column_stack([near[:, 0] * c + near[:, 1] * s,
                               near[:, 1] * c - near[:, 0] * s, near[:, 2]])
    totals = np.zeros(3, dtype=int)
    for camera in scene.cameras:
        picture = frame.pictures.get(camera.name)
        if picture is None or picture.mask_png is None:
            continue
        mask = cv2.imdecode(np.frombuffer(picture.mask_png, np.uint8), cv2.IMREAD_GRAYSCALE)
        pixels, visible = project(camera, in_base)
        u, v = pixels[visible].astype(int).T
        seen = mask[v, u]
        bare = np.isin(seen, _GROUND)
        totals += (len(seen), bare.sum(), np.isin(seen, _ON_ROAD).sum())
    return tuple(int(count) for count in totals)
