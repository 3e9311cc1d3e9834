# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The real simulator: same seed same drive, masks that fit the map, drivers that obey."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

pytest.importorskip('metadrive', reason="the simulator needs pip install 'fastdrive_ros[sim]'")
pytest.importorskip('pyarrow', reason="datasets need pip install 'fastdrive_ros[data]'")

from fastdrive_ros.core.classes import CLASSES  # noqa: E402
from fastdrive_ros.core.classes import class_ids  # noqa: E402
from fastdrive_ros.core.classes import foreground  # noqa: E402
from fastdrive_ros.core.types import NUSCENES_CAMERAS  # noqa: E402
from fastdrive_ros.data.lane_check import lane_points  # noqa: E402
from fastdrive_ros.data.records import SPLITS  # noqa: E402
from fastdrive_ros.sim.assets import SimError  # noqa: E402
from fastdrive_ros.sim.assets import assets_dir  # noqa: E402
from fastdrive_ros.sim.assets import check_egl  # noqa: E402
from fastdrive_ros.sim.drive import Drive  # noqa: E402
from fastdrive_ros.sim.drive import drive  # noqa: E402
from fastdrive_ros.sim.drive import seeds_of  # noqa: E402
from fastdrive_ros.sim.generate import shards_for  # noqa: E402
from fastdrive_ros.sim.world import World  # noqa: E402
from fastdrive_ros.sim.world import WorldSettings  # noqa: E402

SEED = 27  # a crossing with lights in clear weather, cars come near


@pytest.fixture(scope='module')
def world() -> Iterator[World]:
    """Return the one world of this process."""
    try:
        check_egl()
        assets_dir()
    except SimError as error:
        pytest.skip(str(error))
    world = World(WorldSettings(224, 126))
    yield world
    world.close()


@pytest.fixture(scope='module')
def recorded(world: World) -> Drive:
    """Return a drive with a crossing, recorded at 1 Hz."""
    return drive(world, SEED, 1.0)


def fingerprint(drive: Drive) -> str:
    digest = hashlib.sha256(drive.scene.ego.positions_m.tobytes())
    for frame in drive.frames:
        for picture in frame.pictures.values():
            digest.update(picture.jpeg + picture.mask_png)
        digest.update(frame.drivable_png + repr(frame.agents).encode())
    return digest.hexdigest()


def test_the_same_seed_is_the_same_drive_whatever_was_driven_before(world: World, recorded: Drive):
    world.reset(8)
    for _ in range(20):
        world.step()
    world.pictures()
    assert fingerprint(drive(world, SEED, 1.0)) == fingerprint(recorded)


