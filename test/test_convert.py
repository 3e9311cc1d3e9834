# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages of rclpy and of rosbags alike become the core's values, without a copy."""

from __future__ import annotations

import array
import sys
from types import ModuleType
from types import SimpleNamespace

import numpy as np
import pytest

from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import RawImage
from fastdrive_ros.ros import cv_bridge_fallback
from fastdrive_ros.ros.convert import byte_array
from fastdrive_ros.ros.convert import ns_to_stamp
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.convert import to_frame
from fastdrive_ros.ros.convert import to_odometry_sample

STAMP_NS = 1_532_402_927_612_460_000


def rclpy_classes():
    """Return how to make a message of ROS 2's own classes."""
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    from fastdrive_ros.ros.messages import ros_classes
    return ros_classes().make


def rosbags_classes():
    """Return how to make a message of the rosbags library's classes."""
    typesys = pytest.importorskip('rosbags.typesys')
    types = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE).types
    return lambda name: types[name]


@pytest.fixture(params=[rclpy_classes, rosbags_classes])
def make(request):
    return request.param()


def header(make, frame_id='CAM_FRONT'):
    stamp = ns_to_stamp(STAMP_NS, make('builtin_interfaces/msg/Time'))
    return make('std_msgs/msg/Header')(stamp=stamp, frame_id=frame_id)


def image_data(make, values):
    """The type that a subscription or a bag hands over."""
    values = np.asarray(values, np.uint8)
    return values if 'rosbags' in make('sensor_msgs/msg/Image').__module__ else byte_array(values)


def test_compressed_image(make):
    data = image_data(make, [255, 216, 255, 7])
    message = make('sensor_msgs/msg/CompressedImage')(
        header=header(make), format='jpeg', data=data)
    frame = to_frame(message, 'CAM_FRONT', 77)
    assert (frame.camera, frame.stamp_ns, frame.arrival_ns) == ('CAM_FRONT', STAMP_NS, 77)
    assert isinstance(frame.image, EncodedImage)
    assert frame.image.format == 'jpeg'
    assert frame.image.data.tolist() == [255, 216, 255, 7]
    assert frame.convert_ms > 0
    assert np.shares_memory(frame.image.data, np.frombuffer(message.data, np.uint8))


def test_raw_image(make):
    message = make('sensor_msgs/msg/Image')(
        header=header(make), height=2, width=1, encoding='bgr8', is_bigendian=0, step=4,
        data=image_data(make, range(8)))
    image = to_frame(message, 'CAM_FRONT', 0).image
    assert isinstance(image, RawImage)
    assert (image.encoding, image.height, image.width, image.step) == ('bgr8', 2, 1, 4)
    assert image.is_bigendian is False
    assert image.data.tolist() == list(range(8))
    assert np.shares_memory(image.data, np.frombuffer(message.data, np.uint8))


@pytest.mark.parametrize('data', [b'', array.array('B'), np.zeros(0, np.uint8), b'\x01\x02'])
def test_any_bytes_will_do(data):
    message = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0)),
                              format='jpeg', data=data)
    frame = to_frame(message, 'CAM_FRONT', 0)
    assert frame.stamp_ns == 0  # a zero stamp is the synchroniser's to refuse
    assert frame.image.data.tolist() == list(data)


