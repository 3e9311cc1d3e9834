# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of an active node: camera and odometry messages into the intake."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos import ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image

from fastdrive_ros.config import camera_topics
from fastdrive_ros.core.types import EgoError
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.intake import Intake
from fastdrive_ros.ros.convert import to_frame
from fastdrive_ros.ros.convert import to_odometry_sample
from fastdrive_ros.ros.diagnostics import TopicMonitor

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

# A best-effort subscriber matches reliable publishers too; the other way round stays silent.
_IMAGE_QOS = QoSProfile(depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
# Recorded odometry comes 25 messages at once: nuScenes converters log it at keyframes.
_ODOMETRY_QOS = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
_IMAGE_TYPES = {'compressed': CompressedImage, 'raw': Image}
_LOG_EVERY_S = 5.0


class Inputs:
    """The subscriptions, and a monitor of each topic for the diagnostics."""

    def __init__(self, node: Node, intake: Intake, prepare: Callable[[Frame], None],
                 cameras: tuple[str, ...], settings: Mapping[str, Any]) -> None:
        """Subscribe to every camera of the bundle and to the odometry."""
        self._node = node
        self._intake = intake
        self._prepare = prepare
        self._subscriptions: list[Subscription] = []
        self._types: dict[str, str] = {}
        self.cameras: dict[str, TopicMonitor] = {}
        image_type = _IMAGE_TYPES[settings['image_transport']]
        for camera, topic in camera_topics(settings, cameras).items():
            monitor = self.cameras[camera] = TopicMonitor(topic)
            self._subscribe(image_type, monitor, self._image_callback(camera, monitor), _IMAGE_QOS)
        self.odometry = TopicMonitor(settings['odometry_topic'])
        self._subscribe(Odometry, self.odometry, self._on_odometry, _ODOMETRY_QOS)

    def describe(self) -> str:
        """Return the topics, for the log."""
        topics = [monitor.topic for monitor in (*self.cameras.values(), self.odometry)]
        return ', '.join(topics)

    def inspect_graph(self) -> None:
        """Notice publishers that can never reach us: DDS says nothing about a wrong type."""
        for monitor in (*self.cameras.values(), self.odometry):
            wanted = self._types[monitor.topic]
            found = {info.topic_type for info in self._node.get_publishers_info_by_topic(
                self._node.resolve_topic_name(monitor.topic))}
            monitor.wrong_type = '' if not found or wanted in found else (
                f'{monitor.topic} has type {", ".join(sorted(found))}, expected {wanted}: choose '
                'the preset or image_transport that fits')

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, message_type: Any, monitor: TopicMonitor,
                   callback: Callable[[Any], None], qos: QoSProfile) -> None:
        def incompatible(event: Any) -> None:
            monitor.wrong_qos = (f'{monitor.topic}: a publisher offers another QoS '
                                 f'({event.last_policy_kind}): use qos_overrides')
            self._node.get_logger().error(monitor.wrong_qos)

        package, kind = message_type.__module__.split('.')[:2]
        self._types[monitor.topic] = f'{package}/{kind}/{message_type.__name__}'
        self._subscriptions.append(self._node.create_subscription(
            message_type, monitor.topic, callback, qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible)))

    def _image_callback(self, camera: str, monitor: TopicMonitor) -> Callable[[Any], None]:
        def on_image(message: Any) -> None:
            arrival_ns = time.monotonic_ns()
            try:
                frame = to_frame(message, camera, arrival_ns)
            except FrameError as error:
                self._intake.drop_frame(camera, error.reason)
                self._warn(f'{camera}: {error}')
                return
            if self._intake.idle:
                self._prepare(frame)
            self._intake.push_frame(frame)
            monitor.arrived(frame.stamp_ns, self._node.get_clock().now().nanoseconds)
        return on_image

    def _on_odometry(self, message: Odometry) -> None:
        try:
            sample = to_odometry_sample(message)
            self._intake.push_odometry(sample)
        except EgoError as error:
            self._intake.drop_frame('odometry', error.reason)
            self._warn(f'{self.odometry.topic}: {error}')
            return
        self.odometry.arrived(sample.stamp_ns, self._node.get_clock().now().nanoseconds)

    def _warn(self, sentence: str) -> None:
        self._node.get_logger().warning(sentence, throttle_duration_sec=_LOG_EVERY_S)
