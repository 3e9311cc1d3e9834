# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One drive of a dataset -> a rosbag2 folder that plays as the vehicle drove, and loses nothing.

    pictures          -> CompressedImage, the JPEG's own bytes, and CameraInfo at the same stamps
    masks and labels  -> topics of their own (bag_labels.py), which a planner does not listen to
    EgoTrack          -> /odom and /tf, at its own rate and stamps
    cameras           -> /tf_static, latched

Every message is logged at its own stamp. bag_in.py reads it all back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.data import bag_labels
from fastdrive_ros.data import bag_messages
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord

# Log time, topic, type, message.
_Message = tuple[int, str, str, Any]


def write_bag(path: Path, header: DatasetHeader, split: str, scene: SceneRecord,
              frames: Sequence[FrameRecord]) -> None:
    """Write a drive, of this split of that dataset, to a folder that does not exist yet."""
    # Of equal stamps odometry comes first: a sweep is planned on when its last picture comes.
    messages = heapq.merge(_motion(scene), _pictures(scene, frames), _labels(frames),
                           key=lambda message: message[0])
    start_ns = _start_ns(scene, frames)
    with BagWriter(path) as bag:
        bag.write(bag_labels.SCENE_TOPIC, bag_labels.STRING_TYPE, start_ns,
                  bag_labels.scene_message(header, split, scene, len(frames)), latched=True)
        bag.write(bag_messages.TF_STATIC_TOPIC, bag_messages.TF_TYPE, start_ns,
                  bag_messages.static_transforms(start_ns, scene.cameras), latched=True)
        for camera in scene.cameras:
            # One that never gave a picture has its calibration all the same.
            if not any(camera.name in frame.pictures for frame in frames):
                bag.write(bag_messages.camera_info_topic(camera.name),
                          bag_messages.CAMERA_INFO_TYPE, start_ns,
                          bag_messages.camera_info(start_ns, camera))
        for log_ns, topic, type_name, message in messages:
            bag.write(topic, type_name, log_ns, message)


def _start_ns(scene: SceneRecord, frames: Sequence[FrameRecord]) -> int:
    return int(min((*scene.ego.stamps_ns[:1], *(frame.stamp_ns for frame in frames[:1]), *(
        picture.stamp_ns for frame in frames for picture in frame.pictures.values()))))


def _motion(scene: SceneRecord) -> Iterator[_Message]:
    ego = scene.ego
    for stamp_ns, position, orientation, velocity, turn in zip(
            ego.stamps_ns.tolist(), ego.positions_m, ego.orientations_xyzw, ego.velocities_mps,
            ego.angular_velocities_radps):
        yield (stamp_ns, bag_messages.TF_TOPIC, bag_messages.TF_TYPE,
               bag_messages.ego_transform(stamp_ns, scene.frame_id, position, orientation))
        yield (stamp_ns, bag_messages.ODOMETRY_TOPIC, ODOMETRY_TYPE, bag_messages.odometry(
            stamp_ns, scene.frame_id, position, orientation, velocity, turn))


def _pictures(scene: SceneRecord, frames: Sequence[FrameRecord]) -> Iterator[_Message]:
    """Yield each picture after its calibration, and its mask after it."""
    cameras = {camera.name: camera for camera in scene.cameras}
    pictures = [(name, picture) for frame in frames for name, picture in frame.pictures.items()]
    for name, picture in sorted(pictures, key=lambda item: item[1].stamp_ns):
        stamp_ns = picture.stamp_ns
        yield (stamp_ns, bag_messages.camera_info_topic(name), bag_messages.CAMERA_INFO_TYPE,
               bag_messages.camera_info(stamp_ns, cameras[name]))
        yield (stamp_ns, bag_messages.image_topic(name), bag_messages.IMAGE_TYPE,
               bag_messages.compressed_image(stamp_ns, name, picture.jpeg))
        if picture.mask_png is not None:
            yield (stamp_ns, bag_labels.mask_topic(name), bag_messages.IMAGE_TYPE,
                   _png(stamp_ns, name, picture.mask_png))


def _labels(frames: Sequence[FrameRecord]) -> Iterator[_Message]:
    for frame in frames:
        yield (frame.stamp_ns, bag_labels.LABELS_TOPIC, bag_labels.STRING_TYPE,
               bag_labels.labels_message(frame))
        if frame.drivable_png is not None:
            yield (frame.stamp_ns, bag_labels.DRIVABLE_TOPIC, bag_messages.IMAGE_TYPE,
                   _png(frame.stamp_ns, bag_messages.VEHICLE_FRAME, frame.drivable_png))


def _png(stamp_ns: int, frame_id: str, png: bytes) -> Any:
    message = bag_messages.compressed_image(stamp_ns, frame_id, png)
    message.format = 'png'
    return message
