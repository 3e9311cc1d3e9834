# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Small bags as recorders and converters would leave them, whole and broken."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from make_inputs import T0_NS
from make_inputs import make_jpeg
from rosbags.rosbag2 import CompressionFormat
from rosbags.rosbag2 import CompressionMode
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer

from fastdrive_ros.bags import typestore
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.ros.messages import bag_classes
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import make_pose

IMAGE, ODOMETRY = 'sensor_msgs/msg/CompressedImage', 'nav_msgs/msg/Odometry'
PERIOD_NS = 100_000_000
CLASSES = bag_classes(typestore())


def image_message(stamp_ns: int, camera: str, data: np.ndarray | None = None) -> Any:
    """Return a sensor_msgs/CompressedImage of the `rosbags` library."""
    return CLASSES.make(IMAGE)(header=make_header(CLASSES, stamp_ns, camera), format='jpeg',
                               data=make_jpeg(seed=len(camera)) if data is None else data)


def odometry_message(stamp_ns: int, speed_mps: float = 5.0) -> Any:
    """Return a nav_msgs/Odometry of a vehicle that drives straight along x of the map."""
    make = CLASSES.make
    vector = make('geometry_msgs/msg/Vector3')
    return make(ODOMETRY)(
        header=make_header(CLASSES, stamp_ns, 'map'), child_frame_id='base_link',
        pose=make('geometry_msgs/msg/PoseWithCovariance')(
            pose=make_pose(CLASSES, (speed_mps * (stamp_ns - T0_NS) / 1e9, 0.0, 0.0), 0.0),
            covariance=np.zeros(36)),
        twist=make('geometry_msgs/msg/TwistWithCovariance')(
            twist=make('geometry_msgs/msg/Twist')(
                linear=vector(x=speed_mps, y=0.0, z=0.0), angular=vector(x=0.0, y=0.0, z=0.0)),
            covariance=np.zeros(36)))


def write_bag(path: Path, num_sets: int = 5, cameras: tuple[str, ...] = NUSCENES_CAMERAS,
              odometry: bool = True, storage: StoragePlugin = StoragePlugin.MCAP,
              compression: CompressionMode = CompressionMode.NONE,
              images: dict[tuple[int, str], np.ndarray] | None = None,
              topic: str = '/{}/image_rect_compressed', log_delay_ns: int = 0,
              odometry_burst: int = 1) -> Path:
    """
    Write sweeps at 10 Hz, 5 ms between cameras.

    ``images`` replaces single pictures; log times are ``log_delay_ns`` after the stamps;
    odometry is logged ``odometry_burst`` messages at once, as late as the last of them.
    """
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections = {name: writer.add_connection(name, kind, typestore=typestore())
                       for name, kind in (*((topic.format(c), IMAGE) for c in cameras),
                                          *([('/odom', ODOMETRY)] if odometry else []))}

        def put(name: str, kind: str, log_ns: int, message: Any) -> None:
            writer.write(connections[name], log_ns + log_delay_ns,
                         typestore().serialize_cdr(message, kind))

        for i in range(num_sets):
            stamp_ns = T0_NS + i * PERIOD_NS
            if odometry:
                last = (i // odometry_burst + 1) * odometry_burst - 1
                put('/odom', ODOMETRY, T0_NS + last * PERIOD_NS, odometry_message(stamp_ns))
            for j, camera in enumerate(cameras):
                picture = (images or {}).get((i, camera))
                put(topic.format(camera), IMAGE, stamp_ns + j * 5_000_000,
                    image_message(stamp_ns + j * 5_000_000, camera, picture))
    return path


def storage_file(bag: Path) -> Path:
    """Return the one .mcap or .db3 file of a bag folder."""
    (file,) = (file for file in bag.iterdir() if file.suffix in ('.mcap', '.db3'))
    return file


def cut(file: Path, share: float) -> None:
    """Truncate a file, as a copy that broke off."""
    with file.open('r+b') as stream:
        stream.truncate(int(share * file.stat().st_size))


def write_foreign_mcap(path: Path, profile: str, schema: str, encoding: str) -> Path:
    """Write an MCAP with one schema and one message, as another tool would."""
    def text(value: str) -> bytes:
        return struct.pack('<I', len(value)) + value.encode()

    def record(opcode: int, body: bytes) -> bytes:
        return struct.pack('<BQ', opcode, len(body)) + body

    magic = b'\x89MCAP0\r\n'
    path.write_bytes(b''.join((
        magic,
        record(0x01, text(profile) + text('some writer')),
        record(0x03, struct.pack('<H', 1) + text(schema) + text(encoding) + text('')),
        record(0x04, struct.pack('<HH', 1, 1) + text('/cam_front') + text('protobuf') + text('')),
        record(0x05, struct.pack('<HIQQ', 1, 0, T0_NS, T0_NS) + b'picture'),
        record(0x0F, struct.pack('<I', 0)),
        record(0x02, struct.pack('<QQI', 0, 0, 0)),
        magic)))
    return path
