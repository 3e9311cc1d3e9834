# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The live node over real DDS: message in, message out, and every refusal in words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='ROS 2 (rclpy) is not installed')

from live_rig import LiveRig  # noqa: E402
from live_rig import value  # noqa: E402
from live_rig import wait_for  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from fastdrive_ros.config import ConfigError  # noqa: E402
from fastdrive_ros.runtime.bundle import Bundle  # noqa: E402

ERROR, WARN, OK, STALE = b'\x02', b'\x01', b'\x00', b'\x03'


@pytest.fixture
def live(tiny_bundle: Bundle) -> Iterator[LiveRig]:
    with LiveRig(bundle=str(tiny_bundle.path)) as rig:
        yield rig.start()


def test_six_cameras_in_a_trajectory_out(live: LiveRig) -> None:
    cycle = live.next_cycle()
    plan = wait_for(lambda: live.plans and live.plans[-1], 'a trajectory')
    status = cycle.status[0]
    assert status.message == 'plan published' and status.level == OK
    assert plan.header.frame_id == 'map' and len(plan.poses) == 6
    assert plan.header.stamp == cycle.header.stamp  # the sweep's stamp, not now
    assert plan.poses[0].pose.position.x == pytest.approx(102.5, abs=0.3)
    assert value(status, 'kept_tokens') == '24' and value(status, 'total_tokens') == '48'
    assert value(status, 'pruner') == 'recon'
    assert sum(int(pair.value) for pair in status.values
               if pair.key.startswith('kept_tokens.CAM_')) == 24
    for stage in ('convert', 'sync', 'decode', 'preprocess', 'encode', 'prune', 'plan', 'prefill',
                  'postprocess', 'publish', 'end_to_end'):
        assert float(value(status, f'{stage}_ms')) >= 0.0
    assert wait_for(lambda: live.status('planning') and live.status('planning').level == OK,
                    'a good planning status')
    assert value(live.status('inference_status'), 'backend').startswith('onnxruntime')
    assert value(live.status('inference_status'), 'pruner') == 'recon'


def test_a_camera_dead_from_the_start_is_declared(live: LiveRig) -> None:
    cycle = live.next_cycle(missing=('CAM_BACK',))
    assert cycle.status[0].level == WARN
    assert cycle.status[0].message == 'plan published without CAM_BACK'
    status = wait_for(lambda: live.status('cameras/CAM_BACK'), "the camera's status")
    assert status.level == ERROR and status.message == 'NotReceived'


def test_a_camera_that_dies_mid_run_is_declared_and_counted_as_silent(live: LiveRig) -> None:
    assert live.next_cycle().status[0].message == 'plan published'
    assert 'without CAM_FRONT' in live.next_cycle(missing=('CAM_FRONT',)).status[0].message
    wait_for(lambda: live.status('cameras/CAM_FRONT').message == 'Timeout', 'the time-out')


def test_a_corrupt_jpeg_is_skipped_counted_and_reported(live: LiveRig) -> None:
    cycle = live.next_cycle(broken=('CAM_FRONT_LEFT',))
    assert cycle.status[0].message == 'plan published without CAM_FRONT_LEFT'
    assert 'corrupt_jpeg' in value(cycle.status[0], 'frame_error.CAM_FRONT_LEFT')
    status = wait_for(lambda: (s := live.status('cameras/CAM_FRONT_LEFT')) and any(
        pair.key == 'dropped.corrupt_jpeg' for pair in s.values) and s, 'the drop count')
    assert int(value(status, 'dropped.corrupt_jpeg')) >= 1


def test_old_pictures_publish_nothing_and_say_use_sim_time(live: LiveRig) -> None:
    cycle = live.next_cycle(stamp_ns=1_533_151_603_512_404_000)  # 2018
    assert cycle.status[0].level == ERROR
    assert 'set use_sim_time' in cycle.status[0].message
    assert not live.plans


def test_no_odometry_is_said_and_nothing_is_published(live: LiveRig) -> None:
    live.send_odometry = lambda *args: None
    cycle = live.next_cycle()
    assert cycle.status[0].message.startswith('odometry_absent')
    assert not live.plans


def test_silence_is_explained(live: LiveRig) -> None:
    status = wait_for(lambda: live.status('planning'), 'the planning status')
    assert status.level == ERROR
    assert 'no camera sends anything' in status.message
    assert '/CAM_FRONT/image_rect_compressed' in status.message


def test_a_camera_with_another_clock_is_named(live: LiveRig) -> None:
    for _ in range(15):
        stamp_ns = live.now_ns()
        live.send_odometry(stamp_ns)
        for camera in live.cameras:
            live.send_image(camera, stamp_ns + (3 * 10**9 if camera == 'CAM_BACK' else 0))
        time.sleep(0.05)  # a rig's rate; nothing is waited for here
    wait_for(lambda: 'CAM_BACK by +' in live.status('planning').message, 'the complaint')
    assert not live.plans


