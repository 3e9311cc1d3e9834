# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Records <-> Arrow tables: the columns of scenes.parquet and frames.parquet.

    SceneRecord <-> a table of one row; its FrameRecords <-> a table of one row each

Every value comes back as it went in: float64 bit for bit, pictures byte for byte. docs/dataset.md
lists the columns for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.data.records import Agent
from fastdrive_ros.data.records import EgoTrack
from fastdrive_ros.data.records import FrameRecord
from fastdrive_ros.data.records import Picture
from fastdrive_ros.data.records import SceneRecord


def _numbers(count: int) -> pa.DataType:
    return pa.list_(pa.float64(), count)


_CAMERA = pa.struct([
    ('name', pa.string()), ('width', pa.int32()), ('height', pa.int32()), ('k', _numbers(9)),
    ('position_m', _numbers(3)), ('orientation_xyzw', _numbers(4))])
_AGENT = pa.struct([
    ('id', pa.string()), ('kind', pa.string()), ('position_m', _numbers(3)),
    ('size_m', _numbers(3)), ('yaw_rad', pa.float64()), ('velocity_mps', _numbers(2))])
_AGENT_PARTS = tuple(part.name for part in _AGENT)
# EgoTrack's arrays and their columns; the stamps have a column of their own.
_EGO_WIDTHS = {'positions_m': 3, 'orientations_xyzw': 4, 'velocities_mps': 3,
               'angular_velocities_radps': 3}

SCENES = pa.schema([
    ('name', pa.string()), ('source', pa.string()), ('outcome', pa.string()),
    ('frame_id', pa.string()), ('seed', pa.int64()), ('conditions', pa.string()),
    ('num_frames', pa.int32()), ('cameras', pa.list_(_CAMERA)),
    ('lanes', pa.list_(pa.list_(_numbers(3)))), ('ego_stamps_ns', pa.list_(pa.int64())),
    *((f'ego_{name}', pa.list_(_numbers(width))) for name, width in _EGO_WIDTHS.items())])
_FRAMES = (
    ('scene', pa.string()), ('index', pa.int32()), ('stamp_ns', pa.int64()),
    ('command', pa.string()), ('traffic_light', pa.string()), ('drivable_png', pa.binary()),
    ('agents', pa.list_(_AGENT)))
_PICTURE = (('stamp_ns', pa.int64()), ('jpeg', pa.binary()), ('mask_png', pa.binary()))


def frames_schema(cameras: Sequence[str]) -> pa.Schema:
    """Return the columns of frames.parquet for these cameras."""
    return pa.schema([*_FRAMES, *((f'{camera}.{part}', kind)
                                  for camera in cameras for part, kind in _PICTURE)])


def frame_columns(cameras: Sequence[str], masks: bool) -> list[str]:
    """Return the names of the columns to read for some of the cameras."""
    parts = [part for part, _ in _PICTURE if masks or part != 'mask_png']
    return [*(name for name, _ in _FRAMES),
            *(f'{camera}.{part}' for camera in cameras for part in parts)]


def leaves(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Return {Parquet's path of a leaf column: its type}."""
    def below(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
        if pa.types.is_struct(kind):
            for child in kind:
                yield from below(f'{path}.{child.name}', child.type)
        elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
            yield from below(f'{path}.list.element', kind.value_type)
        else:
            yield path, kind

    return dict(leaf for column in schema for leaf in below(column.name, column.type))


def scene_to_table(scene: SceneRecord, num_frames: int) -> pa.Table:
    """Return the scene as one row."""
    ego = {f'ego_{name}': getattr(scene.ego, name).tolist() for name in _EGO_WIDTHS}
    row = {
        'name': scene.name, 'source': scene.source, 'outcome': scene.outcome,
        'frame_id': scene.frame_id, 'seed': scene.seed,
        'conditions': json.dumps(dict(scene.conditions), ensure_ascii=False, allow_nan=False),
        'num_frames': num_frames,
        'cameras': [_camera_row(camera) for camera in scene.cameras],
        'lanes': [lane.tolist() for lane in scene.lanes],
        'ego_stamps_ns': scene.ego.stamps_ns.tolist(), **ego}
    return pa.Table.from_pylist([row], schema=SCENES)


def scene_from_table(table: pa.Table) -> SceneRecord:
    """Return the scene of a table of one row."""
    row = table.select(['name', 'source', 'outcome', 'frame_id', 'seed', 'conditions', 'cameras',
                        'lanes']).to_pylist()[0]
    return SceneRecord(
        name=row['name'], source=row['source'], outcome=row['outcome'],
        cameras=tuple(_camera(camera) for camera in row['cameras']),
        ego=EgoTrack(np.array(table['ego_stamps_ns'][0].values, dtype=np.int64), *(
            _matrix(table[f'ego_{name}'][0], width) for name, width in _EGO_WIDTHS.items())),
        frame_id=row['frame_id'], seed=row['seed'], conditions=json.loads(row['conditions']),
        lanes=tuple(np.array(lane, dtype=np.float64).reshape(-1, 3) for lane in row['lanes']))


def frames_to_table(frames: Sequence[FrameRecord], cameras: Sequence[str]) -> pa.Table:
    """Return the frames as one row each."""
    rows = []
    for frame in frames:
        row: dict[str, Any] = {name: getattr(frame, name) for name, _ in _FRAMES}
        row['agents'] = [{name: getattr(agent, name) for name in _AGENT_PARTS}
                         for agent in frame.agents]
        for camera, picture in frame.pictures.items():
            row |= {f'{camera}.{part}': getattr(picture, part) for part, _ in _PICTURE}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=frames_schema(cameras))


def frames_from_table(table: pa.Table, cameras: Sequence[str]) -> list[FrameRecord]:
    """Return the frames; columns of cameras and masks that were not read are absent, or None."""
    return [_frame(row, cameras) for row in table.to_pylist()]


def _frame(row: Mapping[str, Any], cameras: Sequence[str]) -> FrameRecord:
    values = {name: row[name] for name, _ in _FRAMES}
    values['agents'] = tuple(_agent(agent) for agent in row['agents'])
    return FrameRecord(**values, pictures={
        camera: Picture(row[f'{camera}.stamp_ns'], row[f'{camera}.jpeg'],
                        row.get(f'{camera}.mask_png'))
        for camera in cameras if row[f'{camera}.jpeg'] is not None})


def _agent(row: Mapping[str, Any]) -> Agent:
    return Agent(row['id'], row['kind'], tuple(row['position_m']), tuple(row['size_m']),
                 row['yaw_rad'], tuple(row['velocity_mps']))


def _camera(row: Mapping[str, Any]) -> Camera:
    return Camera(row['name'], row['width'], row['height'],
                  np.array(row['k'], dtype=np.float64).reshape(3, 3), tuple(row['position_m']),
                  tuple(row['orientation_xyzw']))


def _camera_row(camera: Camera) -> dict[str, Any]:
    return {'name': camera.name, 'width': camera.width, 'height': camera.height,
            'k': camera.k.ravel().tolist(), 'position_m': camera.position_m,
            'orientation_xyzw': camera.orientation_xyzw}


def _matrix(rows: pa.ListScalar, width: int) -> np.ndarray:
    """Return float64 (M, width), a copy that may be written to."""
    return np.array(rows.values.flatten(), dtype=np.float64).reshape(-1, width)
