# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Tiny nuScenes folders: all 13 tables, samples/, sweeps/ and maps/ as in the official archives.

Stamps are nuScenes' own: cameras fire as the lidar sweeps past, 12 Hz from a 50 ms grid. Pictures
are small synthetic JPEGs, or links to the real ones of ../shared/data, which stay where they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import Any

import numpy as np
from make_inputs import make_jpeg

from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.types import NUSCENES_CAMERAS

SHARED = Path(__file__).resolve().parent.parent.parent / 'shared' / 'data'
WIDTH, HEIGHT = 96, 54
T0_US = 1_532_402_927_647_951
# Stamp of a sensor's keyframe minus the lidar's (scene-0061), microseconds.
OFFSETS_US = {
    'CAM_FRONT_LEFT': -43_107, 'CAM_FRONT': -35_491, 'CAM_FRONT_RIGHT': -27_612,
    'CAM_BACK_RIGHT': -20_058, 'CAM_BACK': -10_426, 'CAM_BACK_LEFT': -528,
    'LIDAR_TOP': 0, 'RADAR_FRONT': 7_300}
SLOT_US = 50_000
MINI = 'v1.0-mini'
SPEED_MPS, TURN_RADPS = 5.0, 0.25
# Where the tiny scenes begin, heading along x; the drivable area lies round it.
START_M = (400.0, 1100.0)
DRIVABLE_M = ((-30.0, -10.0), (30.0, -10.0), (30.0, 10.0), (-30.0, 10.0))
HOLE_M = ((10.0, 4.0), (12.0, 4.0), (12.0, 6.0), (10.0, 6.0))

CATEGORIES = (
    'human.pedestrian.adult', 'human.pedestrian.child', 'human.pedestrian.wheelchair',
    'human.pedestrian.stroller', 'human.pedestrian.personal_mobility',
    'human.pedestrian.police_officer', 'human.pedestrian.construction_worker', 'animal',
    'vehicle.car', 'vehicle.motorcycle', 'vehicle.bicycle', 'vehicle.bus.bendy',
    'vehicle.bus.rigid', 'vehicle.truck', 'vehicle.construction', 'vehicle.emergency.ambulance',
    'vehicle.emergency.police', 'vehicle.trailer', 'movable_object.barrier',
    'movable_object.trafficcone', 'movable_object.pushable_pullable', 'movable_object.debris',
    'static_object.bicycle_rack')
EXPANSION_LAYERS = ('polygon', 'line', 'node', 'drivable_area', 'road_segment', 'road_block',
                    'lane', 'ped_crossing', 'walkway', 'stop_line', 'carpark_area',
                    'road_divider', 'lane_divider', 'traffic_light', 'lane_connector')

Pose = Callable[[int], tuple[float, float, float]]
"""Stamp in microseconds -> x (m), y (m), yaw (rad) in the map."""


def arc(turn_radps: float) -> Pose:
    """Return the way of a car at SPEED_MPS from START_M on."""
    def pose(stamp_us: int) -> tuple[float, float, float]:
        yaw_rad = turn_radps * (stamp_us - T0_US) / 1e6
        radius_m = SPEED_MPS / turn_radps
        return (START_M[0] + radius_m * math.sin(yaw_rad),
                START_M[1] + radius_m * (1.0 - math.cos(yaw_rad)), yaw_rad)

    return pose


@dataclass(frozen=True)
class TinyScene:
    """What one scene of the folder is."""

    name: str
    pose: Pose
    location: str = 'singapore-onenorth'
    description: str = 'Parked truck, construction, intersection, turn left'
    log: str = 'n015-2018-07-24-11-22-45+0800'
    keyframes_us: Sequence[int] = tuple(T0_US + i * 500_000 for i in range(8))
    cameras: Sequence[Camera] = nuscenes_rig(WIDTH, HEIGHT)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    """Channel -> JPEG to link to in every sweep; generated where absent."""


TINY = (
    TinyScene('scene-0061', arc(TURN_RADPS)),
    TinyScene('scene-0103', arc(-TURN_RADPS), 'boston-seaport',
              'Night, rain, many peds right, wait for turning car',
              'n008-2018-08-01-15-16-36-0400'))

