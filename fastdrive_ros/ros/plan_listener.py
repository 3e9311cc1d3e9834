# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a live planner node says, as plain values: cycles, plans, overlays, its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Path as PathMessage
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage

from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.messages import ERROR

_DEPTH = 100


@dataclass(frozen=True)
class CycleReport:
    """One message of ~/debug/cycle."""

    arrival_s: float
    """Monotonic."""
    stamp_ns: int
    message: str
    values: Mapping[str, str]

    @property
    def refusal(self) -> str:
        """The reason, or nothing when a plan was published."""
        return self.values['refusal']

    @property
    def stage_ms(self) -> dict[str, float]:
        """Every stage that ran, and the age of the pictures as 'frame_age'."""
        return {key[:-3]: float(value) for key, value in self.values.items()
                if key.endswith('_ms') and key != 'spread_ms'}


@dataclass(frozen=True)
class PlanReport:
    """One message of ~/output/trajectory."""

    stamp_ns: int
    frame_id: str
    positions_m: np.ndarray
    """float64 (T, 2)."""


class PlanListener:
    """Subscriptions to everything that the planner node at ``name`` reports."""

    def __init__(self, node: Node, name: str, overlay_cameras: tuple[str, ...] = (),
                 record: Callable[[str, str, bytes], None] | None = None) -> None:
        """Subscribe; ``record(topic, type, bytes)`` gets trajectory and cycles as they came."""
        self.cycles: list[CycleReport] = []
        self.plans: list[PlanReport] = []
        self.overlays: dict[int, dict[str, bytes]] = {}
        """Stamp -> {camera: JPEG} of the kept-token overlays."""
        self.loading = ''
        """What the node says about its model while it loads."""
        self.error = ''
        """Why it could not load its model; nothing while all is well."""
        self.heard_s = 0.0
        """When the last diagnostics came (monotonic)."""
        self.clock_ns = 0
        """The node's time at its last diagnostics."""
        self._name = name
        self._node = node
        self._topics: list[str] = []
        self._subscribe(DiagnosticArray, f'{name}/debug/cycle', self._on_cycle)
        self._subscribe(PathMessage, f'{name}/output/trajectory', self._on_plan)
        self._subscribe(DiagnosticArray, '/diagnostics', self._on_diagnostics)
        for camera in overlay_cameras:
            topic = f'{name}/debug/{camera.lower()}/kept_tokens/compressed'
            self._subscribe(CompressedImage, topic, self._overlay_callback(camera))
        if record:
            self._record(PathMessage, f'{name}/output/trajectory', 'nav_msgs/msg/Path', record)
            self._record(DiagnosticArray, f'{name}/debug/cycle',
                         'diagnostic_msgs/msg/DiagnosticArray', record)

    def unheard(self) -> list[str]:
        """Return the topics that nobody publishes yet."""
        return [topic for topic in self._topics if not self._node.count_publishers(topic)]

    def _subscribe(self, message_class: Any, topic: str, callback: Callable[[Any], None]) -> None:
        self._topics.append(topic)
        self._node.create_subscription(message_class, topic, callback, QoSProfile(depth=_DEPTH))

    def _record(self, message_class: Any, topic: str, type_name: str,
                record: Callable[[str, str, bytes], None]) -> None:
        self._node.create_subscription(message_class, topic,
                                       lambda data: record(topic, type_name, data),
                                       QoSProfile(depth=_DEPTH), raw=True)

    def _on_cycle(self, message: DiagnosticArray) -> None:
        status = message.status[0]
        self.cycles.append(CycleReport(
            time.monotonic(), stamp_to_ns(message.header.stamp), status.message,
            {value.key: value.value for value in status.values}))

    def _on_plan(self, message: PathMessage) -> None:
        self.plans.append(PlanReport(
            stamp_to_ns(message.header.stamp), message.header.frame_id,
            np.array([(pose.pose.position.x, pose.pose.position.y) for pose in message.poses])))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f'{self._name.lstrip("/")}: inference_status':
                self.heard_s = time.monotonic()
                self.clock_ns = stamp_to_ns(message.header.stamp)
                failed = status.level[0] == ERROR
                self.error = status.message if failed else ''
                self.loading = status.message

    def _overlay_callback(self, camera: str) -> Callable[[Any], None]:
        def on_overlay(message: CompressedImage) -> None:
            stamp_ns = stamp_to_ns(message.header.stamp)
            self.overlays.setdefault(stamp_ns, {})[camera] = bytes(message.data)
        return on_overlay
