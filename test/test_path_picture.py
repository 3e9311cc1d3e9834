# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The picture that proves calibration: the driven path on the ground, and what bags it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_scene
from make_drives import make_track
from make_inputs import T0_NS
from make_rigged_bags import RIG
from make_rigged_bags import TOPICS
from make_rigged_bags import Edit
from make_rigged_bags import without
from make_rigged_bags import write_rigged_bag

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import BagWriter
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.rotation import from_yaw
from fastdrive_ros.core.rotation import multiply
from fastdrive_ros.data import bag_messages
from fastdrive_ros.data.bag_rig import info_topic
from fastdrive_ros.data.bag_rig import read_motion
from fastdrive_ros.data.bag_rig import read_rig
from fastdrive_ros.data.driven_path import WIDTH_M
from fastdrive_ros.data.driven_path import corridor_px
from fastdrive_ros.data.driven_path import driven_path
from fastdrive_ros.data.driven_path import line_px
from fastdrive_ros.data.records import DataError
from fastdrive_ros.tools.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_BAG = REPOSITORY.parent / 'shared' / 'data' / 'bags' / 'scene0103_sixcam_lowres_2hz'
# The path on the ground.


def test_the_arc_from_above():
    scene, _ = make_scene(num_frames=3)
    path = driven_path(scene, T0_NS, 2.0)
    assert path.middle_m.shape == (21, 2)
    # A radius of 20 m, 0.25 rad/s: after 2 s half a radian round.
    np.testing.assert_allclose(path.middle_m[-1], [20 * np.sin(0.5), 20 * (1 - np.cos(0.5))],
                               atol=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(path.left_m - [0.0, 20.0], axis=1), 20.0 - WIDTH_M / 2, atol=1e-9)
    np.testing.assert_allclose(
        np.linalg.norm(path.right_m - [0.0, 20.0], axis=1), 20.0 + WIDTH_M / 2, atol=1e-9)
    assert path.length_m == pytest.approx(10.0, abs=1e-2)
    np.testing.assert_allclose(path.seconds_m, path.middle_m[[10, 20]])


def test_the_way_it_came_lies_behind_and_ends_with_the_odometry():
    scene, _ = make_scene(num_frames=3)
    path = driven_path(scene, T0_NS + 1_000_000_000, -3.0)
    assert len(path.middle_m) == 11                        # only one second is known
    np.testing.assert_allclose(path.middle_m[-1], [-20 * np.sin(0.25), 20 * (1 - np.cos(0.25))],
                               atol=1e-9)


def test_a_corridor_straight_ahead_in_pixels():
    camera = Camera('CAM_FRONT', 400, 200, np.array([(100, 0, 200), (0, 100, 100), (0, 0, 1.0)]),
                    (1.0, 0.0, 1.5), RIG[1].orientation_xyzw)
    ahead_m = np.array([(0.0, 0.0), (6.0, 0.0), (11.0, 0.0)])
    # 5 m before the camera, 1.5 m below it: 100 * 1.5 / 5 = 30 pixels down; at 10 m, 15.
    (first, last) = line_px(camera, ahead_m)
    np.testing.assert_allclose(last, [(200, 130), (200, 115)])
    # The first point is behind the camera: the line begins at the near plane, 0.3 m before it.
    np.testing.assert_allclose(first, [(200, 100 + 150 / 0.3), (200, 130)])


def test_what_is_behind_the_camera_is_not_drawn():
    scene, _ = make_scene(num_frames=3)
    front, back = RIG[1], RIG[4]
    assert corridor_px(back, driven_path(scene, T0_NS, 2.0)) == []
    edge = np.concatenate(corridor_px(front, driven_path(scene, T0_NS, 2.0)))
    assert np.isfinite(edge).all()
    # All of it is below the horizon, and the far end bends to the left of the middle.
    assert edge[:, 1].min() > HEIGHT / 2
    assert edge[edge[:, 1].argmin(), 0] < WIDTH / 2


# What a bag says of the rig.


def test_the_rig_and_the_track_come_back_bit_for_bit(tmp_path: Path):
    with Bag(write_rigged_bag(tmp_path / 'bag')) as bag:
        motion = read_motion(bag, '/odom')
        rig = read_rig(bag, TOPICS, motion.vehicle_frame)
    track = make_track(6.0)
    for name in ('stamps_ns', 'positions_m', 'orientations_xyzw', 'velocities_mps',
                 'angular_velocities_radps'):
        np.testing.assert_array_equal(getattr(motion.track, name), getattr(track, name))
    assert (motion.frame_id, motion.vehicle_frame) == ('map', 'base_link')
    for found, camera in zip(rig.cameras, RIG):
        assert (found.name, found.position_m, found.orientation_xyzw) == (
            camera.name, camera.position_m, camera.orientation_xyzw)
        np.testing.assert_array_equal(found.k, camera.k)
    assert rig.distorted == ()


def test_a_chain_of_frames_on_tf_is_followed(tmp_path: Path):
    """base_link -> kit (2 m ahead, turned left) -> CAM_FRONT (1 m ahead of the kit, 0.5 m up)."""
    left = from_yaw(np.pi / 2)
    kit = Camera('kit', 0, 0, np.eye(3), (2.0, 0.0, 1.0), left)
    on_kit = Camera('CAM_FRONT', 0, 0, np.eye(3), (1.0, 0.0, 0.5), RIG[1].orientation_xyzw)
    edges = bag_messages.static_transforms(T0_NS, (on_kit, kit))
    edges.transforms[0].header.frame_id = '/kit'           # tf1 had slashes
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write('/tf', bag_messages.TF_TYPE, T0_NS, bag_messages.ego_transform(
            T0_NS, 'map', (9.0, 9.0, 9.0), left))
        writer.write('/tf', bag_messages.TF_TYPE, T0_NS, edges)
        writer.write('/CAM_FRONT/camera_info', bag_messages.CAMERA_INFO_TYPE, T0_NS,
                     bag_messages.camera_info(T0_NS, RIG[1]))
    with Bag(tmp_path / 'bag') as bag:
        (camera,) = read_rig(bag, {'CAM_FRONT': TOPICS['CAM_FRONT']}, 'base_link').cameras
    np.testing.assert_allclose(camera.position_m, (2.0, 1.0, 1.5), atol=1e-12)
    np.testing.assert_allclose(camera.orientation_xyzw, multiply(left, RIG[1].orientation_xyzw))


