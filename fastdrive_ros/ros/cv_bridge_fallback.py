# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Raw encodings that core/decode.py does not know -> rgb8, by ROS 2's cv_bridge where installed.

Imported only when such a picture comes: most vehicles never need it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastdrive_ros.core.decode import RAW_ENCODINGS
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import RawImage


def to_rgb8(message: Any) -> RawImage:
    """Return a sensor_msgs/Image of any encoding as rgb8; raises FrameError 'unknown_encoding'."""
    bridge, trouble = _cv_bridge()
    if bridge is None:
        raise FrameError('unknown_encoding', f"encoding '{message.encoding}' is not one of "
                         f'{", ".join(RAW_ENCODINGS)} and cv_bridge cannot help ({trouble}): '
                         'publish one of these, or install ros-<distro>-cv-bridge')
    try:
        rgb = np.ascontiguousarray(bridge.imgmsg_to_cv2(message, 'rgb8'))
    # CvBridgeError is a TypeError; numpy refuses short data so; OpenCV's error is an Exception.
    except Exception as error:
        raise FrameError('unknown_encoding', f"cv_bridge cannot turn '{message.encoding}' into "
                         f'rgb8: {error}') from error
    height, width = rgb.shape[:2]
    return RawImage('rgb8', height, width, width * 3, False, rgb.reshape(-1))


@lru_cache(maxsize=1)
def _cv_bridge() -> tuple[Any, str]:
    """Return ROS 2's CvBridge, or None and why there is none."""
    try:
        # PyPI's cv-bridge is a pure Python build of ROS 1 without this part, and broken here.
        import cv_bridge.boost.cv_bridge_boost  # noqa: F401
        from cv_bridge import CvBridge
    except ImportError as error:  # also a cv_bridge that was compiled for another numpy
        return None, str(error)
    return CvBridge(), ''
