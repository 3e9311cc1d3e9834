# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures with known pixels in every encoding, and every damaged one refused with its reason."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from fastdrive_ros.core import decode as decode_module
from fastdrive_ros.core.decode import MAX_PIXELS
from fastdrive_ros.core.decode import RAW_ENCODINGS
from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.decode import decoder_name
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import RawImage

FRAMES = Path(__file__).parents[2] / 'shared' / 'data' / 'nuscenes_frames'
FULL = 1 << 16
# Reads as orientation 6, "turn by 90 degrees": APP1, little-endian TIFF, one entry.
EXIF_TURNED = (b'\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0'
               b'\0\0\0\0')


@pytest.fixture(params=['simplejpeg', 'opencv'], autouse=True)
def jpeg_decoder(request, monkeypatch):
    """Run every test with both JPEG decoders; a machine with ROS from apt has only OpenCV."""
    if request.param == 'opencv':
        monkeypatch.setattr(decode_module, 'simplejpeg', None)
    else:
        pytest.importorskip('simplejpeg')
    return request.param


def picture(height=64, width=96):
    """Smooth colours with some texture: uint8 (height, width, 3) RGB."""
    y, x = np.mgrid[:height, :width]
    planes = (x * 255 // width, y * 255 // height, 128 + 60 * np.sin(x / 9) * np.cos(y / 7))
    return np.stack(planes, axis=-1).astype(np.uint8)


def encoded(rgb, extension='.jpg', *options):
    _, data = cv2.imencode(extension, rgb[..., ::-1], options)
    return data.reshape(-1)


def jpeg(rgb=None):
    return encoded(picture() if rgb is None else rgb, '.jpg', cv2.IMWRITE_JPEG_QUALITY, 95)


def refused(image, reason, match):
    with pytest.raises(FrameError, match=match) as caught:
        decode(image, 32, 32)
    assert caught.value.reason == reason


def frame_header(data):
    """Offset of a baseline JPEG's SOF0 marker."""
    return data.tobytes().index(b'\xff\xc0')


def raw(encoding, rows, width, step=None):
    """RawImage of uint8 (height, bytes) rows, padded to step with 0xEE."""
    rows = np.asarray(rows, dtype=np.uint8)
    step = step or rows.shape[1]
    data = np.full((len(rows), step), 0xEE, np.uint8)
    data[:, :rows.shape[1]] = rows
    return RawImage(encoding, len(rows), width, step, False, data.reshape(-1))


def test_the_decoder_says_its_name(jpeg_decoder):
    assert decoder_name().startswith(jpeg_decoder)


def test_jpeg_keeps_its_colours():
    decoded = decode(EncodedImage('jpeg', jpeg()), FULL, FULL)
    assert decoded.shape == (64, 96, 3)
    assert np.abs(decoded.astype(int) - picture()).mean() < 4


def test_png_is_exact_and_alpha_is_dropped():
    rgb = picture()
    assert np.array_equal(decode(EncodedImage('png', encoded(rgb, '.png')), 8, 8), rgb)
    rgba = np.dstack([rgb[..., ::-1], np.full(rgb.shape[:2], 7, np.uint8)])
    _, data = cv2.imencode('.png', rgba)
    assert np.array_equal(decode(EncodedImage('png', data.reshape(-1)), 8, 8), rgb)


def test_the_bytes_decide_not_the_format_string():
    png = encoded(picture(), '.png')
    assert np.array_equal(decode(EncodedImage('rgb8; jpeg compressed bgr8', png), 8, 8), picture())


@pytest.mark.parametrize(('minimum', 'size'), [
    ((100, 100), (100, 150)),
    ((101, 100), (200, 300)),
    ((100, 151), (200, 300)),
    ((200, 301), (400, 600)),
    ((401, 100), (800, 1200)),
    ((FULL, FULL), (800, 1200)),
])
def test_a_jpeg_is_decoded_small_but_never_below_the_minimum(minimum, size):
    data = jpeg(picture(800, 1200))
    assert decode(EncodedImage('jpeg', data), *minimum).shape == (*size, 3)


def test_odd_sizes_are_rounded_up():
    assert decode(EncodedImage('jpeg', jpeg(picture(450, 601))), 225, 301).shape == (225, 301, 3)


def test_grey_jpeg_becomes_rgb():
    _, data = cv2.imencode('.jpg', np.full((32, 48), 200, np.uint8))
    assert np.array_equal(decode(EncodedImage('jpeg', data.reshape(-1)), FULL, FULL),
                          np.full((32, 48, 3), 200))


def test_progressive_jpeg():
    data = encoded(picture(), '.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    decoded = decode(EncodedImage('jpeg', data), FULL, FULL)
    assert np.abs(decoded.astype(int) - picture()).mean() < 4


def test_padding_after_the_end_marker_is_harmless():
    data = np.concatenate([jpeg(), np.zeros(300, np.uint8)])
    assert decode(EncodedImage('jpeg', data), FULL, FULL).shape == (64, 96, 3)


def test_exif_does_not_turn_the_camera():
    data = jpeg()
    turned = np.concatenate([data[:2], np.frombuffer(EXIF_TURNED, np.uint8), data[2:]])
    assert cv2.imdecode(turned, cv2.IMREAD_COLOR).shape == (96, 64, 3)  # the trap is real
    assert np.array_equal(decode(EncodedImage('jpeg', turned), FULL, FULL),
                          decode(EncodedImage('jpeg', data), FULL, FULL))


def test_a_jpeg_cut_anywhere_is_refused():
    data = jpeg()
    for size in (*range(3, data.size, 97), data.size - 1):
        refused(EncodedImage('jpeg', data[:size]), 'corrupt_jpeg', 'the JPEG cannot be used')


def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused():
    data, thumbnail = jpeg(), jpeg(picture(16, 16)).tobytes()
    app1 = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = np.concatenate([data[:2], np.frombuffer(app1, np.uint8), data[2:]])
    assert decode(EncodedImage('jpeg', whole), FULL, FULL).shape == (64, 96, 3)
    refused(EncodedImage('jpeg', whole[:-200]), 'corrupt_jpeg', 'cut off: no end marker')


def test_noise_inside_a_jpeg_is_refused():
    data = jpeg(picture(400, 600))
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8)
    data[data.size // 2:data.size // 2 + 3000] = noise
    refused(EncodedImage('jpeg', data), 'corrupt_jpeg', 'the JPEG cannot be used')


def test_a_hole_inside_a_jpeg_is_refused(jpeg_decoder):
    if jpeg_decoder == 'opencv':
        pytest.skip('OpenCV has no strict mode: a hole between valid codes cannot be seen')
    data = jpeg(picture(400, 600))
    refused(EncodedImage('jpeg', np.concatenate([data[:data.size // 2], data[-2:]])),
            'corrupt_jpeg', 'premature end')


def test_a_jpeg_that_claims_to_be_huge_is_refused_before_decoding():
    data = jpeg()
    at = frame_header(data)
    data[at + 5:at + 9] = 0xFF  # 65535 x 65535: 12 GB of RGB
    refused(EncodedImage('jpeg', data), 'too_many_pixels', f'65535x65535.*{MAX_PIXELS}')


def test_a_png_that_claims_to_be_huge_is_refused_before_decoding():
    data = encoded(picture(), '.png')
    data[16:20] = (0, 1, 0, 0)
    data[20:24] = (0, 1, 0, 0)
    refused(EncodedImage('png', data), 'too_many_pixels', '65536x65536')


def test_a_jpeg_without_size_or_colours_is_refused():
    data = jpeg()
    at = frame_header(data)
    flat, cmyk, deep = data.copy(), data.copy(), data.copy()
    flat[at + 5:at + 7] = 0
    cmyk[at + 9] = 4
    deep[at + 4] = 12
    refused(EncodedImage('jpeg', flat), 'zero_size', '96x0')
    refused(EncodedImage('jpeg', cmyk), 'unknown_encoding', '4 components')
    refused(EncodedImage('jpeg', deep), 'unknown_encoding', '12 bits')


def test_damaged_and_deep_pngs_are_refused():
    data = encoded(picture(), '.png')
    flipped = data.copy()
    flipped[data.size // 2] ^= 0xFF
    refused(EncodedImage('png', flipped), 'corrupt_png', 'damaged or cut off')
    refused(EncodedImage('png', data[:data.size // 2]), 'corrupt_png', 'damaged or cut off')
    refused(EncodedImage('png', data[:20]), 'corrupt_png', 'cut off after 20 bytes')
    _, deep = cv2.imencode('.png', np.zeros((8, 8), np.uint16))
    refused(EncodedImage('png', deep.reshape(-1)), 'unknown_encoding', '16 bits')


def test_other_formats_are_refused_by_name():
    refused(EncodedImage('16UC1; compressedDepth', encoded(picture(), '.png')), 'unknown_format',
            'compressedDepth')
    refused(EncodedImage('webp', np.frombuffer(b'RIFF1234WEBP', np.uint8)), 'unknown_format',
            "'webp' with first bytes 52 49 46 46")
    refused(EncodedImage('jpeg', np.zeros(0, np.uint8)), 'empty_data', 'no data')


@pytest.mark.parametrize(('encoding', 'values'), [
    ('rgb8', (200, 100, 30)), ('bgr8', (30, 100, 200)),
    ('rgba8', (200, 100, 30, 9)), ('bgra8', (30, 100, 200, 9)),
])
def test_colour_encodings(encoding, values):
    rows = np.tile(values, (4, 6)).astype(np.uint8)
    expected = np.tile((200, 100, 30), (4, 6, 1))
    assert np.array_equal(decode(raw(encoding, rows, 6), 1, 1), expected)


def test_mono():
    assert decode(raw('mono8', [[10, 20]], 2), 1, 1).tolist() == [[[10] * 3, [20] * 3]]


@pytest.mark.parametrize(('encoding', 'mosaic'), [
    ('bayer_rggb8', ((200, 100), (100, 30))), ('bayer_bggr8', ((30, 100), (100, 200))),
    ('bayer_gbrg8', ((100, 30), (200, 100))), ('bayer_grbg8', ((100, 200), (30, 100))),
])
def test_bayer_mosaic_of_one_colour(encoding, mosaic):
    decoded = decode(raw(encoding, np.tile(mosaic, (4, 4)), 8), 1, 1)
    assert np.array_equal(decoded, np.tile((200, 100, 30), (8, 8, 1)))


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'])
def test_yuv_by_bt601(encoding):
    """
    Y 81, U 90, V 240 is pure red, and without colour Y 126 is 1.164 * (126 - 16) = 128.

    R = 1.164 * 65 + 1.596 * 112 = 254.4, G = 75.7 - 0.813 * 112 - 0.391 * -38 = -0.5.
    """
    red, grey = (90, 81, 240, 81), (128, 126, 128, 126)  # U Y V Y: two pixels
    rows = np.array([red + grey] * 2)
    if encoding in ('yuv422_yuy2', 'yuyv'):
        rows = rows.reshape(2, 4, 2)[..., ::-1].reshape(2, 8)
    expected = [[[254, 0, 0]] * 2 + [[128, 128, 128]] * 2] * 2
    assert decode(raw(encoding, rows, 4), 1, 1).tolist() == expected


@pytest.mark.parametrize('encoding', RAW_ENCODINGS)
def test_padded_rows_do_not_scramble(encoding):
    pixel_bytes = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4}.get(
        encoding, 2 if encoding.startswith(('yu', 'uyvy')) else 1)
    rows = np.random.default_rng(3).integers(0, 256, (6, 8 * pixel_bytes))
    assert np.array_equal(decode(raw(encoding, rows, 8, step=8 * pixel_bytes + 24), 1, 1),
                          decode(raw(encoding, rows, 8), 1, 1))


def test_rgb8_is_not_copied_and_spare_bytes_are_harmless():
    data = np.arange(2 * 6 + 5, dtype=np.uint8)
    decoded = decode(RawImage('rgb8', 2, 2, 6, False, data), 1, 1)
    assert np.shares_memory(decoded, data)
    assert decoded.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


@pytest.mark.parametrize(('fields', 'reason', 'match'), [
    (('rgb8', 4, 4, 12, 47), 'short_data', 'height x step = 4 x 12 = 48 bytes, found 47'),
    (('rgb8', 2**31, 4, 12, 48), 'short_data', 'found 48'),
    (('bgr8', 4, 4, 11, 44), 'bad_step', 'width x 3 bytes = 12 for bgr8, found 11'),
    (('yuv422', 4, 4, 0, 48), 'bad_step', 'found 0'),
    (('rgb8', 0, 4, 12, 48), 'zero_size', '4x0'),
    (('rgb8', 4, 0, 12, 48), 'zero_size', '0x4'),
    (('uyvy', 4, 3, 6, 24), 'bad_size', 'uyvy cannot be 3x4'),
    (('bayer_rggb8', 2, 8, 8, 16), 'bad_size', 'bayer_rggb8 cannot be 8x2'),
    (('mono16', 4, 4, 8, 32), 'unknown_encoding', "'mono16' is not one of rgb8"),
    (('16UC1', 4, 4, 8, 32), 'unknown_encoding', "'16UC1'"),
    (('', 4, 4, 8, 32), 'unknown_encoding', "''"),
    (('rgb8', 4, 4, 12, 0), 'empty_data', 'no data'),
])
def test_wrong_raw_images_are_refused(fields, reason, match):
    encoding, height, width, step, size = fields
    data = np.zeros(size, np.uint8)
    refused(RawImage(encoding, height, width, step, False, data), reason, match)


@pytest.mark.skipif(not FRAMES.is_dir(), reason='shared/data/nuscenes_frames is not here')
def test_both_decoders_see_the_same_street(monkeypatch):
    pytest.importorskip('simplejpeg')
    data = np.fromfile(next(FRAMES.glob('01_*')) / 'CAM_FRONT.jpg', np.uint8)
    ours = decode(EncodedImage('jpeg', data), 224, 392).astype(int)
    monkeypatch.setattr(decode_module, 'simplejpeg', None)
    opencv = decode(EncodedImage('jpeg', data), 224, 392)
    assert ours.shape == opencv.shape == (225, 400, 3)
    assert np.abs(ours - opencv).max() <= 4


@pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs /proc')
def test_malformed_pictures_do_not_leak():
    """2,000 of them (pytorch/vision#9383 leaked on each)."""
    data = jpeg(picture(200, 300))
    cut, noisy = data[:data.size // 2], data.copy()
    noisy[data.size // 2:data.size // 2 + 2000] = 0xFF

    def malformed(count):
        for i in range(count):
            with pytest.raises(FrameError):
                decode(EncodedImage('jpeg', noisy if i % 2 else cut), 32, 32)

    malformed(200)
    before = resident_bytes()
    malformed(2000)
    assert resident_bytes() - before < 4e6  # one decoded picture is 180 kB


def resident_bytes():
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')