FIRST_FRONT = (f"samples/CAM_FRONT/{TINY[0].log}__CAM_FRONT__{T0_US + OFFSETS_US['CAM_FRONT']}"
               '.jpg')


def real_scene(shared: Path = SHARED, num_keyframes: int = 8) -> TinyScene:
    """
    Return scene-0061: its true stamps, poses and calibration, the pictures of its keyframe 0.

    There is only one keyframe with pictures, so all sweeps show the same.
    """
    drive = json.loads((shared / 'nuscenes_trajectories' / 'scene-0061.json').read_text())
    rig = json.loads((shared / 'nuscenes_calibration' / 'n015_2018-07_08.json').read_text())
    folder = shared / 'nuscenes_frames' / '01_scene0061_kf00'
    stamps_us = [row['stamps_us']['CAM_BACK_LEFT'] - OFFSETS_US['CAM_BACK_LEFT']
                 for row in drive['keyframes']]
    # Index 5k is keyframe k; before keyframe 0 it went as from the first sample to the second.
    keyframes = np.array([-1.0, *np.arange(len(drive['x'])) / 5.0])
    ways = [np.array([6 * way[0] - 5 * way[1], *way])
            for way in (drive['x'], drive['y'], np.unwrap(drive['yaw']))]

    def pose(stamp_us: int) -> tuple[float, float, float]:
        later = min(max(np.searchsorted(stamps_us, stamp_us), 1), len(stamps_us) - 1)
        start_us, end_us = stamps_us[later - 1], stamps_us[later]
        at = later - 1 + (stamp_us - start_us) / (end_us - start_us)
        return tuple(float(np.interp(at, keyframes, way)) for way in ways)

    cameras = []
    for name in NUSCENES_CAMERAS:
        row = rig['cams'][name]
        w, x, y, z = row['rotation_wxyz']
        cameras.append(Camera(name, 1600, 900, np.array(row['camera_intrinsic']),
                              tuple(row['translation']), (x, y, z, w)))
    return TinyScene('scene-0061', pose, keyframes_us=stamps_us[:num_keyframes], cameras=cameras,
                     pictures={name: folder / f'{name}.jpg' for name in NUSCENES_CAMERAS})


def make_nuscenes(root: Path, scenes: Sequence[TinyScene] = TINY, version: str = MINI,
                  annotated: bool = True, expansion: bool = True, can_bus: bool = False) -> Path:
    """Write a folder; returns it."""
    tables = _constant_tables()
    for scene in scenes:
        _add_scene(tables, root, scene, annotated)
    locations = sorted({scene.location for scene in scenes})
    (root / 'maps').mkdir(parents=True)
    for location in locations:
        file = f'maps/{token(location)}.png'
        (root / file).write_bytes(b'')  # read only when someone draws it
        tables['map'].append({
            'token': token('map', location), 'category': 'semantic_prior', 'filename': file,
            'log_tokens': [token('log', s.name) for s in scenes if s.location == location]})
        if expansion:
            _write(root / 'maps' / 'expansion' / f'{location}.json', _expansion())
    for name, rows in tables.items():
        _write(root / version / f'{name}.json', rows)
    if can_bus:
        for scene in scenes:
            _write(root / 'can_bus' / f'{scene.name}_pose.json', list(_can_bus(scene)))
    return root


def token(*parts: object) -> str:
    """Return 32 hex digits, the same for the same parts."""
    return hashlib.md5(repr(parts).encode()).hexdigest()


def slots(scene: TinyScene) -> Iterator[tuple[int, int | None]]:
    """Yield (lidar stamp, index of the keyframe or None) of every camera sweep: 12 Hz of 20 Hz."""
    first_us, last_us = scene.keyframes_us[0], scene.keyframes_us[-1]
    yield first_us - 2 * SLOT_US, None
    for i, (start_us, end_us) in enumerate(zip(scene.keyframes_us, scene.keyframes_us[1:])):
        grid = round((end_us - start_us) / SLOT_US)
        count = round(0.6 * grid)
        for j in range(count):
            yield start_us + grid * j // count * SLOT_US, None if j else i
    yield last_us, len(scene.keyframes_us) - 1
    yield last_us + 2 * SLOT_US, None


