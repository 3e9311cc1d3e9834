# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A live PlannerNode over real DDS in a domain of its own, and a rig of cameras in front of it."""

from __future__ import annotations

import array
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from make_inputs import make_jpeg
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMessage
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import ros_classes
from fastdrive_ros.ros.node import PlannerNode

TIMEOUT_S = 20.0
_domains = itertools.count(os.getpid() % 90 + 10)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the condition's first true value; fail naming what never came."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f'{what} did not come within {timeout_s:.0f} s')


class LiveRig:
    """Node, cameras, odometry and listeners; use as a context manager."""

    def __init__(self, **settings: Any) -> None:
        """Make the node with these parameters (not yet configured)."""
        # Two participants, as two processes would have: one cannot hold a topic in two types.
        self._contexts = [rclpy.Context(), rclpy.Context()]
        domain_id = next(_domains) % 100 + 1
        for context in self._contexts:
            rclpy.init(context=context, domain_id=domain_id)
        self._classes = ros_classes()
        self.node: PlannerNode | None = None
        self.rig = rclpy.create_node('rig', context=self._contexts[0])
        self.plans: list[PathMessage] = []
        self.cycles: list[DiagnosticArray] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.cameras = {
            name: self.rig.create_publisher(CompressedImage, f'/{name}/image_rect_compressed', 10)
            for name in NUSCENES_CAMERAS}
        self.odometry = self.rig.create_publisher(Odometry, '/odom', 10)
        self.clock = self.rig.create_publisher(Clock, '/clock', 10)
        for message_type, topic, received in (
                (PathMessage, '/fastdrive/output/trajectory', self.plans),
                (DiagnosticArray, '/fastdrive/debug/cycle', self.cycles),
                (DiagnosticArray, '/diagnostics', self.diagnostics)):
            self.rig.create_subscription(message_type, topic, received.append,
                                         QoSProfile(depth=50))
        self._executors = [SingleThreadedExecutor(context=context)
                           for context in self._contexts]
        self._executors[0].add_node(self.rig)
        self._threads = [threading.Thread(target=executor.spin, daemon=True)
                         for executor in self._executors]
        self._threads[0].start()
        try:
            self.node = PlannerNode(
                context=self._contexts[1], use_global_arguments=False,
                parameter_overrides=[Parameter(name, value=value) for name, value in {
                    'diagnostics.period_s': 0.1, 'backend': 'onnxruntime', **settings}.items()])
        except Exception:
            self.close()
            raise
        self._executors[1].add_node(self.node)

    def __enter__(self) -> LiveRig:
        """Return the rig."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Take everything down."""
        self.close()

    def start(self) -> LiveRig:
        """Configure, activate, spin, and wait until every topic is matched."""
        self.node.autostart()
        self.spin()
        self.wait_matched()
        return self

    def wait_matched(self) -> None:
        """Wait for both sides: best effort loses what is sent before the reader knows us."""
        publishers = (*self.cameras.values(), self.odometry)
        wait_for(lambda: all(p.get_subscription_count() for p in publishers),
                 "the node's subscriptions")
        wait_for(lambda: all(self.node.count_publishers(p.topic_name) for p in publishers),
                 'our publishers in the node')
        for topic in ('/fastdrive/output/trajectory', '/fastdrive/debug/cycle'):
            wait_for(lambda topic=topic: self.rig.count_publishers(topic)
                     and self.node.count_subscribers(topic), f'a match on {topic}')

    def spin(self) -> None:
        """Spin the node on a thread of its own."""
        self._threads[1].start()

    def now_ns(self) -> int:
        """Return the rig's system time."""
        return self.rig.get_clock().now().nanoseconds

    def send_odometry(self, stamp_ns: int, speed_mps: float = 5.0) -> None:
        """Publish one odometry message."""
        message = Odometry(header=make_header(self._classes, stamp_ns, 'map'),
                           child_frame_id='base_link')
        message.pose.pose.orientation.w = 1.0
        message.pose.pose.position.x = 100.0
        message.twist.twist.linear.x = speed_mps
        self.odometry.publish(message)

    def send_image(self, camera: str, stamp_ns: int, data: np.ndarray | None = None) -> None:
        """Publish one JPEG of one camera."""
        message = CompressedImage(header=make_header(self._classes, stamp_ns, camera),
                                  format='jpeg')
        jpeg = make_jpeg(seed=len(camera)) if data is None else data
        message.data = array.array('B', jpeg.tobytes())
        self.cameras[camera].publish(message)

    def send_sweep(self, stamp_ns: int | None = None, missing: tuple[str, ...] = (),
                   broken: tuple[str, ...] = ()) -> int:
        """Publish odometry and one sweep; return the stamp."""
        stamp_ns = self.now_ns() if stamp_ns is None else stamp_ns
        self.send_odometry(stamp_ns)
        for camera in self.cameras:
            if camera not in missing:
                self.send_image(camera, stamp_ns,
                                make_jpeg()[:200] if camera in broken else None)
        return stamp_ns

    def next_cycle(self, **sweep: Any) -> DiagnosticArray:
        """Send sweeps until one cycle more is reported (best effort may lose the first)."""
        seen = len(self.cycles)

        def sent_and_done() -> DiagnosticArray | None:
            self.send_sweep(**sweep)
            end_s = time.monotonic() + 0.5
            while time.monotonic() < end_s:
                if len(self.cycles) > seen:
                    return self.cycles[-1]
                time.sleep(0.01)
            return None

        return wait_for(sent_and_done, 'a cycle')

    def status(self, name: str) -> Any:
        """Return the newest status whose name ends so, or None."""
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name.endswith(name):
                    return status
        return None

    def close(self) -> None:
        """Shut everything down and join the threads."""
        for executor in self._executors:
            executor.shutdown()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)
        if self.node is not None:
            self.node.destroy_node()
        self.rig.destroy_node()
        for context in self._contexts:
            context.try_shutdown()


def value(status: Any, key: str) -> str:
    """Return one value of a DiagnosticStatus."""
    found = {pair.key: pair.value for pair in status.values}
    assert key in found, f'{key} is not among {sorted(found)}'
    return found[key]
