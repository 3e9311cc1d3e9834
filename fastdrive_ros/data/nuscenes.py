# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One scene of nuScenes -> SceneRecord + a FrameRecord a keyframe, as every other source gives them.

    sample             -> FrameRecord, stamped with the lidar's stamp; six pictures with their own
    sample_annotation  -> Agent: category -> class of core/classes.py, instance -> id
    ego_pose           -> EgoTrack, every sensor's poses (nuscenes_ego.py)
    map expansion      -> drivable raster (nuscenes_map.py)
    log, description   -> conditions

There are no masks in nuScenes: `fastdrive data label` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rotation import yaw_of
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.data.command import command_from_future
from fastdrive_ros.data.ego import ego_pose_at
from fastdrive_ros.data.nuscenes_ego import can_bus_track
from fastdrive_ros.data.nuscenes_ego import track_from_poses
from fastdrive_ros.data.nuscenes_ego import with_velocities
from fastdrive_ros.data.nuscenes_folder import NuscenesFolder
from fastdrive_ros.data.nuscenes_folder import camera_rows
from fastdrive_ros.data.nuscenes_folder import samples
from fastdrive_ros.data.nuscenes_folder import scene_row
from fastdrive_ros.data.nuscenes_folder import sensor_rows
from fastdrive_ros.data.nuscenes_map import DrivableMaps
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord

RATE_HZ = 2.0
LICENSE = ('nuScenes by Motional: CC BY-NC-SA 4.0 with the nuScenes terms of use, non-commercial '
           'use only; do not pass these pictures on, point to nuscenes.org.')
# In SceneRecord.conditions: files of pictures that could not be decoded and were left out.
DAMAGED = 'damaged_pictures'

_NS_PER_US = 1000
# The first prefix of a category's name that is here decides. What lies or stands in the way
# without being a road user is FENCE, as the simulator's cones and barriers.
_KIND_OF = {
    'vehicle.car': 'CAR',
    'vehicle.emergency.police': 'CAR',
    'vehicle.emergency.ambulance': 'TRUCK',
    'vehicle.truck': 'TRUCK',
    'vehicle.trailer': 'TRUCK',
    'vehicle.construction': 'TRUCK',
    'vehicle.bus': 'BUS',
    'vehicle.bicycle': 'BIKE',
    'vehicle.motorcycle': 'BIKE',
    'human.pedestrian': 'PEDESTRIAN',
    'movable_object': 'FENCE',
    'static_object': 'FENCE',
    'animal': 'UNLABELED',
}


def read_scene(folder: NuscenesFolder, maps: DrivableMaps, scene: str, pool: Executor) -> (
        tuple[SceneRecord, list[FrameRecord]]):
    """
    Read one scene; the pool's threads read and check its pictures.

    A picture that cannot be decoded is absent from its frame and named in
    ``conditions[DAMAGED]``. Raises DataError for what the tables or maps lack.
    """
    rows = camera_rows(folder, scene, sweeps=False)
    pictures: dict[str, dict[str, Picture]] = {}
    damaged = []
    for row, picture in zip(rows, pool.map(lambda row: read_picture(folder.root, row), rows)):
        if picture is None:
            damaged.append(row['filename'])
        else:
            pictures.setdefault(row['sample_token'], {})[row['channel']] = picture
    record = scene_record(folder, scene, damaged)
    location = record.conditions['location']
    frames = []
    for index, sample in enumerate(samples(folder, scene)):
        stamp_ns = sample['timestamp'] * _NS_PER_US
        (x_m, y_m, _), orientation = ego_pose_at(record, stamp_ns)
        frames.append(FrameRecord(
            scene, index, stamp_ns, pictures.get(sample['token'], {}),
            tuple(_agent(folder, token) for token in sample['anns']),
            command_from_future(record, stamp_ns),
            drivable_png=maps.raster_png(location, x_m, y_m, yaw_of(orientation))))
    return record, frames


def scene_record(folder: NuscenesFolder, scene: str, damaged: list[str]) -> SceneRecord:
    """Return what is known of a scene as a whole."""
    row = scene_row(folder, scene)
    log = folder.tables.get('log', row['log_token'])
    words = row['description'].lower()
    return SceneRecord(
        scene, 'nuscenes', 'recorded', cameras_of(folder, scene), ego_track(folder, scene),
        conditions={
            'location': log['location'], 'vehicle': log['vehicle'], 'log': log['logfile'],
            'description': row['description'], 'night': 'night' in words, 'rain': 'rain' in words,
            **({DAMAGED: damaged} if damaged else {})})


def cameras_of(folder: NuscenesFolder, scene: str) -> tuple[Camera, ...]:
    """Return the calibrated cameras of a scene, in NUSCENES_CAMERAS' order."""
    first = samples(folder, scene)[0]['data']
    absent = [name for name in NUSCENES_CAMERAS if name not in first]
    if absent:
        raise DataError(f"{scene} begins without {', '.join(absent)}: its tables are not those "
                        'of nuScenes, leave it out with --scenes')
    cameras = []
    for name in NUSCENES_CAMERAS:
        row = folder.tables.get('sample_data', first[name])
        place = folder.tables.get('calibrated_sensor', row['calibrated_sensor_token'])
        w, x, y, z = place['rotation']
        cameras.append(Camera(name, row['width'], row['height'],
                              np.array(place['camera_intrinsic'], dtype=np.float64),
                              tuple(place['translation']), (x, y, z, w)))
    return tuple(cameras)


def ego_track(folder: NuscenesFolder, scene: str) -> EgoTrack:
    """Return every pose of a scene, with the CAN bus's velocities where it has some."""
    channels = sorted({name for sample in samples(folder, scene) for name in sample['data']})
    track = track_from_poses(
        folder.tables.get('ego_pose', row['ego_pose_token'])
        for channel in channels for row in sensor_rows(folder, scene, channel))
    can_bus = can_bus_track(folder.root, scene)
    return with_velocities(track, can_bus) if can_bus else track


def kind_of(category: str) -> str:
    """Return the class name of an annotation's category; raises DataError for a new one."""
    for prefix, kind in _KIND_OF.items():
        if category == prefix or category.startswith(f'{prefix}.'):
            return kind
    raise DataError(f"annotations of the unknown category '{category}': known are nuScenes' 23, "
                    f'as {", ".join(_KIND_OF)}')


def read_picture(root: Path, row: Mapping[str, Any]) -> Picture | None:
    """Return a row's picture with its bytes as they are; None when it cannot be decoded."""
    jpeg = (root / row['filename']).read_bytes()
    try:
        # An eighth of the size costs least, and all of the file is read for it.
        small = decode(EncodedImage('jpeg', np.frombuffer(jpeg, np.uint8)), 1, 1)
    except FrameError:
        return None
    expected = tuple(-(-row[side] // 8) for side in ('height', 'width'))
    return Picture(row['timestamp'] * _NS_PER_US, jpeg) if small.shape[:2] == expected else None


def _agent(folder: NuscenesFolder, token: str) -> Agent:
    row = folder.tables.get('sample_annotation', token)
    width_m, length_m, height_m = row['size']
    w, x, y, z = row['rotation']
    velocity_x, velocity_y, _ = folder.tables.box_velocity(token).tolist()
    return Agent(row['instance_token'], kind_of(row['category_name']), tuple(row['translation']),
                 (length_m, width_m, height_m), yaw_of((x, y, z, w)), (velocity_x, velocity_y))
