# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""PlanResult to visualization_msgs/MarkerArray for RViz and Foxglove."""

from __future__ import annotations

from typing import Any

from fastdrive_ros.core.types import PlanResult
from fastdrive_ros.ros.messages import MessageClasses
from fastdrive_ros.ros.messages import make_header
from fastdrive_ros.ros.messages import make_pose
from fastdrive_ros.ros.messages import placed

_LIFT_M = 0.4      # above the road, or RViz' ground grid hides it
_SHOWN_S = 1       # a plan that is not renewed disappears instead of looking current
_LINE_STRIP, _SPHERE_LIST, _TEXT = 4, 7, 9


def marker_array(classes: MessageClasses, result: PlanResult, output_frame: str) -> Any:
    """
    Return the plan as a line with waypoints, or the reason of its absence as red text.

    A refused cycle deletes the line, so that an old plan never looks new.
    """
    make = classes.make
    if result.trajectory is None:
        text = _marker(classes, result, 'base_link', 'refusal', _TEXT, (1.0, 0.2, 0.2), 0.8)
        text.text = f'no plan: {result.refusal.reason}'
        text.pose.position.z = 3.0
        return make('visualization_msgs/msg/MarkerArray')(markers=[
            text, *(_delete(classes, result, ns) for ns in ('path', 'waypoints', 'tokens'))])
    frame_id, positions_m, _ = placed(result, output_frame)
    point = make('geometry_msgs/msg/Point')
    points = [point(x=float(x), y=float(y), z=float(z) + _LIFT_M) for x, y, z in positions_m]
    color = (1.0, 0.7, 0.1) if result.missing else (0.1, 0.8, 0.4)
    line = _marker(classes, result, frame_id, 'path', _LINE_STRIP, color, 0.4)
    line.points = points
    dots = _marker(classes, result, frame_id, 'waypoints', _SPHERE_LIST, color, 0.7)
    dots.points = points
    label = _marker(classes, result, frame_id, 'tokens', _TEXT, (1.0, 1.0, 1.0), 0.8)
    label.pose = make_pose(classes, positions_m[0] + (0.0, 0.0, 2.0), 0.0)
    label.text = f'{len(result.kept.indices)}/{result.num_tokens} tokens'
    if result.missing:
        label.text += f"\nwithout {', '.join(result.missing)}"
    return make('visualization_msgs/msg/MarkerArray')(
        markers=[line, dots, label, _delete(classes, result, 'refusal')])


def _marker(classes: MessageClasses, result: PlanResult, frame_id: str, namespace: str, kind: int,
            color: tuple[float, float, float], size_m: float) -> Any:
    marker = classes.make('visualization_msgs/msg/Marker')()
    marker.header = make_header(classes, result.stamp_ns, frame_id)
    marker.ns = f'fastdrive/{namespace}'
    marker.type = kind
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = marker.scale.z = size_m
    marker.color.r, marker.color.g, marker.color.b = color
    marker.color.a = 0.9
    marker.lifetime.sec = _SHOWN_S
    marker.frame_locked = True
    return marker


def _delete(classes: MessageClasses, result: PlanResult, namespace: str) -> Any:
    marker = classes.make('visualization_msgs/msg/Marker')()
    marker.header = make_header(classes, result.stamp_ns, 'base_link')
    marker.ns = f'fastdrive/{namespace}'
    marker.action = marker.DELETE
    return marker
