# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One scene of nuScenes -> a rosbag2 folder in which every message is logged at its own stamp.

    sample_data of the cameras, keyframes and sweeps  -> CompressedImage + CameraInfo
    every sensor's ego_pose                           -> /tf, map -> base_link
    the same, at most 50 Hz, or the CAN bus's poses   -> /odom
    calibrated_sensor                                 -> /tf_static, latched
    scene, our split of it, the licence               -> /dataset/scene, latched

The converters that others use log the six pictures of a keyframe at the lidar's stamp and odometry
in bursts; a vehicle does neither.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.data import bag_labels
from fastdrive_ros.data import bag_messages
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.nuscenes import LICENSE
from fastdrive_ros.data.nuscenes import read_picture
from fastdrive_ros.data.nuscenes import scene_record
from fastdrive_ros.data.nuscenes_ego import can_bus_track
from fastdrive_ros.data.nuscenes_ego import thinned
from fastdrive_ros.data.nuscenes_folder import NuscenesFolder
from fastdrive_ros.data.nuscenes_folder import camera_rows
from fastdrive_ros.data.nuscenes_folder import official_splits
from fastdrive_ros.data.nuscenes_folder import our_split
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import SceneRecord

MAP_FRAME = 'map'
_MAX_ODOMETRY_HZ = 50.0
_CAMERA_HZ = 12.0
# Log time (the header's stamp, too), topic, type, message.
_Message = tuple[int, str, str, Any]


def write_bag(folder: NuscenesFolder, scene: str, path: Path) -> tuple[int, list[str]]:
    """
    Write a scene to a folder that does not exist yet.

    Returns (pictures written, files of pictures that cannot be decoded and were left out).
    """
    record = scene_record(folder, scene, [])
    cameras = {camera.name: camera for camera in record.cameras}
    track = record.ego
    odometry = can_bus_track(folder.root, scene) or thinned(track, _MAX_ODOMETRY_HZ)
    rows = camera_rows(folder, scene, sweeps=True)
    damaged: list[str] = []
    messages = heapq.merge(
        _transforms(track), _odometry(odometry), _pictures(folder.root, rows, cameras, damaged),
        key=lambda message: message[0])
    # Every picture has a pose, so no picture is older.
    start_ns = int(min(track.stamps_ns[0], odometry.stamps_ns[0]))
    with BagWriter(path) as bag:
        bag.write(bag_labels.SCENE_TOPIC, bag_labels.STRING_TYPE, start_ns,
                  bag_labels.scene_message(_header(folder, record), our_split(
                      scene, official_splits()), record, num_frames=0), latched=True)
        bag.write(bag_messages.TF_STATIC_TOPIC, bag_messages.TF_TYPE, start_ns,
                  bag_messages.static_transforms(start_ns, cameras.values()), latched=True)
        for log_ns, topic, type_name, message in messages:
            bag.write(topic, type_name, log_ns, message)
    return len(rows) - len(damaged), damaged


def _header(folder: NuscenesFolder, record: SceneRecord) -> DatasetHeader:
    """Return what a dataset of this bag has to say of it, the licence above all."""
    first = record.cameras[0]
    return DatasetHeader(
        f'nuscenes {folder.version}', 'nuscenes', tuple(camera.name for camera in record.cameras),
        first.width, first.height, _CAMERA_HZ, license=LICENSE)


def _transforms(track: EgoTrack) -> Iterator[_Message]:
    for stamp_ns, position, orientation in zip(
            track.stamps_ns.tolist(), track.positions_m, track.orientations_xyzw):
        yield (stamp_ns, bag_messages.TF_TOPIC, bag_messages.TF_TYPE,
               bag_messages.ego_transform(stamp_ns, MAP_FRAME, position, orientation))


def _odometry(track: EgoTrack) -> Iterator[_Message]:
    for stamp_ns, *motion in zip(
            track.stamps_ns.tolist(), track.positions_m, track.orientations_xyzw,
            track.velocities_mps, track.angular_velocities_radps):
        yield (stamp_ns, bag_messages.ODOMETRY_TOPIC, ODOMETRY_TYPE,
               bag_messages.odometry(stamp_ns, MAP_FRAME, *motion))


def _pictures(root: Path, rows: Sequence[Mapping[str, Any]], cameras: Mapping[str, Camera],
              damaged: list[str]) -> Iterator[_Message]:
    """Yield each picture after its calibration; what cannot be decoded goes to ``damaged``."""
    for row in rows:
        picture = read_picture(root, row)
        if picture is None:
            damaged.append(row['filename'])
            continue
        name, stamp_ns = row['channel'], picture.stamp_ns
        yield (stamp_ns, bag_messages.camera_info_topic(name), bag_messages.CAMERA_INFO_TYPE,
               bag_messages.camera_info(stamp_ns, cameras[name]))
        yield (stamp_ns, bag_messages.image_topic(name), bag_messages.IMAGE_TYPE,
               bag_messages.compressed_image(stamp_ns, name, picture.jpeg))
