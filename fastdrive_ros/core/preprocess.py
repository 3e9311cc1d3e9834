# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A frame set's pictures -> the vision encoder's input.

    FrameSet --decode, stretch: one task a camera--> CameraBatch.images uint8 (V, H, W, 3) RGB

No float anywhere: normalisation and layout are inside the encoder's graph.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet

# Stretching 16:9 to the encoder's multiples of 28 changes the shape by a few percent. A picture
# this far off comes from a camera that the model was not made for.
MAX_STRETCH = 1.2


class Preprocessor:
    """Decodes and scales the cameras of a set side by side, on threads of its own."""

    def __init__(self, cameras: Sequence[str], height: int, width: int, num_threads: int) -> None:
        """Make batches of ``cameras``, in this order, each stretched to height x width."""
        self._cameras = tuple(cameras)
        self._height = height
        self._width = width
        # One picture a thread keeps all threads busy; OpenCV splitting each resize over all
        # cores on top of that only makes them wait for each other. Set in every worker, because
        # in OpenMP builds of OpenCV the number belongs to the calling thread.
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix='preprocess',
                                        initializer=cv2.setNumThreads, initargs=(1,))
        # The newest frame of each camera whose picture is being prepared ahead of its set.
        self._ahead: dict[str, tuple[Frame, Future[_Prepared]]] = {}

    def prepare(self, frame: Frame) -> None:
        """
        Start on a frame while the rest of its sweep is still under way (any thread).

        ``run`` takes the result if the frame is in its set; a frame that never is costs only this.
        """
        self._ahead[frame.camera] = frame, self._submit(frame)

    def run(self, frame_set: FrameSet) -> tuple[CameraBatch, dict[str, float]]:
        """
        Return the batch, and the stages 'decode' and 'preprocess' in ms.

        A camera without a usable picture is zero and not present; why is in ``errors``. The
        tasks mix both stages, so the wall time is shared out in the proportion of the tasks' own
        times: the two stages add up to what this call took, so what was prepared while the sweep
        was still coming in does not count.
        """
        unknown = set(frame_set.frames) - set(self._cameras)
        if unknown:
            raise ValueError(f'expected frames of {self._cameras}, found {sorted(unknown)}')
        start = time.perf_counter()
        # A new batch each time: the overlay still reads the last one. Costs 0.1 ms.
        images = np.empty((len(self._cameras), self._height, self._width, 3), dtype=np.uint8)
        present = np.zeros(len(self._cameras), dtype=bool)
        tasks = {camera: self._task(frame) for camera, frame in frame_set.frames.items()}
        errors = {}
        decode_s = scale_s = 0.0
        for i, camera in enumerate(self._cameras):
            try:
                if camera in tasks:
                    prepared = tasks[camera].result()
                    images[i] = prepared.image
                    decode_s += prepared.decode_s
                    scale_s += prepared.scale_s
                    present[i] = True
            except FrameError as error:
                errors[camera] = error
            if not present[i]:
                images[i] = 0
        wall_ms = (time.perf_counter() - start) * 1e3
        decode_ms = wall_ms * decode_s / (decode_s + scale_s) if present.any() else wall_ms
        return (CameraBatch(images, present, errors),
                {'decode': decode_ms, 'preprocess': wall_ms - decode_ms})

    def close(self) -> None:
        """End the threads; calling twice is harmless."""
        self._pool.shutdown()

    def _task(self, frame: Frame) -> Future[_Prepared]:
        ahead = self._ahead.pop(frame.camera, None)
        return ahead[1] if ahead and ahead[0] is frame else self._submit(frame)

    def _submit(self, frame: Frame) -> Future[_Prepared]:
        return self._pool.submit(_decode_and_scale, frame, self._height, self._width)


@dataclass(frozen=True)
class _Prepared:
    """One picture as the encoder takes it, uint8 (H, W, 3), and what it cost."""

    image: np.ndarray
    decode_s: float
    scale_s: float


def _decode_and_scale(frame: Frame, height: int, width: int) -> _Prepared:
    start = time.perf_counter()
    picture = decode(frame.image, height, width)
    decoded = time.perf_counter()
    image = stretch(picture, height, width)
    return _Prepared(image, decoded - start, time.perf_counter() - decoded)


def stretch(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return uint8 (height, width, 3) of (h, w, 3); FrameError where the shape is another."""
    _check_shape(picture, height, width)
    # Linear interpolation looks at four pixels only and skips the others when it shrinks by more
    # than two; area averages them all.
    shrink = max(picture.shape[0] / height, picture.shape[1] / width)
    return cv2.resize(picture, (width, height),
                      interpolation=cv2.INTER_AREA if shrink > 2 else cv2.INTER_LINEAR)


def _check_shape(picture: np.ndarray, height: int, width: int) -> None:
    """Refuse a picture that could only be used distorted."""
    found, expected = picture.shape[1] / picture.shape[0], width / height
    if max(found / expected, expected / found) > MAX_STRETCH:
        raise FrameError('wrong_size', f'the picture is {found:.2f} times as wide as high, the '
                         f'bundle expects {expected:.2f} ({width}x{height}): crop the camera, or '
                         'export the bundle for its shape (--height, --width)')
