# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A bag onto real DDS topics: each message's recorded bytes at its log time, and /clock with them.

One thread does everything: while it waits for the next message it spins the node, so whatever
listens on the same node (plan_listener.py) is served between two messages.
"""

from __future__ import annotations

import importlib
import struct
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from fastdrive_ros.bags import IMAGE_TYPES
from fastdrive_ros.bags import ODOMETRY_TYPE
from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import Topic
from fastdrive_ros.ros.convert import ns_to_stamp

_CLOCK_PERIOD_S = 0.01
_STAMPED_TYPES = (*IMAGE_TYPES.values(), ODOMETRY_TYPE, 'sensor_msgs/msg/CameraInfo')
# The player's own, or another node's voice: the node under test would hear itself.
_NOT_PLAYED = ('/clock', '/diagnostics', '/rosout', '/parameter_events')


class BagPlayer:
    """Publishers for everything in a bag that can be published here."""

    def __init__(self, bag: Bag, node: Node, executor: SingleThreadedExecutor) -> None:
        """Create the publishers; what is left out is in ``skipped`` with the reason."""
        self.skipped: dict[str, str] = {}
        self.published = 0
        self.now_ns = bag.start_ns
        """Bag time: what /clock says."""
        self.lag_ms = 0.0
        """The most that a message was late, because this computer is too slow for the rate."""
        self._bag = bag
        self._executor = executor
        self._next_clock_s = 0.0
        # Reliable matches every subscriber, best effort or not.
        self._publishers: dict[str, Publisher] = {}
        for topic in bag.topics.values():
            message_class = self._class_of(topic)
            if message_class is not None:
                latched = topic.name == '/tf_static'
                self._publishers[topic.name] = node.create_publisher(
                    message_class, topic.name, QoSProfile(
                        depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                        else DurabilityPolicy.VOLATILE))
        # The last one: DDS announces publishers in order, so whoever hears this clock knows of
        # all the others, too. Our own count of subscribers does not tell that.
        self._clock = node.create_publisher(Clock, '/clock', 10)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are played."""
        return tuple(self._publishers)

    def unheard(self, topics: tuple[str, ...]) -> list[str]:
        """Return those of ``topics``, and /clock, that nobody subscribes to yet."""
        publishers = {topic: self._publishers[topic] for topic in topics
                      if topic in self._publishers}
        return [topic for topic, publisher in {**publishers, '/clock': self._clock}.items()
                if not publisher.get_subscription_count()]

    def play(self, rate: float = 1.0, shift_ns: int = 0,
             keep_going: Callable[[], bool] = lambda: True) -> None:
        """
        Play the bag once.

        Args:
            rate: 2.0 is twice as fast as it was recorded.
            shift_ns: added to every header stamp and to the clock, so that a second pass goes on
                where the first ended instead of jumping back.
            keep_going: asked before every message.

        """
        started_s = time.monotonic()
        start_ns = self._bag.start_ns
        for message in self._bag.messages(self._publishers):
            due_s = started_s + (message.log_ns - start_ns) / 1e9 / rate
            self._spin_until(due_s, message.log_ns + shift_ns, rate)
            if not keep_going():
                return
            self.lag_ms = max(self.lag_ms, (time.monotonic() - due_s) * 1e3)
            self._tick(message.log_ns + shift_ns)
            data = message.data
            if shift_ns and message.type in _STAMPED_TYPES:
                data = shifted(data, shift_ns)
            self._publishers[message.topic].publish(data)
            self.published += 1

    def idle(self, seconds: float, rate: float = 0.0) -> None:
        """Serve the node for a while; the clock stands (rate 0) or goes on."""
        self._spin_until(time.monotonic() + seconds,
                         self.now_ns + round(seconds * rate * 1e9), rate)

    def _spin_until(self, due_s: float, due_ns: int, rate: float) -> None:
        while (left_s := due_s - time.monotonic()) > 0.0:
            if time.monotonic() >= self._next_clock_s:
                self._tick(due_ns - round(left_s * rate * 1e9))
            self._executor.spin_once(timeout_sec=min(left_s, _CLOCK_PERIOD_S))

    def _tick(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self._next_clock_s = time.monotonic() + _CLOCK_PERIOD_S
        self._clock.publish(Clock(clock=ns_to_stamp(now_ns, Time)))

    def _class_of(self, topic: Topic) -> Any:
        if topic.name in _NOT_PLAYED or topic.name.startswith('/fastdrive/'):
            self.skipped[topic.name] = 'it would collide with what runs now'
            return None
        package, _, short = topic.type.split('/')
        try:
            return getattr(importlib.import_module(f'{package}.msg'), short)
        except (ModuleNotFoundError, AttributeError):
            self.skipped[topic.name] = f'{topic.type} is not installed'
            return None


@contextmanager
def playing_node() -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """Give a node in a DDS participant of its own, and the executor that spins it."""
    context = rclpy.Context()
    # rclpy's own signal handlers would end the context in the middle of the caller's clean-up.
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node('fastdrive_replay', context=context, use_global_arguments=False,
                                 enable_rosout=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        yield node, executor
        executor.shutdown()
        node.destroy_node()
    finally:
        context.try_shutdown()


def shifted(data: bytes, shift_ns: int) -> bytes:
    """Return a serialized message, whose first field is a std_msgs/Header, with a later stamp."""
    # CDR: four bytes of encapsulation, of which the second's lowest bit is the byte order.
    order = '<' if data[1] & 1 else '>'
    sec, nanosec = struct.unpack_from(f'{order}iI', data, 4)
    sec, nanosec = divmod(sec * 10**9 + nanosec + shift_ns, 10**9)
    return data[:4] + struct.pack(f'{order}iI', sec, nanosec) + data[12:]