def test_odometry(make):
    def xyz(name, x, y, z):
        return make(f'geometry_msgs/msg/{name}')(x=x, y=y, z=z)

    pose = make('geometry_msgs/msg/Pose')(
        position=xyz('Point', 1.0, 2.0, 3.0),
        orientation=make('geometry_msgs/msg/Quaternion')(x=0.0, y=0.0, z=0.6, w=0.8))
    twist = make('geometry_msgs/msg/Twist')(linear=xyz('Vector3', 9.1, -0.2, 0.3),
                                            angular=xyz('Vector3', 0.4, 0.5, 0.05))
    message = make('nav_msgs/msg/Odometry')(
        header=header(make, 'odom'), child_frame_id='base_link',
        pose=make('geometry_msgs/msg/PoseWithCovariance')(pose=pose, covariance=np.zeros(36)),
        twist=make('geometry_msgs/msg/TwistWithCovariance')(twist=twist, covariance=np.zeros(36)))
    sample = to_odometry_sample(message)
    assert (sample.stamp_ns, sample.frame_id) == (STAMP_NS, 'odom')
    assert sample.position_m == (1.0, 2.0, 3.0)
    assert sample.orientation_xyzw == (0.0, 0.0, 0.6, 0.8)
    assert (sample.velocity_x_mps, sample.velocity_y_mps) == (9.1, -0.2)
    assert sample.yaw_rate_radps == 0.05


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, 1_000_000_000, STAMP_NS])
def test_stamps_go_there_and_back(stamp_ns):
    stamp = ns_to_stamp(stamp_ns, SimpleNamespace)
    assert 0 <= stamp.nanosec < 10**9
    assert stamp_to_ns(stamp) == stamp_ns


def test_bytes_into_a_message():
    values = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    filled = byte_array(values[:, ::2])
    assert isinstance(filled, array.array)
    assert filled.typecode == 'B'
    assert filled.tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]


class StandInBridge:
    """Named stand-in for ROS 2's CvBridge: swaps a mono16 picture's bytes into grey."""

    def imgmsg_to_cv2(self, message, encoding):
        """Keep the high byte, as cv_bridge does."""
        assert encoding == 'rgb8'
        if message.encoding != 'mono16':
            raise TypeError(f'unrecognized image encoding {message.encoding}')
        high = np.frombuffer(message.data, '<u2').reshape(message.height, message.width) >> 8
        return np.repeat(high[..., None], 3, axis=-1).astype(np.uint8)


@pytest.fixture
def fresh_lookup():
    cv_bridge_fallback._cv_bridge.cache_clear()
    yield
    cv_bridge_fallback._cv_bridge.cache_clear()


@pytest.fixture
def stand_in_bridge(monkeypatch, fresh_lookup):
    for name in ('cv_bridge', 'cv_bridge.boost', 'cv_bridge.boost.cv_bridge_boost'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules['cv_bridge'].CvBridge = StandInBridge


def deep_image(encoding='mono16'):
    data = np.array([[0x1234, 0xFF00]], '<u2').tobytes()
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=5)),
                           encoding=encoding, height=1, width=2, step=4, is_bigendian=0, data=data)


def test_cv_bridge_takes_what_we_do_not_know(stand_in_bridge):
    frame = to_frame(deep_image(), 'CAM_FRONT', 0)
    image = frame.image
    assert (image.encoding, image.height, image.width, image.step) == ('rgb8', 1, 2, 6)
    assert image.data.tolist() == [0x12] * 3 + [0xFF] * 3


def test_what_cv_bridge_does_not_know_is_refused_by_name(stand_in_bridge):
    with pytest.raises(FrameError, match="'weird'.*unrecognized image encoding") as caught:
        to_frame(deep_image('weird'), 'CAM_FRONT', 0)
    assert caught.value.reason == 'unknown_encoding'


def test_without_cv_bridge_the_sentence_says_how_to_mend_it(monkeypatch, fresh_lookup):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(FrameError, match="'mono16' is not one of rgb8.*install ros-") as caught:
        to_frame(deep_image(), 'CAM_FRONT', 0)
    assert caught.value.reason == 'unknown_encoding'


def test_the_ros_1_build_of_cv_bridge_is_not_taken_for_the_real_one(monkeypatch, fresh_lookup):
    package = ModuleType('cv_bridge')
    package.__path__ = []
    monkeypatch.setitem(sys.modules, 'cv_bridge', package)
    with pytest.raises(FrameError, match=r'cv_bridge cannot help.*cv_bridge\.boost'):
        to_frame(deep_image(), 'CAM_FRONT', 0)