def _constant_tables() -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in (
        'instance', 'calibrated_sensor', 'ego_pose', 'log', 'scene', 'sample', 'sample_data',
        'sample_annotation', 'map')}
    tables['category'] = [{'token': token('category', name), 'name': name, 'description': ''}
                          for name in CATEGORIES]
    tables['attribute'] = [{'token': token('attribute', name), 'name': name, 'description': ''}
                           for name in ('vehicle.moving', 'pedestrian.standing')]
    tables['visibility'] = [{'token': str(i), 'level': level, 'description': ''} for i, level in
                            enumerate(('v0-40', 'v40-60', 'v60-80', 'v80-100'), start=1)]
    tables['sensor'] = [
        {'token': token('sensor', channel), 'channel': channel,
         'modality': {'C': 'camera', 'L': 'lidar', 'R': 'radar'}[channel[0]]}
        for channel in OFFSETS_US]
    return tables


def _add_scene(tables: dict[str, list[dict[str, Any]]], root: Path, scene: TinyScene,
               annotated: bool) -> None:
    keys = [token('sample', scene.name, i) for i in range(len(scene.keyframes_us))]
    tables['log'].append({
        'token': token('log', scene.name), 'logfile': scene.log, 'vehicle': scene.log[:4],
        'date_captured': '2018-07-24', 'location': scene.location})
    tables['scene'].append({
        'token': token('scene', scene.name), 'log_token': token('log', scene.name),
        'nbr_samples': len(keys), 'first_sample_token': keys[0], 'last_sample_token': keys[-1],
        'name': scene.name, 'description': scene.description})
    for i, stamp_us in enumerate(scene.keyframes_us):
        tables['sample'].append({
            'token': keys[i], 'timestamp': stamp_us, 'prev': keys[i - 1] if i else '',
            'next': (*keys, '')[i + 1], 'scene_token': token('scene', scene.name)})
    cameras = {camera.name: camera for camera in scene.cameras}
    for channel in OFFSETS_US:
        _add_sensor(tables, root, scene, channel, cameras.get(channel), keys)
    if annotated:
        _add_annotations(tables, scene, keys)


def _add_sensor(tables: dict[str, list[dict[str, Any]]], root: Path, scene: TinyScene,
                channel: str, camera: Camera | None, keys: list[str]) -> None:
    calibrated = token('calibrated', scene.name, channel)
    x, y, z, w = camera.orientation_xyzw if camera else (0.0, 0.0, 0.0, 1.0)
    tables['calibrated_sensor'].append({
        'token': calibrated, 'sensor_token': token('sensor', channel),
        'translation': list(camera.position_m) if camera else [0.94, 0.0, 1.84],
        'rotation': [w, x, y, z], 'camera_intrinsic': camera.k.tolist() if camera else []})
    sweeps = list(slots(scene))
    tokens = [token('data', scene.name, channel, i) for i in range(len(sweeps))]
    sample = 0
    for i, (lidar_us, key) in enumerate(sweeps):
        sample = sample if key is None else key
        stamp_us = lidar_us + OFFSETS_US[channel]
        place = 'sweeps' if key is None else 'samples'
        kind = 'jpg' if camera else 'pcd'
        file = f'{place}/{channel}/{scene.log}__{channel}__{stamp_us}.{kind}'
        x_m, y_m, yaw_rad = scene.pose(stamp_us)
        _, _, sine, cosine = from_yaw(yaw_rad)
        tables['ego_pose'].append({
            'token': tokens[i], 'timestamp': stamp_us, 'rotation': [cosine, 0.0, 0.0, sine],
            'translation': [x_m, y_m, 0.0]})
        tables['sample_data'].append({
            'token': tokens[i], 'sample_token': keys[sample], 'ego_pose_token': tokens[i],
            'calibrated_sensor_token': calibrated, 'timestamp': stamp_us, 'fileformat': kind,
            'is_key_frame': key is not None, 'height': camera.height if camera else 0,
            'width': camera.width if camera else 0, 'filename': file,
            'prev': tokens[i - 1] if i else '', 'next': (*tokens, '')[i + 1]})
        if camera:
            _put_picture(root / file, scene.pictures.get(channel), camera, stamp_us)


