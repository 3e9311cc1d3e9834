# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stored JPEG and PNG bytes -> pixels, or a DataError that names what cannot be read."""

from __future__ import annotations

import cv2
import numpy as np

from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.data.records import DataError


def decode_jpeg(jpeg: bytes, what: str) -> np.ndarray:
    """Return uint8 (H, W, 3) RGB, decoded as in the vehicle; ``what`` names it when it fails."""
    full_size = 1 << 16
    try:
        return decode(EncodedImage('jpeg', np.frombuffer(jpeg, np.uint8)), full_size, full_size)
    except FrameError as error:
        raise DataError(f'{what}: {error}') from error


def decode_mask(png: bytes, what: str) -> np.ndarray:
    """Return uint8 (H, W) of a grey 8-bit PNG; ``what`` names it when it fails."""
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        found = ('one that is damaged' if mask is None else f'{mask.dtype} {mask.shape}')
        raise DataError(f'{what}: expected a grey 8-bit PNG, found {found} ({len(png)} bytes)')
    return mask