def test_a_frame_has_six_pictures_with_masks_of_known_classes(recorded: Drive):
    frame = recorded.frames[0]
    assert set(frame.pictures) == set(NUSCENES_CAMERAS)
    seen = set()
    for picture in frame.pictures.values():
        rgb = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
        mask = cv2.imdecode(np.frombuffer(picture.mask_png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert rgb.shape == (126, 224, 3) and mask.shape == (126, 224) and mask.dtype == np.uint8
        assert rgb.std() > 10.0
        seen |= {CLASSES[i] for i in np.unique(mask)}
        assert 0.02 < foreground(mask).mean() < 0.95
    assert {'ROAD', 'LANE_LINE', 'TERRAIN', 'SKY', 'UNLABELED'} <= seen


def test_lane_centres_fall_on_the_road_of_the_masks(recorded: Drive):
    counts = np.sum([lane_points(recorded.scene, frame) for frame in recorded.frames], axis=0)
    _, bare, on_road = counts
    assert bare > 1000
    assert on_road / bare >= 0.98


def test_odometry_begins_before_and_ends_after_the_pictures(recorded: Drive):
    track, frames = recorded.scene.ego, recorded.frames
    assert frames[0].stamp_ns - track.stamps_ns[0] == 3_000_000_000
    if recorded.scene.outcome == 'recorded':
        assert track.stamps_ns[-1] - frames[-1].stamp_ns >= 2_900_000_000
    assert (np.diff([frame.stamp_ns for frame in frames]) == 1_000_000_000).all()


def test_odometry_agrees_with_itself(recorded: Drive):
    track = recorded.scene.ego
    yaw = 2.0 * np.arctan2(track.orientations_xyzw[:, 2], track.orientations_xyzw[:, 3])
    moved = np.diff(track.positions_m[:, :2], axis=0) / 0.1
    mean = (track.velocities_mps[1:] + track.velocities_mps[:-1]) / 2
    forward = moved[:, 0] * np.cos(yaw[1:]) + moved[:, 1] * np.sin(yaw[1:])
    assert np.abs(forward - mean[:, 0]).max() < 0.35
    # The rear axle does not slide: that is why base_link is there.
    assert np.abs(track.velocities_mps[:, 1]).max() < 0.6
    turned = np.diff(np.unwrap(yaw)) / 0.1
    rates = track.angular_velocities_radps[:, 2]
    assert np.abs(turned - (rates[1:] + rates[:-1]) / 2).max() < 0.12


def test_the_drivable_raster_has_the_vehicle_on_the_road(recorded: Drive):
    for frame in recorded.frames:
        raster = cv2.imdecode(np.frombuffer(frame.drivable_png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert raster.shape == (512, 512) and set(np.unique(raster)) == {0, 255}
        assert raster[250:257, 254:259].all()


def test_boxes_of_cars_lie_where_the_masks_show_cars(recorded: Drive):
    """A car close ahead, projected by its box's middle, is a car in the mask."""
    from fastdrive_ros.core.rig import project
    from fastdrive_ros.core.rotation import yaw_of
    from fastdrive_ros.data.ego import ego_pose_at

    hits = total = 0
    for frame in recorded.frames:
        position, orientation = ego_pose_at(recorded.scene, frame.stamp_ns)
        yaw = yaw_of(orientation)
        cars = [agent for agent in frame.agents if agent.kind in ('CAR', 'TRUCK')]
        if not cars:
            continue
        points = np.array([agent.position_m for agent in cars]) - position
        near = points[np.linalg.norm(points, axis=1) < 18.0]
        base = np.column_stack([near[:, 0] * math.cos(yaw) + near[:, 1] * math.sin(yaw),
                                near[:, 1] * math.cos(yaw) - near[:, 0] * math.sin(yaw),
                                near[:, 2]])
        for camera in recorded.scene.cameras:
            pixels, visible = project(camera, base)
            mask = cv2.imdecode(np.frombuffer(frame.pictures[camera.name].mask_png, np.uint8), 0)
            for u, v in pixels[visible].astype(int):
                total += 1
                hits += mask[v, u] in class_ids(('CAR', 'TRUCK'))
    assert total >= 3, 'choose another seed: no car came near'
    assert hits / total > 0.8


@pytest.mark.parametrize('seed', [3, 30])
def test_nobody_passes_a_red_light(world: World, seed: int):
    world.reset(seed)
    engine = world._env.engine
    assert world.conditions['lights'], 'choose another seed: no lights'
    before: dict[str, tuple[tuple[str, str], float]] = {}
    passed = waited = 0
    while not world.outcome and world.time_s < 45.0:
        world.step()
        for vehicle in (world._env.agent, *engine.traffic_manager.moving):
            path = engine.get_policy(vehicle.name).path()
            front_m = path.stop_m - vehicle.LENGTH / 2
            light = world._rules.light(path.road)
            road, last_m = before.get(vehicle.name, (path.road, -1.0))
            if road == path.road and last_m > 0.0 >= front_m and light != 'none':
                passed += 1
                assert light in ('green', 'yellow'), f'{vehicle.name} at {world.time_s} s'
            waited += light == 'red' and 0.0 < front_m < 4.0 and vehicle.speed < 0.3
            before[vehicle.name] = (path.road, front_m)
    assert passed and waited, 'choose another seed: nobody came to a light'


def test_a_drive_that_is_over_wants_a_reset(world: World):
    world.reset(5)
    world.outcome = 'arrived'
    with pytest.raises(SimError, match=r'the drive is over \(arrived\): reset the world first'):
        world.step()


def test_splits_share_no_seed_and_more_frames_never_mean_fewer_shards():
    seeds = [set(seeds_of(split, shard)) for split in SPLITS for shard in (0, 1, 50)]
    assert sum(map(len, seeds)) == len(set().union(*seeds)) == 9000
    counts = [shards_for(frames) for frames in (1, 200, 201, 600, 1000, 22_400)]
    assert counts[0] == counts[1] == {'train': 1, 'val': 0, 'test': 0}
    assert counts[4] == {'train': 3, 'val': 1, 'test': 1}
    assert counts[5] == {'train': 100, 'val': 6, 'test': 6}
    for fewer, more in zip(counts, counts[1:]):
        assert all(fewer[split] <= more[split] for split in SPLITS)


def test_a_rate_that_does_not_divide_ten_is_refused(world: World):
    with pytest.raises(ValueError, match='10 Hz divided by a whole number, not 3.0 Hz'):
        drive(world, 5, 3.0)
