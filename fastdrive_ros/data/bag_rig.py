# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a bag says of the rig and its motion, as records: nothing is assumed, what lacks is named.

    CameraInfo + /tf_static (or /tf)  -> Camera, in the frame that odometry moves
    nav_msgs/Odometry                 -> EgoTrack, as it was recorded

A vehicle's description is often a chain (base_link -> sensor kit -> camera -> optical frame) and
some converters publish it on /tf; both are followed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import Bag
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rotation import Quaternion
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.core.rotation import normalise
from fastdrive_ros.core.rotation import rotate
from fastdrive_ros.data.bag_messages import CAMERA_INFO_TYPE
from fastdrive_ros.data.bag_messages import TF_STATIC_TOPIC
from fastdrive_ros.data.bag_messages import TF_TOPIC
from fastdrive_ros.data.bag_messages import TF_TYPE
from fastdrive_ros.data.bag_messages import VEHICLE_FRAME
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.ros.convert import stamp_to_ns

# A clock that goes back by more is another drive, not a message that was overtaken.
_JUMP_NS = 1_000_000_000
_Edges = dict[str, tuple[str, Vector, Quaternion]]


@dataclass(frozen=True)
class Motion:
    """The odometry of a bag."""

    track: EgoTrack
    frame_id: str
    """What the poses are expressed in."""
    vehicle_frame: str
    """What they are the poses of."""
    dropped: Counter[str]
    """Samples left out, by reason: what a vehicle could not have used either."""


@dataclass(frozen=True)
class Rig:
    """The calibrated cameras of a bag."""

    cameras: tuple[Camera, ...]
    distorted: tuple[str, ...]
    """Of them, those whose pictures have lens distortion, which a Camera cannot have."""


def info_topic(image_topic: str) -> str:
    """Return where the calibration of an image topic is published, by ROS's convention."""
    base = image_topic.removesuffix('/compressed')
    return f"{base.rpartition('/')[0]}/camera_info"


def read_motion(bag: Bag, topic: str) -> Motion:
    """Read all odometry; raises DataError when there is none, or it is of two drives."""
    _check_topic(bag, topic, ODOMETRY_TYPE, 'without it nobody knows where the vehicle went: '
                 'record it, too, or name it with --set odometry_topic=...')
    rows: dict[int, tuple[float, ...]] = {}
    dropped: Counter[str] = Counter()
    frames: set[tuple[str, str]] = set()
    newest_ns = 0
    for message in bag.messages([topic]):
        odometry = bag.decode(message)
        stamp_ns = stamp_to_ns(odometry.header.stamp)
        row = _row(odometry)
        reason = _unusable(stamp_ns, row) or ('repeated_stamp' if stamp_ns in rows else '')
        if reason:
            dropped[reason] += 1
            continue
        if stamp_ns < newest_ns - _JUMP_NS:
            raise DataError(f'{bag.path}: the clock of {topic} goes back by '
                            f'{(newest_ns - stamp_ns) / 1e9:.1f} s: these are two drives, split '
                            'the bag there')
        newest_ns = max(newest_ns, stamp_ns)
        rows[stamp_ns] = row
        frames.add((odometry.header.frame_id.lstrip('/'), odometry.child_frame_id.lstrip('/')))
    if len(frames) != 1:
        raise DataError(f'{bag.path}: {topic} has no sample that can be used ({dict(dropped)})'
                        if not frames else f'{bag.path}: {topic} is of several frames '
                        f'({sorted(frames)}): split the bag where they change')
    ((frame_id, vehicle_frame),) = frames
    stamps_ns = sorted(rows)
    values = np.array([rows[stamp_ns] for stamp_ns in stamps_ns])
    track = EgoTrack(np.array(stamps_ns, dtype=np.int64), *np.split(values, (3, 7, 10), axis=1))
    return Motion(track, frame_id or 'map', vehicle_frame or VEHICLE_FRAME, dropped)


def read_rig(bag: Bag, image_topics: Mapping[str, str], vehicle_frame: str) -> Rig:
    """
    Return the cameras of {camera: image topic}, in that order.

    Raises DataError naming the topic on which a calibration or a transform is missing.
    """
    topics = {info_topic(topic): camera for camera, topic in image_topics.items()}
    for topic in topics:
        _check_topic(bag, topic, CAMERA_INFO_TYPE, 'pictures without calibration cannot be '
                     'placed: record it, too')
    infos: dict[str, Any] = {}
    for message in bag.messages(topics):
        infos.setdefault(topics[message.topic], bag.decode(message))
        if len(infos) == len(topics):
            break
    edges = _read_edges(bag, {_frame_of(info) for info in infos.values()}, vehicle_frame)
    return Rig(
        tuple(_camera(bag, camera, topic, infos[camera], edges, vehicle_frame)
              for camera, topic in image_topics.items()),
        tuple(camera for camera, topic in image_topics.items()
              if infos[camera].d.any() and not _is_rectified(topic, infos[camera])))