def test_rectified_pictures_are_described_by_p_when_k_has_distortion(tmp_path: Path):
    def distort(topic: str, message: Any) -> Any:
        if topic == '/CAM_BACK/camera_info':
            message.d[0], message.p[0] = -0.2, 55.0
        return message

    with Bag(write_rigged_bag(tmp_path / 'bag', distort)) as bag:
        rig = read_rig(bag, TOPICS, 'base_link')
        assert rig.cameras[4].k[0, 0] == 55.0
        assert rig.distorted == ()
        # Pictures that are not rectified are K's, and have the distortion.
        assert info_topic('/CAM_BACK/image_raw/compressed') == '/CAM_BACK/camera_info'
        raw = read_rig(bag, {'CAM_BACK': '/CAM_BACK/image_raw'}, 'base_link')
    assert (raw.distorted, raw.cameras[0].k[0, 0]) == (('CAM_BACK',), RIG[4].k[0, 0])


@pytest.mark.parametrize(('edit', 'words'), [
    (without('/CAM_BACK/camera_info'),
     r'expected /CAM_BACK/camera_info \(sensor_msgs/msg/CameraInfo\), it is absent'),
    (without('/tf_static'),
     r"no transform leads from base_link to 'CAM_FRONT_LEFT'.*the bag has neither"),
    (without('/odom'), r'expected /odom \(nav_msgs/msg/Odometry\), it is absent'),
])
def test_what_a_bag_lacks_is_named(tmp_path: Path, edit: Edit, words: str,
                                   capsys: pytest.CaptureFixture[str]):
    path = write_rigged_bag(tmp_path / 'bag', edit)
    main(['inspect', str(path), '--picture', str(tmp_path / 'path.png')])
    captured = capsys.readouterr()
    assert 'preset nuscenes_mcap' in captured.out          # the table is printed all the same
    assert not (tmp_path / 'path.png').exists()
    assert re.search(words, captured.err)


def test_odometry_that_nobody_can_use_is_left_out_and_counted(tmp_path: Path):
    count = 0

    def spoil(topic: str, message: Any) -> Any:
        nonlocal count
        if topic == '/odom':
            count += 1
            if count == 3:
                message.pose.pose.position.x = float('nan')
            if count == 5:
                message.pose.pose.orientation.w = 0.0
            if count == 7:
                message.header.stamp.sec = message.header.stamp.nanosec = 0
        return message

    with Bag(write_rigged_bag(tmp_path / 'bag', spoil)) as bag:
        motion = read_motion(bag, '/odom')
    assert motion.dropped == {'odometry_not_finite': 1, 'odometry_bad_quaternion': 1,
                              'odometry_zero_stamp': 1}
    assert len(motion.track.stamps_ns) == 61 - 3


def test_two_drives_in_one_bag_are_refused(tmp_path: Path):
    def jump(topic: str, message: Any) -> Any:
        if topic == '/odom' and message.header.stamp.sec == T0_NS // 10**9 + 3:
            message.header.stamp.sec -= 60
        return message

    with Bag(write_rigged_bag(tmp_path / 'bag', jump)) as bag:
        with pytest.raises(DataError, match=r'the clock of /odom goes back by 5\d\.\d s'):
            read_motion(bag, '/odom')


# The picture.


def test_the_picture_of_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip('matplotlib', reason='pictures need the extra [viz]')
    path = tmp_path / 'new' / 'path.png'
    assert main(['inspect', str(write_rigged_bag(tmp_path / 'bag')), '--picture', str(path)]) == 0
    assert f'picture: {path}' in capsys.readouterr().err
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 1700
    assert picture.std() > 20.0


def test_a_path_is_drawn_where_the_ground_is():
    pytest.importorskip('matplotlib', reason='pictures need the extra [viz]')
    from fastdrive_ros.tools.path_picture import draw_path

    scene, _ = make_scene(num_frames=3)
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    ahead, behind = driven_path(scene, T0_NS, 3.0), driven_path(scene, T0_NS, -3.0)
    drawn = draw_path(grey, RIG[1], ahead, behind)
    assert drawn.shape == (384, 768, 3)
    coloured = np.ptp(drawn.astype(int), axis=2) > 10
    assert not coloured[:192].any()                        # nothing above the horizon
    orange = drawn[380, 384 - 60].astype(int)              # on the corridor, beside its middle
    assert orange[0] - orange[2] > 40
    assert (draw_path(grey, RIG[4], ahead, behind) == 128).all()


@pytest.mark.skipif(not REAL_BAG.is_dir(), reason=f'real data is not here: {REAL_BAG}')
def test_the_picture_of_a_real_drive(tmp_path: Path):
    pytest.importorskip('matplotlib', reason='pictures need the extra [viz]')
    assert main(['inspect', str(REAL_BAG), '--picture', str(tmp_path / 'path.png')]) == 0
    assert cv2.imread(str(tmp_path / 'path.png')).shape[1] == 1700
