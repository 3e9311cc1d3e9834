# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
One picture as it came -> uint8 (h, w, 3) RGB, or a FrameError that says why not.

    EncodedImage (JPEG, PNG) --by magic bytes--.
                                                >-- RGB
    RawImage (rgb8, bayer, yuv422, ...) -------'

A damaged picture is refused, never half shown: the planner would drive by the grey half. JPEG is
decoded straight to a half, quarter or eighth (scaled DCT) where that is still large enough, by
simplejpeg where it is installed, else by OpenCV, which a ROS machine always has. FrameError
reasons: empty_data, unknown_format, unknown_encoding, too_many_pixels, corrupt_jpeg, corrupt_png,
zero_size, bad_step, bad_size, short_data.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import RawImage

try:
    import simplejpeg
except ImportError:  # no such package from apt: OpenCV decodes
    simplejpeg = None

# A header costs a few bytes and can ask for gigabytes; the largest vehicle cameras have 8 MP.
MAX_PIXELS = 64_000_000

_JPEG_MAGIC = b'\xff\xd8\xff'
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_END_OF_IMAGE = b'\xff\xd9'
_START_OF_SCAN = 0xDA
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# What may follow 0xFF inside entropy-coded data: stuffing, restart markers, fill bytes.
_INSIDE_SCAN = (0x00, *range(0xD0, 0xD8), 0xFF)
# OpenCV turns pictures by their EXIF tag unless told not to, simplejpeg never does.
_REDUCED = {
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}

# ROS encoding -> (bytes per pixel, OpenCV conversion to RGB). ROS names a Bayer mosaic by its
# first two rows, OpenCV's old constants by the second row from its second column: rggb is BG.
# yuv422 is UYVY and yuv422_yuy2 is YUYV (sensor_msgs/image_encodings.hpp).
_RAW: dict[str, tuple[int, int | None]] = {
    'rgb8': (3, None),
    'bgr8': (3, cv2.COLOR_BGR2RGB),
    'rgba8': (4, cv2.COLOR_RGBA2RGB),
    'bgra8': (4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, cv2.COLOR_GRAY2RGB),
    'bayer_rggb8': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, cv2.COLOR_BayerGB2RGB),
    'yuv422': (2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': (2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': (2, cv2.COLOR_YUV2RGB_YUYV),
    'yuyv': (2, cv2.COLOR_YUV2RGB_YUYV),
}
RAW_ENCODINGS = tuple(_RAW)


def decoder_name() -> str:
    """Return which library decodes JPEG here, with its version."""
    if simplejpeg is None:
        return f'opencv {cv2.__version__}'
    return f'simplejpeg {simplejpeg.__version__}'


def decode(image: EncodedImage | RawImage, min_height: int, min_width: int) -> np.ndarray:
    """
    Return uint8 (h, w, 3) RGB; it may be the message's own memory, so read it only.

    A JPEG may come out at 1/2, 1/4 or 1/8, never below min_height x min_width because of that.
    Raises FrameError.
    """
    if image.data.size == 0:
        raise FrameError('empty_data', 'the message carries no data: look at the camera driver')
    if isinstance(image, RawImage):
        return _decode_raw(image)
    magic = image.data[:8].tobytes()
    if 'compressedDepth' not in image.format:
        if magic.startswith(_JPEG_MAGIC):
            return _decode_jpeg(image.data, min_height, min_width)
        if magic == _PNG_MAGIC:
            return _decode_png(image.data)
    raise FrameError('unknown_format',
                     f"expected a JPEG or PNG colour picture, found format '{image.format}' with "
                     f'first bytes {magic.hex(" ")}: publish the camera as jpeg or png')


@dataclass(frozen=True)
class _JpegHeader:
    height: int
    width: int
    scan_start: int
    """Offset of the first entropy-coded byte."""
    single_scan: bool
    """The first scan holds all components, and the file is not progressive."""


