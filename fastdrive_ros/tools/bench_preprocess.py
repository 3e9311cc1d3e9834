# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
How long six camera JPEGs take to become the encoder's input: our way against two others.

    plain   stage by stage, as a node that decodes in its callbacks: cv2.imdecode at full size,
            cv2.resize, RGB, numpy normalise -> float32 (V, 3, H, W)
    lean    the best that full-size decoding can do: picture by picture, each thrown away while it
            is still in the cache, not normalised -> uint8 (V, H, W, 3), the same tensor as ours
    ours    core/preprocess.py -> uint8 (V, H, W, 3); the encoder's graph normalises

Every way gets the same number of threads, and each repeat runs all ways one after the other, so
that a busy computer slows all of them alike. Figures are medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fastdrive_ros.core.decode import decoder_name
from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.tools.tables import print_table

_NUM_CAMERAS = 6
_FULL_HEIGHT, _FULL_WIDTH = 900, 1600
_WARM_UP = 3
_THREADS = (1, 2)
# Qwen2-VL's image processor: the mean and deviation of CLIP.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def bench(images_dir: Path | None, height: int = 224, width: int = 392,
          repeats: int = 40) -> dict[str, Any]:
    """
    Measure every way on six JPEGs of a folder, or on six synthetic ones when there is none.

    Raises FileNotFoundError when the folder holds fewer.
    """
    jpegs = _synthetic_jpegs() if images_dir is None else _read_jpegs(images_dir)
    threads = {num: _bench_threads(jpegs, height, width, num, repeats) for num in _THREADS}
    return {
        'bench': 'preprocess',
        'source': 'synthetic 1600x900' if images_dir is None else images_dir.name,
        'images': len(jpegs),
        'kilobytes_per_image': round(sum(jpeg.size for jpeg in jpegs) / len(jpegs) / 1e3),
        'height': height,
        'width': width,
        'jpeg_decoder': decoder_name(),
        'repeats': repeats,
        'threads': {str(num): figures for num, figures in threads.items()},
    }


def print_report(figures: dict[str, Any]) -> None:
    """Print what ``bench`` measured as a table for people."""
    print_table(
        f"{figures['images']} JPEGs ({figures['source']}, {figures['kilobytes_per_image']} kB "
        f"each) -> {figures['height']}x{figures['width']}, {figures['jpeg_decoder']}, medians of "
        f"{figures['repeats']}",
        ('threads', 'plain ms', 'lean ms', 'ours ms', 'plain/ours', 'lean/ours'),
        [(num, *(f'{row[key]:.2f}' for key in ('plain_ms', 'lean_ms', 'ours_ms', 'ratio',
                                               'ratio_lean')))
         for num, row in figures['threads'].items()])


def _bench_threads(jpegs: Sequence[np.ndarray], height: int, width: int, num_threads: int,
                   repeats: int) -> dict[str, float]:
    frames = {f'CAMERA_{i}': Frame(f'CAMERA_{i}', 1, 0, EncodedImage('jpeg', jpeg))
              for i, jpeg in enumerate(jpegs)}
    frame_set = FrameSet(tuple(frames), frames, 0)
    preprocessor = Preprocessor(frame_set.cameras, height, width, num_threads)
    with ThreadPoolExecutor(num_threads, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        plain_ms, lean_ms, ours_ms = _interleaved((
            lambda: _plain(pool, jpegs, height, width),
            lambda: _lean(pool, jpegs, height, width),
            lambda: preprocessor.run(frame_set)), repeats)
    preprocessor.close()
    return {'plain_ms': plain_ms, 'lean_ms': lean_ms, 'ours_ms': ours_ms,
            'ratio': round(plain_ms / ours_ms, 2), 'ratio_lean': round(lean_ms / ours_ms, 2)}


def _interleaved(ways: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return each way's median in ms."""
    took_ms = np.empty((repeats, len(ways)))
    for _ in range(_WARM_UP):
        for way in ways:
            way()
    for i in range(repeats):
        for j, way in enumerate(ways):
            start = time.perf_counter()
            way()
            took_ms[i, j] = (time.perf_counter() - start) * 1e3
    return [round(float(ms), 3) for ms in np.median(took_ms, axis=0)]


def _plain(pool: ThreadPoolExecutor, jpegs: Sequence[np.ndarray], height: int,
           width: int) -> np.ndarray:
    pictures = list(pool.map(lambda jpeg: cv2.imdecode(jpeg, cv2.IMREAD_COLOR), jpegs))
    small = list(pool.map(lambda picture: _to_size(picture, height, width), pictures))
    batch = np.stack(small).astype(np.float32) / 255
    return np.ascontiguousarray(((batch - _MEAN) / _STD).transpose(0, 3, 1, 2))


def _lean(pool: ThreadPoolExecutor, jpegs: Sequence[np.ndarray], height: int,
          width: int) -> np.ndarray:
    return np.stack(list(pool.map(
        lambda jpeg: _to_size(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), height, width), jpegs)))


def _to_size(bgr: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.cvtColor(cv2.resize(bgr, (width, height)), cv2.COLOR_BGR2RGB)


def _read_jpegs(images_dir: Path) -> list[np.ndarray]:
    paths = sorted(images_dir.glob('*.jpg'))[:_NUM_CAMERAS]
    if len(paths) < _NUM_CAMERAS:
        raise FileNotFoundError(2, f'expected {_NUM_CAMERAS} *.jpg, found {len(paths)}',
                                str(images_dir))
    return [np.fromfile(path, dtype=np.uint8) for path in paths]


def _synthetic_jpegs() -> list[np.ndarray]:
    """Return JPEGs about as heavy as a street: noise of all sizes, finer is fainter."""
    random = np.random.default_rng(0)
    jpegs = []
    for _ in range(_NUM_CAMERAS):
        picture = np.full((_FULL_HEIGHT, _FULL_WIDTH, 3), 128, dtype=np.float32)
        for cell in (256, 128, 64, 32, 16, 8, 4, 2):
            noise = random.normal(0, 2 * cell**0.5, (_FULL_HEIGHT // cell + 1,
                                                     _FULL_WIDTH // cell + 1, 3))
            picture += cv2.resize(noise.astype(np.float32), (_FULL_WIDTH, _FULL_HEIGHT))
        _, jpeg = cv2.imencode('.jpg', picture.clip(0, 255).astype(np.uint8),
                               [cv2.IMWRITE_JPEG_QUALITY, 80])
        jpegs.append(jpeg.reshape(-1))
    return jpegs
