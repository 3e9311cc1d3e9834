# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The simulated vehicle on real DDS: what it publishes, when, and what a planner makes of it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed (source one, or pip install .[ros])')

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from live_rig import value
from live_rig import wait_for
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import CompressedImage

from fastdrive_ros.config import ConfigError
from fastdrive_ros.core.rig import nuscenes_rig
from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.ros.bag_player import playing_node
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.plan_listener import PlanListener
from fastdrive_ros.ros.sim_node import GAP_S
from fastdrive_ros.ros.sim_node import SimNode
from fastdrive_ros.ros.sim_node import simulator
from fastdrive_ros.ros.sim_settings import SimSettings
from fastdrive_ros.ros.sim_settings import check_sim_settings
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.assets import assets_dir
from fastdrive_ros.sim.assets import check_egl
from fastdrive_ros.sim.assets import check_installed
from fastdrive_ros.sim.drive import EPOCH_NS
from fastdrive_ros.sim.world import STEP_S
from fastdrive_ros.tools.cli import main
from fastdrive_ros.tools.live import NodeProcess

ROOT = Path(__file__).resolve().parent.parent
STEP_NS = round(STEP_S * 1e9)
GAP_NS = round(GAP_S * 1e9)
SPEED_MPS = 5.0
SMALL = {'width': 112, 'height': 56}
_domains = itertools.count(os.getpid() % 100)


@pytest.fixture(autouse=True)
def private_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DDS domain for each test, on this computer only."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(next(_domains) % 100 + 1))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


class StandInWorld:
    """
    In place of sim.world.World, without MetaDrive: straight ahead along x, grey pictures.

    A drive of seed N begins at rest at x = 1000 N m, and ends as ``endings`` say.
    """

    def __init__(self, settings: SimSettings, steps: int, outcome: str, work_s: float) -> None:
        self.cameras = nuscenes_rig(settings.width, settings.height)
        self.conditions = {'roads': 'S'}
        self.closed = False
        self._ending = (steps, outcome)
        self._work_s = work_s

    def reset(self, seed: int) -> None:
        self.seed, self.time_s, self.outcome = seed, 0.0, ''

    def step(self) -> None:
        assert not self.outcome, 'the drive is over'
        time.sleep(self._work_s)
        self.time_s = round(self.time_s + STEP_S, 6)
        steps, outcome = self._ending
        self.outcome = outcome if self.time_s >= steps * STEP_S - 1e-9 else ''

    @property
    def ego(self) -> Any:
        moving = self.time_s > 0.0
        return SimpleNamespace(
            position_m=(1000.0 * self.seed + SPEED_MPS * self.time_s, 7.0, 0.0),
            orientation_xyzw=(0.0, 0.0, 0.0, 1.0), velocity_mps=(SPEED_MPS * moving, 0.0, 0.0),
            angular_velocity_radps=(0.0, 0.0, 0.0), yaw_rad=0.0)

    def pictures(self) -> dict[str, Any]:
        shape = (self.cameras[0].height, self.cameras[0].width)
        return {camera.name: SimpleNamespace(
            rgb=np.full((*shape, 3), 20 + 30 * index, np.uint8), mask=np.zeros(shape, np.uint8))
            for index, camera in enumerate(self.cameras)}

    def close(self) -> None:
        self.closed = True


def stand_in(steps: int = 1000, outcome: str = 'arrived', work_s: float = 0.0) -> (
        Callable[[SimSettings], StandInWorld]):
    return lambda settings: StandInWorld(settings, steps, outcome, work_s)