def _decode_jpeg(data: np.ndarray, min_height: int, min_width: int) -> np.ndarray:
    header = _read_jpeg_header(data)
    _check_pixels(header.height, header.width)
    # libjpeg fills up a file that stops early; every whole one has an end marker, and the
    # entropy-coded data cannot hold those two bytes.
    end = data.size - 2 if data[-2:].tobytes() == _END_OF_IMAGE else data.tobytes().rfind(
        _END_OF_IMAGE, header.scan_start)
    if end < header.scan_start:
        raise _corrupt_jpeg(f'it is cut off: no end marker in {data.size} bytes')
    reduction = max((r for r in _REDUCED if -(-header.height // r) >= min_height
                     and -(-header.width // r) >= min_width), default=1)
    if simplejpeg is None:
        return _decode_jpeg_opencv(data, header, end, reduction)
    try:
        return simplejpeg.decode_jpeg(data, 'RGB', min_height=-(-header.height // reduction),
                                      min_width=-(-header.width // reduction), strict=True)
    except ValueError as error:
        raise _corrupt_jpeg(str(error)) from error


def _decode_jpeg_opencv(data: np.ndarray, header: _JpegHeader, end: int,
                        reduction: int) -> np.ndarray:
    """
    Decode with OpenCV, which has no strict mode: stray markers in the scan are looked for here.

    Damage that leaves valid Huffman codes and markers cannot be seen this way.
    """
    if header.single_scan:
        scan = data[header.scan_start:end]
        after_ff = scan[1:][scan[:-1] == 0xFF]
        stray = after_ff[~np.isin(after_ff, _INSIDE_SCAN)]
        if stray.size:
            raise _corrupt_jpeg(f'marker 0xff{stray[0]:02x} inside the picture data')
    bgr = cv2.imdecode(data, _REDUCED[reduction])
    if bgr is None:
        raise _corrupt_jpeg('OpenCV cannot decode it')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def _read_jpeg_header(data: np.ndarray) -> _JpegHeader:
    """Walk the segments up to the first scan (ITU-T T.81, B.1 and B.2); decodes nothing."""
    view = memoryview(data)
    frame: tuple[int, int, int, int] | None = None
    position = 2
    while position + 10 <= len(view) and view[position] == 0xFF:
        marker = view[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            precision, components = view[position + 4], view[position + 9]
            height = view[position + 5] << 8 | view[position + 6]
            width = view[position + 7] << 8 | view[position + 8]
            if precision != 8 or components not in (1, 3):
                raise FrameError('unknown_encoding',
                                 f'expected an 8-bit grey or colour JPEG, found {precision} bits '
                                 f'and {components} components (CMYK has 4): publish it as YCbCr')
            frame = marker, height, width, components
        length = view[position + 2] << 8 | view[position + 3]
        if marker == _START_OF_SCAN and frame is not None:
            kind, height, width, components = frame
            return _JpegHeader(height, width, position + 2 + length,
                               kind in (0xC0, 0xC1) and view[position + 4] == components)
        position += 2 + length
    raise _corrupt_jpeg(f'its header breaks off at byte {min(position, len(view))} of {len(view)}')


def _decode_png(data: np.ndarray) -> np.ndarray:
    if data.size < 26:
        raise FrameError('corrupt_png', f'the PNG is cut off after {data.size} bytes')
    width, height = (int(side) for side in data[16:24].view('>u4'))
    _check_pixels(height, width)
    if data[24] > 8:
        raise FrameError('unknown_encoding', f'expected an 8-bit PNG, found {data[24]} bits a '
                         'channel (a depth picture?): publish the colour camera')
    bgr = cv2.imdecode(data, _REDUCED[1])  # libpng checks every chunk's CRC
    if bgr is None:
        raise FrameError('corrupt_png', f'the PNG of {data.size} bytes is damaged or cut off')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)


def _decode_raw(image: RawImage) -> np.ndarray:
    if image.encoding not in _RAW:
        raise FrameError('unknown_encoding', f"encoding '{image.encoding}' is not one of "
                         f'{", ".join(_RAW)}: let the camera driver publish one of these')
    pixel_bytes, conversion = _RAW[image.encoding]
    height, width, step = image.height, image.width, image.step
    if height < 1 or width < 1:
        raise FrameError('zero_size', f'the picture is {width}x{height} pixels')
    # OpenCV 4.5 takes an odd yuv row without a word; any turns a mosaic below 3x3 black.
    if pixel_bytes == 2 and width % 2 or 'bayer' in image.encoding and min(height, width) < 3:
        raise FrameError('bad_size', f'{image.encoding} cannot be {width}x{height} pixels '
                         '(yuv422 needs an even width, bayer at least 3x3)')
    if step < width * pixel_bytes:
        raise FrameError('bad_step', f'step must be at least width x {pixel_bytes} bytes = '
                         f'{width * pixel_bytes} for {image.encoding}, found {step}')
    if image.data.size < height * step:
        raise FrameError('short_data', f'data must hold height x step = {height} x {step} = '
                         f'{height * step} bytes, found {image.data.size}')
    rows = image.data[:height * step].reshape(height, step)
    pixels = rows[:, :width * pixel_bytes].reshape(height, width, pixel_bytes)  # still a view
    return pixels if conversion is None else cv2.cvtColor(pixels, conversion)


def _check_pixels(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise FrameError('zero_size', f'the picture is {width}x{height} pixels')
    if height * width > MAX_PIXELS:
        raise FrameError('too_many_pixels', f'the header says {width}x{height} pixels, at most '
                         f'{MAX_PIXELS} are allowed: it is damaged, or scale the camera down')


def _corrupt_jpeg(why: str) -> FrameError:
    return FrameError('corrupt_jpeg', f'the JPEG cannot be used, {why}')
