# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a dataset knows of a drive besides pictures, calibration and motion <-> topics of a bag.

    /dataset/scene                std_msgs/String, JSON, once and latched: of the drive
    /dataset/labels               std_msgs/String, JSON, of each frame, at its stamp
    /dataset/drivable/compressed  sensor_msgs/CompressedImage, png, of each frame
    /CAM_X/mask/compressed        sensor_msgs/CompressedImage, png of class ids, of each picture

A bag of nuScenes has the first alone: its split and licence go where the drive goes. Numbers in
JSON are written so that they are read back bit for bit; NaN is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import typestore
from fastdrive_ros.core.rotation import Vector
from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import SceneRecord

SCENE_TOPIC, LABELS_TOPIC = '/dataset/scene', '/dataset/labels'
DRIVABLE_TOPIC = '/dataset/drivable/compressed'
STRING_TYPE = 'std_msgs/msg/String'
_VERSION = 1


def mask_topic(camera: str) -> str:
    """Return the topic of a camera's masks."""
    return f'/{camera}/mask/compressed'


@dataclass(frozen=True)
class SceneLabels:
    """What SCENE_TOPIC says."""

    header: DatasetHeader
    """Of the dataset that the drive is from."""
    split: str
    num_frames: int
    name: str
    source: str
    outcome: str
    seed: int | None
    conditions: Mapping[str, Any]
    lanes: tuple[np.ndarray, ...]
    cameras: tuple[str, ...]
    """In the order of SceneRecord."""


@dataclass(frozen=True)
class FrameLabels:
    """What a message of LABELS_TOPIC says."""

    index: int
    stamp_ns: int
    picture_stamps_ns: Mapping[str, int]
    """By camera: which pictures make up the frame."""
    agents: tuple[Agent, ...]
    command: str
    traffic_light: str


def scene_message(header: DatasetHeader, split: str, scene: SceneRecord, num_frames: int) -> Any:
    """Return the message for SCENE_TOPIC."""
    return _message({
        'version': _VERSION, 'dataset': asdict(header), 'split': split, 'num_frames': num_frames,
        'name': scene.name, 'source': scene.source, 'outcome': scene.outcome, 'seed': scene.seed,
        'conditions': dict(scene.conditions), 'lanes': [lane.tolist() for lane in scene.lanes],
        'cameras': [camera.name for camera in scene.cameras]})


def labels_message(frame: FrameRecord) -> Any:
    """Return the message for LABELS_TOPIC."""
    return _message({
        'index': frame.index, 'stamp_ns': frame.stamp_ns,
        'pictures': {camera: picture.stamp_ns for camera, picture in frame.pictures.items()},
        'command': frame.command, 'traffic_light': frame.traffic_light,
        'agents': [asdict(agent) | {'velocity_mps': [
            None if math.isnan(speed) else speed for speed in agent.velocity_mps]}
            for agent in frame.agents]})


def read_scene_labels(bag: Bag) -> SceneLabels | None:
    """Return what SCENE_TOPIC says; None for a bag that is from no dataset; raises DataError."""
    for data in _strings(bag, SCENE_TOPIC):
        return _parsed(bag, SCENE_TOPIC, data, _scene_labels)
    return None


def read_frame_labels(bag: Bag) -> list[FrameLabels]:
    """Return what LABELS_TOPIC says, in order; raises DataError."""
    labels = [_parsed(bag, LABELS_TOPIC, data, _frame_labels)
              for data in _strings(bag, LABELS_TOPIC)]
    return sorted(labels, key=lambda frame: frame.index)


def _message(content: Mapping[str, Any]) -> Any:
    return typestore().types[STRING_TYPE](data=json.dumps(content, allow_nan=False))


def _strings(bag: Bag, topic: str) -> list[str]:
    if topic not in bag.topics or bag.topics[topic].type != STRING_TYPE:
        return []
    return [bag.decode(message).data for message in bag.messages([topic])]


def _parsed(bag: Bag, topic: str, data: str, parse: Callable[[Mapping[str, Any]], Any]) -> Any:
    try:
        return parse(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{bag.path}: {topic} is not what `fastdrive bag from-dataset` writes '
                        f'({type(error).__name__}: {error}): write the bag again, or filter '
                        'the topics /dataset/... out of it to use it as any other') from error


def _scene_labels(content: Mapping[str, Any]) -> SceneLabels:
    if content['version'] != _VERSION:
        raise ValueError(f"version {content['version']}, this fastdrive_ros reads {_VERSION}")
    header = content['dataset']
    return SceneLabels(
        header=DatasetHeader(**header | {'cameras': tuple(header['cameras'])}),
        lanes=tuple(np.array(lane, dtype=np.float64).reshape(-1, 3) for lane in content['lanes']),
        cameras=tuple(content['cameras']),
        **{name: content[name] for name in (
            'split', 'num_frames', 'name', 'source', 'outcome', 'seed', 'conditions')})


def _frame_labels(content: Mapping[str, Any]) -> FrameLabels:
    return FrameLabels(
        content['index'], content['stamp_ns'], content['pictures'],
        tuple(_agent(agent) for agent in content['agents']), content['command'],
        content['traffic_light'])


def _agent(content: Mapping[str, Any]) -> Agent:
    def vector(name: str) -> Vector:
        x, y, z = content[name]
        return x, y, z

    velocity_x, velocity_y = (math.nan if speed is None else speed
                              for speed in content['velocity_mps'])
    return Agent(content['id'], content['kind'], vector('position_m'), vector('size_m'),
                 content['yaw_rad'], (velocity_x, velocity_y))
