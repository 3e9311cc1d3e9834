# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The simulated world as a vehicle on ROS 2: a seed -> six cameras, calibration, odometry, tf, clock.

Topics, types and frames are those of the default preset, made by the code that writes bags
(data/bag_messages.py). One thread steps, draws, waits until that is due, and publishes; another
lets /clock run meanwhile (sim_clock.py).
Run it: ``ros2 run fastdrive_ros sim_node``, `fastdrive sim`, or launch/sim.launch.py.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import typestore
from fastdrive_ros.config import ConfigError
from fastdrive_ros.data.bag_messages import CAMERA_INFO_TYPE
from fastdrive_ros.data.bag_messages import IMAGE_TYPE
from fastdrive_ros.data.bag_messages import ODOMETRY_TOPIC
from fastdrive_ros.data.bag_messages import TF_STATIC_TOPIC
from fastdrive_ros.data.bag_messages import TF_TOPIC
from fastdrive_ros.data.bag_messages import TF_TYPE
from fastdrive_ros.data.bag_messages import camera_info
from fastdrive_ros.data.bag_messages import camera_info_topic
from fastdrive_ros.data.bag_messages import compressed_image
from fastdrive_ros.data.bag_messages import ego_transform
from fastdrive_ros.data.bag_messages import image_topic
from fastdrive_ros.data.bag_messages import odometry
from fastdrive_ros.data.bag_messages import static_transforms
from fastdrive_ros.ros.messages import OK
from fastdrive_ros.ros.messages import WARN
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import make_status
from fastdrive_ros.ros.messages import ros_classes
from fastdrive_ros.ros.sim_clock import SimClock
from fastdrive_ros.ros.sim_settings import SimSettings
from fastdrive_ros.ros.sim_settings import declare_sim_settings
from fastdrive_ros.sim.assets import SimError
from fastdrive_ros.sim.assets import assets_dir
from fastdrive_ros.sim.assets import check_installed
from fastdrive_ros.sim.drive import EPOCH_NS
from fastdrive_ros.sim.drive import encode_jpeg
from fastdrive_ros.sim.pace import Pace
from fastdrive_ros.sim.world import STEP_S
from fastdrive_ros.sim.world import World
from fastdrive_ros.sim.world import WorldSettings

GAP_S = 5.0
"""
The clock between two drives: the vehicle is put elsewhere, which nobody must take for motion.

Above the second after which odometry counts as a new time, and above the history a planner reads.
"""
_STEP_NS = round(STEP_S * 1e9)
_STANDING_STEPS = 2     # the first odometry after a gap could be a glitch, two are believed
_SERVE_S = 0.02
_DIAGNOSTICS_PERIOD_S = 1.0
_LOG_EVERY_S = 5.0
_FRAME = 'map'
_HARDWARE_ID = 'fastdrive_ros/simulator'


