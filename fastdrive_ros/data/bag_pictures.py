# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A picture or a mask as a bag has it -> what a dataset keeps, or why not.

    JPEG            -> the same bytes, once they have been decoded and are of the calibrated size
    PNG, raw image  -> JPEG, encoded here for the first and last time
"""

from __future__ import annotations

import cv2

from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import RawImage
from fastdrive_ros.data.pictures import decode_mask
from fastdrive_ros.data.records import DataError

_JPEG_MAGIC = b'\xff\xd8\xff'
_JPEG_QUALITY = 95
_FULL_SIZE_PX = 1 << 16


def to_jpeg(image: EncodedImage | RawImage, camera: Camera, what: str, info: str) -> (
        tuple[bytes, bool]):
    """
    Return (the JPEG's bytes, whether they were made here).

    Raises FrameError when it cannot be decoded; DataError, naming ``what`` it is and the topic
    ``info`` of its calibration, when it is of another size than its calibration.
    """
    is_jpeg = isinstance(image, EncodedImage) and image.data[:3].tobytes() == _JPEG_MAGIC
    # A JPEG is looked through at an eighth of its size; all of its bytes are read for it.
    side_px, part = (1, 8) if is_jpeg else (_FULL_SIZE_PX, 1)
    rgb = decode(image, side_px, side_px)
    if rgb.shape[:2] != (-(-camera.height // part), -(-camera.width // part)):
        height, width = decode(image, _FULL_SIZE_PX, _FULL_SIZE_PX).shape[:2]
        raise DataError(f'{what}: the pictures are {width}x{height} pixels, {info} says '
                        f'{camera.width}x{camera.height}: its K does not fit them, publish the '
                        'calibration of these pictures')
    if is_jpeg:
        return image.data.tobytes(), False
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes(), True


def mask_fits(png: bytes, camera: Camera) -> bool:
    """Tell whether a mask can be read and is of its camera's size."""
    try:
        return decode_mask(png, camera.name).shape == (camera.height, camera.width)
    except DataError:
        return False