def _put_picture(path: Path, real: Path | None, camera: Camera, stamp_us: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if real:
        shutil.copyfile(real, path)  # a link would let the next picture be written through it
    else:
        path.write_bytes(make_jpeg(camera.height, camera.width, stamp_us % (1 << 31)).tobytes())


def _add_annotations(tables: dict[str, list[dict[str, Any]]], scene: TinyScene,
                     keys: list[str]) -> None:
    """A car that drives along x at 4 m/s, a barrier, and a pedestrian seen once."""
    start_us = scene.keyframes_us[0]
    x_m, y_m, _ = scene.pose(start_us)
    for name, category, moving_mps, size_wlh, seen in (
            ('car', 'vehicle.car', 4.0, [1.9, 4.5, 1.6], len(keys)),
            ('barrier', 'movable_object.barrier', 0.0, [2.0, 0.5, 1.0], len(keys)),
            ('walker', 'human.pedestrian.adult', 0.0, [0.6, 0.7, 1.8], 1)):
        instance = token('instance', scene.name, name)
        tokens = [token('annotation', scene.name, name, i) for i in range(seen)]
        tables['instance'].append({
            'token': instance, 'category_token': token('category', category),
            'nbr_annotations': seen, 'first_annotation_token': tokens[0],
            'last_annotation_token': tokens[-1]})
        for i in range(seen):
            elapsed_s = (scene.keyframes_us[i] - start_us) / 1e6
            tables['sample_annotation'].append({
                'token': tokens[i], 'sample_token': keys[i], 'instance_token': instance,
                'visibility_token': '4',
                'attribute_tokens': [token('attribute', 'vehicle.moving')],
                'translation': [x_m + 20.0 + moving_mps * elapsed_s, y_m + 3.0, 0.8],
                'size': size_wlh, 'rotation': [math.cos(0.05), 0.0, 0.0, math.sin(0.05)],
                'prev': tokens[i - 1] if i else '', 'next': (*tokens, '')[i + 1],
                'num_lidar_pts': 5, 'num_radar_pts': 1})


def _expansion() -> dict[str, Any]:
    rings = {name: [(START_M[0] + x, START_M[1] + y) for x, y in ring]
             for name, ring in (('outer', DRIVABLE_M), ('hole', HOLE_M))}
    nodes = {name: [token(name, i) for i in range(len(ring))] for name, ring in rings.items()}
    return {
        **{layer: [] for layer in EXPANSION_LAYERS}, 'version': '1.3', 'arcline_path_3': {},
        'connectivity': {}, 'canvas_edge': [2000.0, 2000.0],
        'node': [{'token': nodes[name][i], 'x': x, 'y': y}
                 for name, ring in rings.items() for i, (x, y) in enumerate(ring)],
        'polygon': [{'token': 'area', 'exterior_node_tokens': nodes['outer'],
                     'holes': [{'node_tokens': nodes['hole']}]}],
        'drivable_area': [{'token': 'drivable', 'polygon_tokens': ['area']}]}


def _can_bus(scene: TinyScene) -> Iterator[dict[str, Any]]:
    """50 Hz; its speed is told apart from the poses' by 0.5 m/s."""
    for stamp_us in range(scene.keyframes_us[0], scene.keyframes_us[-1] + 1, 20_000):
        x_m, y_m, yaw_rad = scene.pose(stamp_us)
        _, _, sine, cosine = from_yaw(yaw_rad)
        yield {'utime': stamp_us, 'pos': [x_m, y_m, 0.0], 'vel': [SPEED_MPS + 0.5, 0.0, 0.0],
               'orientation': [cosine, 0.0, 0.0, sine], 'rotation_rate': [0.0, 0.0, 0.2],
               'accel': [0.0, 0.0, 9.8]}


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