@dataclass
class SimReport:
    """What has been driven so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """How the drives ended."""
    frames: int = 0
    """Six-camera sweeps published."""
    simulated_s: float = 0.0
    elapsed_s: float = 0.0
    """On the wall, resets included."""
    behind_s: float = 0.0
    """By how much the drives ended later than asked."""


def open_world(settings: SimSettings) -> World:
    """Start the simulator; raises SimError with what mends it."""
    check_installed()
    assets_dir()  # says at once what the first reset would miss
    return World(WorldSettings(settings.width, settings.height))


class SimNode(Node):
    """Drives seed after seed and publishes what a vehicle would."""

    def __init__(self, make_world: Callable[[SimSettings], World] = open_world,
                 **kwargs: Any) -> None:
        """Open the world and offer the topics; raises ConfigError, SimError."""
        super().__init__('simulator', automatically_declare_parameters_from_overrides=True,
                         **kwargs)
        self.settings = declare_sim_settings(self)
        self.report = SimReport()
        self.world = make_world(self.settings)
        self._pace = Pace(self.settings.speed)
        self._classes = ros_classes()
        self._types = typestore()
        self._serving = SingleThreadedExecutor(context=self.context)
        self._serving.add_node(self)
        self._now_ns = EPOCH_NS - round(GAP_S * 1e9)
        self._next_diagnostics_s = 0.0
        self._outputs: dict[str, Publisher] = {}
        for camera in self.world.cameras:
            self._offer(camera_info_topic(camera.name), CAMERA_INFO_TYPE)
            self._offer(image_topic(camera.name), IMAGE_TYPE)
        self._offer(ODOMETRY_TOPIC, ODOMETRY_TYPE)
        self._offer(TF_TOPIC, TF_TYPE)
        self._offer(TF_STATIC_TOPIC, TF_TYPE)
        self._diagnostics = self.create_publisher(
            self._classes.make('diagnostic_msgs/msg/DiagnosticArray'), '/diagnostics', 10)
        # The last one: whoever hears the clock knows of all the others, too (bag_player.py).
        self._sim_clock = SimClock(self, self.settings.speed)
        self.get_logger().info(f"publishing {', '.join(self._outputs)}, /clock")

    def drive(self) -> None:
        """Drive one seed after the other, until ``seconds`` have passed."""
        seed = self.settings.seed
        self._started_s = time.monotonic()
        self._send(TF_STATIC_TOPIC, static_transforms(EPOCH_NS, self.world.cameras))
        while self._left():
            self.world.reset(seed)
            conditions = ', '.join(f'{key} {value}'
                                   for key, value in self.world.conditions.items())
            self.get_logger().info(f'seed {seed}: {conditions}')
            self._drive_through()
            outcome = self.world.outcome or 'left'
            self.report.outcomes[outcome] += 1
            self.get_logger().info(f'seed {seed}: {outcome} after {self.world.time_s:.1f} s')
            seed += 1
        self._publish_diagnostics()

    def destroy_node(self) -> None:
        """Stop the simulator before the handles go."""
        self._sim_clock.close()
        self.world.close()
        self._serving.shutdown()
        super().destroy_node()

    # ---- one drive ---------------------------------------------------------------------------

    def _drive_through(self) -> None:
        begin_ns = self._now_ns + round(GAP_S * 1e9)
        self._pace.start(begin_ns / 1e9 - _STANDING_STEPS * STEP_S)
        # The vehicle stands where it begins; told twice, or its odometry would count as a glitch.
        for step in range(-_STANDING_STEPS, 0):
            self._publish(begin_ns + step * _STEP_NS, {})
        jpegs = self._draw()
        if self._pace.wait_s(begin_ns / 1e9) < 0.0:
            self._pace.start(begin_ns / 1e9)  # the first picture costs more, which is not counted
        self._publish(begin_ns, jpegs)
        step = 0
        while self._left() and not self.world.outcome:
            self._advance()
            self.report.simulated_s = round(self.report.simulated_s + STEP_S, 6)
            if self.world.outcome.startswith('crash'):
                return  # what the physics makes of the impact is no driving
            step += 1
            due = step % self.settings.steps_a_picture == 0
            self._publish(begin_ns + step * _STEP_NS, self._draw() if due else {})

    def _advance(self) -> None:
        """
        Let a tenth of a second pass, driven by the simulator's expert.

        THE SEAM for closing the loop, and the only place that knows who drives: a subscription to
        ~/input/trajectory (nav_msgs/Path in the map frame, the planner's ~/output/trajectory)
        would keep the newest path here, and hand it on as World.step(waypoints=...). It is served
        between two steps (_serve_until_due), so no lock is needed.
        """
        self.world.step()

    def _draw(self) -> dict[str, bytes]:
        return {name: encode_jpeg(shot.rgb) for name, shot in self.world.pictures().items()}

    def _publish(self, now_ns: int, jpegs: Mapping[str, bytes]) -> None:
        """Wait until simulated time is there, then publish how things are."""
        self._now_ns = now_ns
        self._serve_until_due()
        self._sim_clock.set(now_ns, now_ns + _STEP_NS)
        self._publish_motion()
        if jpegs:
            self._publish_pictures(jpegs)
        self._pace.reached(now_ns / 1e9)
        self.report.elapsed_s = time.monotonic() - self._started_s
        self.report.behind_s = self._pace.lost_s
        if time.monotonic() >= self._next_diagnostics_s:
            self._publish_diagnostics()

    def _serve_until_due(self) -> None:
        """Answer parameter services until the present step is due."""
        self._serving.spin_once(timeout_sec=0.0)
        while (left_s := self._pace.wait_s(self._now_ns / 1e9)) > 0.0:
            self._serving.spin_once(timeout_sec=min(left_s, _SERVE_S))

    def _left(self) -> bool:
        limit_s = self.settings.seconds
        return not limit_s or self.report.simulated_s < limit_s - STEP_S / 2

    # ---- messages ----------------------------------------------------------------------------

    def _offer(self, topic: str, type_name: str) -> None:
        package, _, short = type_name.split('/')
        try:
            message_class = getattr(importlib.import_module(f'{package}.msg'), short)
        except ModuleNotFoundError:
            self.get_logger().warning(f'{topic} is not published: {type_name} is not installed')
            return
        latched = topic == TF_STATIC_TOPIC
        self._outputs[topic] = self.create_publisher(message_class, topic, QoSProfile(
            depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
            else DurabilityPolicy.VOLATILE))

    def _send(self, topic: str, message: Any) -> None:
        """Publish a message of the `rosbags` classes as the bytes that a bag would hold."""
        if topic in self._outputs:
            self._outputs[topic].publish(
                bytes(self._types.serialize_cdr(message, message.__msgtype__)))

    def _publish_motion(self) -> None:
        ego = self.world.ego
        self._send(ODOMETRY_TOPIC, odometry(
            self._now_ns, _FRAME, ego.position_m, ego.orientation_xyzw, ego.velocity_mps,
            ego.angular_velocity_radps))
        self._send(TF_TOPIC, ego_transform(self._now_ns, _FRAME, ego.position_m,
                                           ego.orientation_xyzw))

    def _publish_pictures(self, jpegs: Mapping[str, bytes]) -> None:
        for camera in self.world.cameras:
            self._send(camera_info_topic(camera.name), camera_info(self._now_ns, camera))
            self._send(image_topic(camera.name), compressed_image(
                self._now_ns, camera.name, jpegs[camera.name]))
        self.report.frames += 1

    def _publish_diagnostics(self) -> None:
        self._next_diagnostics_s = time.monotonic() + _DIAGNOSTICS_PERIOD_S
        report = self.report
        if trouble := self._trouble():
            self.get_logger().warning(trouble, throttle_duration_sec=_LOG_EVERY_S)
        rendering = make_status(
            self._classes, 'simulator: rendering', WARN if trouble else OK, trouble or 'in time', {
                'real_time_factor': self._pace.factor, 'speed': self.settings.speed,
                'frame_rate': self._pace.factor * self.settings.rate_hz,
                'frames': report.frames, 'behind_s': report.behind_s}, _HARDWARE_ID)
        drive = make_status(
            self._classes, 'simulator: drive', OK, self.world.outcome or 'driving', {
                'seed': self.world.seed, 'time_s': self.world.time_s, **self.world.conditions,
                **{f'ended.{outcome}': count for outcome, count in report.outcomes.items()}},
            _HARDWARE_ID)
        self._diagnostics.publish(self._classes.make('diagnostic_msgs/msg/DiagnosticArray')(
            header=make_header(self._classes, self._now_ns, ''), status=[rendering, drive]))

    def _trouble(self) -> str:
        """Return what keeps listeners from a steady world; empty when nothing does."""
        if self.count_publishers('/clock') > 1:
            return ('somebody else publishes /clock, too: end the other simulator or bag, or give '
                    'this one another ROS_DOMAIN_ID')
        if self._pace.behind:
            return (f'this computer is too slow: simulated time runs at {self._pace.factor:.2f} '
                    f'of real time, asked were {self.settings.speed:g} ({self._pace.lost_s:.0f} s '
                    'behind by now). Ask for a lower rate_hz, smaller pictures or a lower speed')
        return ''


@contextmanager
def simulator(args: Sequence[str] = (), settings: Mapping[str, Any] | None = None,
              make_world: Callable[[SimSettings], World] = open_world) -> Iterator[SimNode]:
    """Give a SimNode in a DDS participant of its own; ``args`` as after --ros-args."""
    context = rclpy.Context()
    # Ctrl-C is Python's KeyboardInterrupt: rclpy's handler would end the context in mid-step.
    rclpy.init(args=[*args], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SimNode(make_world, context=context, parameter_overrides=[
            RosParameter(name, value=value) for name, value in (settings or {}).items()])
        try:
            yield node
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()


def main(args: Sequence[str] | None = None) -> int:
    """Drive until told to stop; exit code 2 means that something is missing or was refused."""
    # What Ctrl-C cleans up, a `kill` must clean up, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with simulator(sys.argv if args is None else args) as node:
            node.drive()
    except (ConfigError, SimError) as error:
        print(f'fastdrive_ros: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == '__main__':
    sys.exit(main())