class Listener:
    """Keeps everything that the simulator says."""

    def __init__(self, node: Node) -> None:
        self.clock_ns: list[int] = []
        self.odometry: list[Odometry] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.images: dict[str, list[CompressedImage]] = {name: [] for name in NUSCENES_CAMERAS}
        self.infos: dict[str, list[CameraInfo]] = {name: [] for name in NUSCENES_CAMERAS}
        self.topics: list[str] = []
        self._node = node
        self._heard_s = 0.0
        self._subscribe(Clock, '/clock',
                        lambda message: self.clock_ns.append(stamp_to_ns(message.clock)))
        self._subscribe(Odometry, '/odom', self.odometry.append)
        self._subscribe(DiagnosticArray, '/diagnostics', self.diagnostics.append)
        for name in NUSCENES_CAMERAS:
            self._subscribe(CompressedImage, f'/{name}/image_rect_compressed',
                            self.images[name].append)
            self._subscribe(CameraInfo, f'/{name}/camera_info', self.infos[name].append)

    def _subscribe(self, message_class: Any, topic: str, callback: Callable[[Any], Any]) -> None:
        def on_message(message: Any) -> None:
            self._heard_s = time.monotonic()
            callback(message)

        self.topics.append(topic)
        self._node.create_subscription(message_class, topic, on_message, QoSProfile(depth=500))

    def matched(self, simulator_node: SimNode) -> bool:
        return all(simulator_node.count_subscribers(topic) and self._node.count_publishers(topic)
                   for topic in self.topics)

    def quiet(self) -> bool:
        """Nothing has come for a while."""
        return time.monotonic() - self._heard_s > 0.5

    def status(self, name: str) -> Any:
        return next(status for status in self.diagnostics[-1].status if status.name == name)


@contextmanager
def spinning(node: Node, executor: SingleThreadedExecutor) -> Iterator[None]:
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            executor.spin_once(timeout_sec=0.02)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def heard(make_world: Callable[[SimSettings], Any], **settings: Any) -> tuple[Listener, SimNode]:
    """Let a simulator drive to its end; return what was heard of it."""
    with playing_node() as (node, executor), simulator(
            settings={**SMALL, **settings}, make_world=make_world) as driving:
        listener = Listener(node)
        with spinning(node, executor):
            wait_for(lambda: listener.matched(driving), 'a match')
            driving.drive()
            wait_for(listener.quiet, 'silence')
    return listener, driving


def stamps(messages: list[Any]) -> list[int]:
    return [stamp_to_ns(message.header.stamp) for message in messages]


