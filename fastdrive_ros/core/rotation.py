# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Unit quaternions (x, y, z, w) in plain floats, and angles wrapped to [-pi, pi)."""

from __future__ import annotations

import math

Quaternion = tuple[float, float, float, float]
Vector = tuple[float, float, float]


def wrap_rad(angle_rad: float) -> float:
    """Return the same direction in [-pi, pi)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi


def yaw_of(q: Quaternion) -> float:
    """Return the rotation about z (the first of z-y-x Euler angles)."""
    x, y, z, w = q
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))


def from_yaw(yaw_rad: float) -> Quaternion:
    """Return the rotation about z alone."""
    return (0.0, 0.0, math.sin(yaw_rad / 2.0), math.cos(yaw_rad / 2.0))


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Return the Hamilton product: first ``b``, then ``a``."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz)


def conjugate(q: Quaternion) -> Quaternion:
    """Return the opposite rotation."""
    x, y, z, w = q
    return (-x, -y, -z, w)


def rotate(q: Quaternion, v: Vector) -> Vector:
    """Return ``v`` rotated by ``q``."""
    x, y, z, _ = multiply(multiply(q, (*v, 0.0)), conjugate(q))
    return (x, y, z)


def normalise(q: Quaternion) -> Quaternion:
    """Return the unit quaternion of the same rotation; ``q`` must not be zero."""
    norm = math.hypot(*q)
    x, y, z, w = q
    return (x / norm, y / norm, z / norm, w / norm)


def slerp(a: Quaternion, b: Quaternion, fraction: float) -> Quaternion:
    """Return the rotation ``fraction`` of the shorter way from ``a`` to ``b``."""
    dot = sum(i * j for i, j in zip(a, b))
    sign = -1.0 if dot < 0.0 else 1.0
    angle = math.acos(min(1.0, abs(dot)))
    if angle < 1e-6:  # sin(angle) vanishes; the straight line is the same rotation here
        weight_a, weight_b = 1.0 - fraction, fraction
    else:
        weight_a = math.sin((1.0 - fraction) * angle) / math.sin(angle)
        weight_b = math.sin(fraction * angle) / math.sin(angle)
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    weight_b *= sign
    return normalise((weight_a * ax + weight_b * bx, weight_a * ay + weight_b * by,
                      weight_a * az + weight_b * bz, weight_a * aw + weight_b * bw))
