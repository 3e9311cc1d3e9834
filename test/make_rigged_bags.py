# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags with calibration and transforms: the arc of make_drives.py as a vehicle records it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_drives import CAMERA_GAP_NS
from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_track
from make_inputs import T0_NS
from make_inputs import make_jpeg

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.data import bag_messages
from fastdrive_ros.data.bag_rig import info_topic

RIG = nuscenes_rig(WIDTH, HEIGHT)
TOPICS = {camera.name: bag_messages.image_topic(camera.name) for camera in RIG}
Edit = Callable[[str, Any], 'Any | None']


def write_rigged_bag(path: Path, edit: Edit = lambda topic, message: message, sweeps: int = 6,
                     rate_hz: float = 2.0) -> Path:
    """Write six seconds of the arc; ``edit`` alters a message or leaves it out (None)."""
    track = make_track(6.0)
    messages = [(T0_NS, '/tf_static', bag_messages.TF_TYPE,
                 bag_messages.static_transforms(T0_NS, RIG))]
    for i, stamp_ns in enumerate(track.stamps_ns.tolist()):
        messages.append((stamp_ns, '/odom', ODOMETRY_TYPE, bag_messages.odometry(
            stamp_ns, 'map', track.positions_m[i], track.orientations_xyzw[i],
            track.velocities_mps[i], track.angular_velocities_radps[i])))
    for i in range(sweeps):
        for j, camera in enumerate(RIG):
            stamp_ns = T0_NS + round(i / rate_hz * 1e9) + j * CAMERA_GAP_NS
            messages.append((stamp_ns, info_topic(TOPICS[camera.name]),
                             bag_messages.CAMERA_INFO_TYPE,
                             bag_messages.camera_info(stamp_ns, camera)))
            messages.append((stamp_ns, TOPICS[camera.name], bag_messages.IMAGE_TYPE,
                             bag_messages.compressed_image(
                                 stamp_ns, camera.name, make_jpeg(HEIGHT, WIDTH).tobytes())))
    with BagWriter(path) as writer:
        for log_ns, topic, kind, message in sorted(messages, key=lambda item: item[0]):
            edited = edit(topic, message)
            if edited is not None:
                writer.write(topic, kind, log_ns, edited)
    return path


def without(unwanted: str) -> Edit:
    """Leave a topic out."""
    return lambda topic, message: None if topic == unwanted else message