def test_six_cameras_odometry_and_clock_are_published():
    listener, driving = heard(stand_in(), seconds=1.0, speed=4.0, seed=3)
    expected = [EPOCH_NS + step * STEP_NS for step in range(11)]
    for index, name in enumerate(NUSCENES_CAMERAS):
        images, infos = listener.images[name], listener.infos[name]
        assert stamps(images) == stamps(infos) == expected
        assert {(image.header.frame_id, image.format) for image in images} == {(name, 'jpeg')}
        picture = cv2.imdecode(np.frombuffer(images[0].data, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (56, 112, 3)
        assert abs(picture.astype(int) - (20 + 30 * index)).max() <= 2
        assert infos[0].header.frame_id == name
        assert infos[0].k == pytest.approx(driving.world.cameras[index].k.reshape(-1))
        assert (infos[0].width, infos[0].height) == (112, 56)
    # Twice at rest before the first picture, then with every step.
    assert stamps(listener.odometry) == [EPOCH_NS - 2 * STEP_NS, EPOCH_NS - STEP_NS, *expected]
    last = listener.odometry[-1]
    assert (last.header.frame_id, last.child_frame_id) == ('map', 'base_link')
    assert last.pose.pose.position.x == pytest.approx(3005.0)
    assert last.pose.pose.position.y == pytest.approx(7.0)
    assert last.twist.twist.linear.x == pytest.approx(SPEED_MPS)
    assert driving.world.closed
    assert driving.report.frames == 11
    assert driving.report.simulated_s == 1.0
    assert driving.report.outcomes == {'left': 1}


def test_the_clock_never_goes_back_and_never_outruns_the_world():
    listener, _ = heard(stand_in(work_s=0.03), seconds=1.0, speed=2.0)
    clock_ns = listener.clock_ns
    assert clock_ns == sorted(clock_ns)
    assert set(stamps(listener.odometry)) <= set(clock_ns)
    assert len(clock_ns) > 20       # it runs between the steps, too
    assert clock_ns[-1] <= EPOCH_NS + 11 * STEP_NS


def test_pictures_may_be_rarer_than_odometry():
    listener, driving = heard(stand_in(), seconds=1.0, speed=5.0, rate_hz=2.5)
    assert stamps(listener.images['CAM_BACK']) == [
        EPOCH_NS + step * STEP_NS for step in (0, 4, 8)]
    assert len(listener.odometry) == 13
    assert driving.report.frames == 3


def test_the_next_seed_follows_and_the_clock_goes_on_after_a_gap():
    listener, driving = heard(stand_in(steps=3), seconds=0.7, speed=5.0, seed=8)
    first = [EPOCH_NS + step * STEP_NS for step in range(4)]
    second = [stamp_ns + 3 * STEP_NS + GAP_NS for stamp_ns in first]
    third = [second[-1] + GAP_NS, second[-1] + GAP_NS + STEP_NS]
    assert stamps(listener.images['CAM_FRONT']) == [*first, *second, *third]
    assert listener.clock_ns == sorted(listener.clock_ns)
    begins = [message.pose.pose.position.x for message in listener.odometry
              if message.twist.twist.linear.x == 0.0]
    assert begins == [8000.0] * 3 + [9000.0] * 3 + [10000.0] * 3
    assert driving.report.outcomes == {'arrived': 2, 'left': 1}
    status = listener.status('simulator: drive')
    assert value(status, 'seed') == '10'
    assert value(status, 'ended.arrived') == '2'
    assert value(status, 'roads') == 'S'


def test_an_impact_is_not_shown():
    listener, driving = heard(stand_in(steps=3, outcome='crash_vehicle'), seconds=0.5, speed=5.0)
    first = [EPOCH_NS + step * STEP_NS for step in range(3)]
    assert stamps(listener.images['CAM_FRONT']) == [
        *first, *(stamp_ns + 2 * STEP_NS + GAP_NS for stamp_ns in first)]
    assert driving.report.outcomes == {'crash_vehicle': 1, 'left': 1}


def test_falling_behind_is_counted_and_said():
    listener, driving = heard(stand_in(work_s=0.02), seconds=3.0, speed=50.0)
    status = listener.status('simulator: rendering')
    assert status.level == b'\x01'
    assert 'this computer is too slow: simulated time runs at ' in status.message
    assert float(value(status, 'real_time_factor')) < 10.0
    assert float(value(status, 'speed')) == 50.0
    assert driving.report.behind_s > 0.3
    assert len(listener.images['CAM_FRONT']) == 31      # slow, but nothing is left out


def test_another_clock_is_noticed():
    with playing_node() as (node, executor):
        other = node.create_publisher(Clock, '/clock', 10)
        with simulator(settings={**SMALL, 'seconds': 0.3}, make_world=stand_in()) as driving:
            listener = Listener(node)
            with spinning(node, executor):
                wait_for(lambda: listener.matched(driving)
                         and driving.count_publishers('/clock') == 2, 'a match')
                driving.drive()
                wait_for(lambda: listener.diagnostics, 'diagnostics')
        node.destroy_publisher(other)
    status = listener.status('simulator: rendering')
    assert status.level == b'\x01'
    assert status.message.startswith('somebody else publishes /clock, too')


def test_tf_tree():
    tf2 = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not installed (see ROS 2)')
    moved, fixed = [], []
    with playing_node() as (node, executor), simulator(
            settings={**SMALL, 'seconds': 0.2}, make_world=stand_in()) as driving:
        node.create_subscription(tf2.TFMessage, '/tf', moved.append, 50)
        with spinning(node, executor):
            wait_for(lambda: driving.count_subscribers('/tf') and node.count_publishers('/tf'),
                     'a match')
            driving.drive()
            # Latched: who comes late gets it, too.
            node.create_subscription(tf2.TFMessage, '/tf_static', fixed.append, QoSProfile(
                depth=1, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL))
            wait_for(lambda: fixed and len(moved) == 5, 'the transforms')
    assert {each.child_frame_id for each in fixed[0].transforms} == set(NUSCENES_CAMERAS)
    assert (moved[-1].transforms[0].header.frame_id,
            moved[-1].transforms[0].child_frame_id) == ('map', 'base_link')


def test_the_planner_plans_through_three_drives(tiny_bundle: Bundle):
    with playing_node() as (node, executor), NodeProcess({
            'bundle': str(tiny_bundle.path), 'backend': 'onnxruntime', 'num_threads': 1,
            'max_frame_age_ms': 5000.0}) as planner, simulator(
            settings={**SMALL, 'seconds': 4.5, 'speed': 1.0}, make_world=stand_in(15)) as driving:
        listener = PlanListener(node, '/fastdrive')
        topics = ['/clock', '/odom', *(f'/{name}/image_rect_compressed'
                                       for name in NUSCENES_CAMERAS)]
        with spinning(node, executor):
            wait_for(lambda: planner.check() or not listener.unheard() and all(
                driving.count_subscribers(topic) for topic in topics), 'the planner', 60.0)
            driving.drive()
            wait_for(lambda: listener.cycles and listener.cycles[-1].stamp_ns
                     > EPOCH_NS + 2 * GAP_NS + 3 * 13 * STEP_NS, 'the last cycles')
    assert [cycle.message for cycle in listener.cycles if cycle.refusal] == []
    begin_ns = [EPOCH_NS + drive * (GAP_NS + 15 * STEP_NS) for drive in range(3)]
    for drive, begin in enumerate(begin_ns):
        plans = [plan for plan in listener.plans if begin <= plan.stamp_ns <= begin + 15 * STEP_NS]
        assert len(plans) >= 10     # a busy computer may supersede some
        for plan in plans:
            x_m = 1000.0 * drive + SPEED_MPS * (plan.stamp_ns - begin) / 1e9
            assert np.hypot(*(plan.positions_m[0] - (x_m, 7.0))) < 10.0
    assert all(cycle.values['missing_cameras'] == '' for cycle in listener.cycles)


@pytest.mark.parametrize(('given', 'match'), [
    ({'rate_hz': 3.0}, "'rate_hz' must be 10 divided by a whole number .*found 3"),
    ({'speed': -1.0}, "'speed' must be within 0 .. 100, found -1"),
    ({'seed': 1.5}, "'seed' must be a int, found 1.5"),
    ({'width': 20}, "'width' must be within 64 .. 1600, found 20"),
    ({'sped': 2.0}, 'no parameter sped; it has seed, speed, '),
])
def test_wrong_settings_are_refused(given: dict[str, Any], match: str):
    with pytest.raises(ConfigError, match=match):
        check_sim_settings(given)


def test_whole_numbers_will_do():
    assert check_sim_settings({'speed': 2, 'rate_hz': 5}) == SimSettings(
        0, 2.0, 5.0, 0.0, 448, 252)


def test_parameters_can_be_given_as_ros_gives_them_and_read_back():
    arguments = ['--ros-args', '-p', 'seed:=4', '-p', 'speed:=2', '-p', 'width:=112', '-p',
                 'height:=56']
    with simulator(arguments, make_world=stand_in()) as node:
        assert (node.settings.seed, node.settings.speed) == (4, 2.0)
        assert node.get_parameter('seed').value == 4
        assert node.get_parameter('rate_hz').value == 10.0


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number: signal.Signals):
    code = ('import functools; import test_sim_node; from fastdrive_ros.ros import sim_node; '
            'sim_node.simulator = functools.partial(sim_node.simulator, '
            'make_world=test_sim_node.stand_in()); import sys; '
            'sys.exit(sim_node.main(["sim_node"]))')
    process = subprocess.Popen(
        [sys.executable, '-u', '-c', code], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'test')])})
    lines = []
    for line in process.stderr:
        lines.append(line)
        if 'seed 0: roads S' in line:
            break
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == 0, ''.join(lines) + rest
    assert 'Traceback' not in rest


def test_without_the_models_it_says_what_to_do(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert main(['sim', '--seconds', '1']) == 2
    error = capsys.readouterr().err
    assert 'run `fastdrive data assets`, once' in error or "'fastdrive_ros[sim]'" in error


def test_the_real_world_drives(capsys: pytest.CaptureFixture[str]):
    try:
        check_installed()
        assets_dir()
        check_egl()
    except SimError as error:
        pytest.skip(str(error))
    # One world a process: MetaDrive's engine is a singleton.
    run = subprocess.run(
        [sys.executable, '-m', 'fastdrive_ros.tools.cli', 'sim', '--seconds', '1', '--speed', '0',
         '--size', '112x56', '--seed', '2'], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report['frames'] == 11
    assert report['simulated_s'] == 1.0
    assert report['outcomes'] == {'left': 1}
    assert 'seed 2: roads ' in run.stderr