def _check_topic(bag: Bag, topic: str, kind: str, why: str) -> None:
    found = bag.topics.get(topic)
    if found is None or found.type != kind or not found.count:
        what = 'it is absent' if found is None else f'found {found.count} of {found.type}'
        raise DataError(f'{bag.path}: expected {topic} ({kind}), {what}; {why}')


def _row(odometry: Any) -> tuple[float, ...]:
    pose, twist = odometry.pose.pose, odometry.twist.twist
    position, turn = pose.position, pose.orientation
    return (position.x, position.y, position.z, *_unit((turn.x, turn.y, turn.z, turn.w)),
            twist.linear.x, twist.linear.y, twist.linear.z,
            twist.angular.x, twist.angular.y, twist.angular.z)


def _unusable(stamp_ns: int, row: tuple[float, ...]) -> str:
    """Return '' or why core/ego.py would refuse the sample, in its words."""
    if not all(map(math.isfinite, row)):
        return 'odometry_not_finite'
    if stamp_ns <= 0:
        return 'odometry_zero_stamp'
    return '' if abs(math.hypot(*row[3:7]) - 1.0) < 0.1 else 'odometry_bad_quaternion'


def _unit(q: Quaternion) -> Quaternion:
    """Return q, touched only where it is a little off: what is right keeps every bit."""
    norm = math.hypot(*q)
    return normalise(q) if 1e-6 < abs(norm - 1.0) < 0.1 else q


def _frame_of(info: Any) -> str:
    return info.header.frame_id.lstrip('/')


def _read_edges(bag: Bag, frames: set[str], vehicle_frame: str) -> _Edges:
    """Return {child: (parent, position_m, orientation_xyzw)} until all frames hang together."""
    edges: _Edges = {}
    for topic in (TF_STATIC_TOPIC, TF_TOPIC):
        if topic not in bag.topics or bag.topics[topic].type != TF_TYPE:
            continue
        for message in bag.messages([topic]):
            for transform in bag.decode(message).transforms:
                move, turn = transform.transform.translation, transform.transform.rotation
                edges.setdefault(transform.child_frame_id.lstrip('/'), (
                    transform.header.frame_id.lstrip('/'), (move.x, move.y, move.z),
                    _unit((turn.x, turn.y, turn.z, turn.w))))
            if all(_chain(edges, frame, vehicle_frame) for frame in frames):
                return edges
    return edges


def _chain(edges: _Edges, frame: str, vehicle_frame: str) -> list[str]:
    """Return the frames from ``frame`` up to below the vehicle's; empty where they do not meet."""
    chain: list[str] = []
    while frame != vehicle_frame:
        if frame not in edges or frame in chain:
            return []
        chain.append(frame)
        frame = edges[frame][0]
    return chain


def _is_rectified(image_topic: str, info: Any) -> bool:
    """Tell whether P describes the pictures: K and D are of the camera before rectification."""
    return 'rect' in image_topic and info.p[0] > 0.0


def _camera(bag: Bag, name: str, image_topic: str, info: Any, edges: _Edges,
            vehicle_frame: str) -> Camera:
    topic = info_topic(image_topic)
    if not (info.k[0] > 0.0 and info.width and info.height):
        raise DataError(f'{bag.path}: {topic} is not filled in (K starts with {info.k[0]:g}, '
                        f'{info.width}x{info.height} pixels): calibrate the camera')
    frame = _frame_of(info)
    chain = _chain(edges, frame, vehicle_frame)
    if not chain:
        there = [topic for topic in (TF_STATIC_TOPIC, TF_TOPIC) if topic in bag.topics]
        raise DataError(
            f"{bag.path}: no transform leads from {vehicle_frame} to '{frame}', the frame of "
            f'{topic}; expected it on {TF_STATIC_TOPIC} (or {TF_TOPIC}), the bag has '
            f"{' and '.join(there) or 'neither'}: record {TF_STATIC_TOPIC}, too")
    _, position_m, orientation_xyzw = edges[chain[0]]
    for link in chain[1:]:
        _, move, turn = edges[link]
        x, y, z = rotate(turn, position_m)
        position_m = (x + move[0], y + move[1], z + move[2])
        orientation_xyzw = multiply(turn, orientation_xyzw)
    # Converters fill in K and D = 0 and not always P and R, drivers leave D as it was.
    k = (info.p.reshape(3, 4)[:, :3] if info.d.any() and _is_rectified(image_topic, info)
         else info.k.reshape(3, 3))
    return Camera(name, int(info.width), int(info.height), np.array(k, dtype=np.float64),
                  position_m, orientation_xyzw)
