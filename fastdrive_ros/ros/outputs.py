# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node publishes each cycle: the plan, its markers, kept tokens, and stage times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from fastdrive_ros.core.latency import STAGES
from fastdrive_ros.core.overlay import draw_kept
from fastdrive_ros.core.pruning import kept_mask
from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.ros.autoware import AutowareOutputs
from fastdrive_ros.ros.autoware import autoware_installed
from fastdrive_ros.ros.convert import byte_array
from fastdrive_ros.ros.markers import marker_array
from fastdrive_ros.ros.messages import cycle_message
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import path_message
from fastdrive_ros.ros.messages import ros_classes
from fastdrive_ros.runtime.bundle import Bundle

_OVERLAY_JPEG_QUALITY = 85


class Outputs:
    """All publishers of one configured node. Made at configure, destroyed at cleanup."""

    def __init__(self, node: Node, bundle: Bundle, output_frame: str, hardware_id: str) -> None:
        """Create every publisher; those of Autoware's types only where they are installed."""
        self._node = node
        self._bundle = bundle
        self._output_frame = output_frame
        self._hardware_id = hardware_id
        self._classes = ros_classes()
        self._publishers: list[Publisher] = []
        make = self._classes.make
        self._path = self._publisher('nav_msgs/msg/Path', '~/output/trajectory')
        self._markers = self._publisher('visualization_msgs/msg/MarkerArray', '~/output/markers')
        self._cycle = self._publisher('diagnostic_msgs/msg/DiagnosticArray', '~/debug/cycle',
                                      QoSProfile(depth=10))
        self._overlays = {
            camera: self._publisher('sensor_msgs/msg/CompressedImage',
                                    f'~/debug/{camera.lower()}/kept_tokens/compressed')
            for camera in bundle.cameras}
        self._autoware = (AutowareOutputs(self._classes, self._publisher, output_frame)
                          if autoware_installed() else None)
        stamped = self._autoware is not None
        self._float = make('autoware_internal_debug_msgs/msg/Float64Stamped' if stamped
                           else 'std_msgs/msg/Float64')
        self._stage_stamped = stamped
        self._stages = {stage: self._float_publisher(f'~/debug/processing_time/{stage}_ms')
                        for stage in STAGES}
        self._processing_time = self._float_publisher('~/debug/processing_time_ms')
        self._pipeline_latency = self._float_publisher('~/debug/pipeline_latency_ms')

    def publish_plan(self, result: PlanResult) -> None:
        """Publish what the vehicle acts on; nothing at all when the plan was refused."""
        if result.trajectory is None:
            return
        self._path.publish(path_message(self._classes, result, self._output_frame))
        if self._autoware:
            self._autoware.publish(result)

    def publish_debug(self, result: PlanResult) -> None:
        """Publish what people look at, as far as somebody is looking."""
        if self._markers.get_subscription_count():
            self._markers.publish(marker_array(self._classes, result, self._output_frame))
        watched = {camera: publisher for camera, publisher in self._overlays.items()
                   if publisher.get_subscription_count()}
        if watched and result.kept is not None and result.images is not None:
            self._publish_overlays(result, watched)

    def publish_times(self, result: PlanResult, stage_ms: Mapping[str, float],
                      processing_ms: float, extra: Mapping[str, Any]) -> None:
        """Publish the cycle's story and one number a stage."""
        self._cycle.publish(cycle_message(
            self._classes, result, stage_ms, extra, self._hardware_id))
        for stage, ms in stage_ms.items():
            if stage in self._stages:
                self._publish_float(self._stages[stage], ms)
        self._publish_float(self._processing_time, processing_ms)
        self._publish_float(self._pipeline_latency, result.frame_age_ms)

    def destroy(self) -> None:
        """Remove every publisher from the node."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _publisher(self, type_name: str, topic: str, qos: QoSProfile | int = 1) -> Publisher:
        publisher = self._node.create_publisher(self._classes.make(type_name), topic, qos)
        self._publishers.append(publisher)
        return publisher

    def _float_publisher(self, topic: str) -> Publisher:
        publisher = self._node.create_publisher(self._float, topic, 1)
        self._publishers.append(publisher)
        return publisher

    def _publish_float(self, publisher: Publisher, value: float) -> None:
        message = self._float(data=float(value))
        if self._stage_stamped:
            message.stamp = self._node.get_clock().now().to_msg()
        publisher.publish(message)

    def _publish_overlays(self, result: PlanResult, watched: Mapping[str, Publisher]) -> None:
        bundle = self._bundle
        masks = kept_mask(result.kept.indices, bundle.cameras, bundle.grid_height,
                          bundle.grid_width)
        for camera, publisher in watched.items():
            image = result.images[bundle.cameras.index(camera)]          # (H, W, 3) RGB
            drawn = draw_kept(image, masks[camera])
            _, jpeg = cv2.imencode('.jpg', np.ascontiguousarray(drawn[:, :, ::-1]),
                                   [cv2.IMWRITE_JPEG_QUALITY, _OVERLAY_JPEG_QUALITY])
            publisher.publish(self._classes.make('sensor_msgs/msg/CompressedImage')(
                header=make_header(self._classes, result.stamp_ns, camera),
                format='jpeg', data=byte_array(jpeg)))