def set_parameter(live: LiveRig, name: str, new: Any) -> Any:
    client = live.rig.create_client(SetParameters, '/fastdrive/set_parameters')
    assert client.wait_for_service(timeout_sec=10)
    future = client.call_async(SetParameters.Request(
        parameters=[Parameter(name, value=new).to_parameter_msg()]))
    return wait_for(future.result, 'the parameter service').results[0]


def test_the_keep_ratio_changes_live(live: LiveRig) -> None:
    assert set_parameter(live, 'keep_ratio', 0.25).successful
    assert value(live.next_cycle().status[0], 'kept_tokens') == '12'


def test_the_camera_floor_changes_live(live: LiveRig) -> None:
    assert set_parameter(live, 'camera_floor', 1.0).successful
    status = live.next_cycle().status[0]
    assert {pair.value for pair in status.values if pair.key.startswith('kept_tokens.CAM_')} == {
        '4'}


def test_bad_parameter_values_are_refused_with_a_reason(live: LiveRig) -> None:
    for name, new, words in (('keep_ratio', 1.5, 'keep_ratio'),
                             ('backend', 'tensorrt', 'deactivate and clean up'),
                             ('pruner', 'random', 'deactivate and clean up'),
                             ('sync.required_cameras', ['CAM_ROOF'], 'CAM_ROOF')):
        result = set_parameter(live, name, new)
        assert not result.successful and words in result.reason
    assert live.next_cycle().status[0].message == 'plan published'


def test_unknown_and_bad_parameters_refuse_to_start(tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'keep_ration'; did you mean"):
        LiveRig(keep_ration=0.5)
    with pytest.raises(ConfigError, match="'keep_ratio' must be within 0.01 .. 1, found 2.0"):
        LiveRig(keep_ratio=2)
    with pytest.raises(ConfigError, match="'backend' must be one of auto"):
        LiveRig(backend='cuda')


def test_no_bundle_refuses_to_configure_and_keeps_saying_why(tmp_path: Any) -> None:
    with LiveRig(bundle=str(tmp_path / 'nowhere')) as rig:
        assert rig.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        rig.spin()
        status = wait_for(lambda: (s := rig.status('inference_status')) and s.level == ERROR and s,
                          'the error')
        assert 'nowhere' in status.message and 'fastdrive export' in status.message


def test_the_lifecycle_goes_round_twice_and_leaves_nothing_behind(live: LiveRig) -> None:
    node = live.node
    live.next_cycle()
    for _ in range(2):
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        wait_for(lambda: not [name for name, _ in node.get_publisher_names_and_types_by_node(
            'fastdrive', '/') if 'output' in name or 'debug' in name], 'the end of the outputs')
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        live.wait_matched()
        live.cycles.clear()
        assert live.next_cycle().status[0].message == 'plan published'


def test_a_bag_loop_in_sim_time_starts_afresh(tiny_bundle: Bundle) -> None:
    with LiveRig(bundle=str(tiny_bundle.path), use_sim_time=True) as rig:
        rig.start()

        def tick(stamp_ns: int) -> None:
            rig.clock.publish(make_clock(stamp_ns))

        start_ns = 1_700_000_000_000_000_000
        for loop in range(2):
            wait_for(lambda: tick(start_ns) or (
                rig.node.get_clock().now().nanoseconds == start_ns), 'the clock')
            for i in range(1, 60):
                stamp_ns = start_ns + i * 100_000_000
                tick(stamp_ns)
                rig.next_cycle(stamp_ns=stamp_ns)
                if rig.cycles[-1].status[0].message == 'plan published' and i > 20:
                    break
            assert rig.cycles[-1].status[0].message == 'plan published', f'loop {loop}'
            rig.cycles.clear()


def make_clock(stamp_ns: int) -> Any:
    from rosgraph_msgs.msg import Clock
    message = Clock()
    message.clock.sec, message.clock.nanosec = divmod(stamp_ns, 10**9)
    return message


def test_a_topic_of_another_type_is_named(tiny_bundle: Bundle) -> None:
    with LiveRig(bundle=str(tiny_bundle.path), image_transport='raw') as rig:
        rig.node.autostart()
        rig.spin()
        status = wait_for(
            lambda: (s := rig.status('cameras/CAM_FRONT')) and 'has type' in s.message and s,
            'the type complaint')
        assert 'sensor_msgs/msg/CompressedImage, expected sensor_msgs/msg/Image' in status.message
