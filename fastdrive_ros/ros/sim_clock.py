# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
/clock of the simulator: simulated time as it passes, also while the next picture is drawn.

It runs at the speed asked, and never past the step that is being made: where that comes late, the
clock waits for it.
"""

from __future__ import annotations

import threading
import time

from builtin_interfaces.msg import Time
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from fastdrive_ros.ros.convert import ns_to_stamp

_PERIOD_S = 0.01


class SimClock:
    """Publishes /clock from a thread of its own, until it is closed."""

    def __init__(self, node: Node, speed: float) -> None:
        """Offer the topic; nothing is published before the first ``set``."""
        self._publisher = node.create_publisher(Clock, '/clock', 10)
        self._speed = speed
        self._lock = threading.Lock()
        self._set_s = 0.0
        self._set_ns = self._limit_ns = self._now_ns = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name='clock', daemon=True)
        self._thread.start()

    @property
    def now_ns(self) -> int:
        """What was published last."""
        return self._now_ns

    def set(self, now_ns: int, limit_ns: int) -> None:
        """Publish the time that was reached, and let it run on to the limit."""
        with self._lock:
            self._set_s, self._set_ns, self._limit_ns = time.monotonic(), now_ns, limit_ns
            self._publish(now_ns)

    def close(self) -> None:
        """Stand still for ever."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_PERIOD_S):
            with self._lock:
                passed_ns = round((time.monotonic() - self._set_s) * self._speed * 1e9)
                now_ns = min(self._set_ns + passed_ns, self._limit_ns)
                if now_ns > self._now_ns:
                    self._publish(now_ns)

    def _publish(self, now_ns: int) -> None:
        self._now_ns = now_ns
        self._publisher.publish(Clock(clock=ns_to_stamp(now_ns, Time)))
