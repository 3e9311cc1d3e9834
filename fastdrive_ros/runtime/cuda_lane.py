# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The way to the GPU that all engines of a load share: a stream, and pinned memory each way.

One stream: engines run one after another anyway, and what one left on the device is there for the
next. One arena of pinned memory a direction: it is as large as the largest engine wants, not as
all together (a planner in pieces has an engine for every layer).

What was run: all of it on a stand-in for CUDA (test_trt_graphs.py). What was not: on a GPU.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from fastdrive_ros.runtime.cuda_memory import Cuda

ALIGNMENT = 256
"""Bytes; TensorRT reads and writes tensors from such addresses on only."""


class Lane:
    """A stream and two arenas; the first engine to join makes them, the last to leave frees."""

    def __init__(self, cuda: Cuda) -> None:
        """Take the CUDA runtime; nothing is allocated yet."""
        self.cuda = cuda
        self.turn = threading.Lock()
        """Held by the engine that runs: arenas and stream are one's at a time."""
        self.stream: Any = None
        self._engines = 0
        self._arenas: dict[str, np.ndarray] = {}

    def join(self) -> None:
        """Come in as one more engine."""
        with self.turn:
            if not self._engines:
                self.stream = self.cuda.stream()
            self._engines += 1

    def leave(self) -> None:
        """Go; with the last engine goes everything."""
        with self.turn:
            self._engines -= 1
            if self._engines:
                return
            arenas, stream = self._arenas, self.stream
            # All of it is tried, whatever fails.
            with ExitStack() as freeing:
                freeing.callback(self.cuda.call, 'cudaStreamDestroy', stream)
                for memory in arenas.values():
                    freeing.callback(self.cuda.free_pinned, memory)
                freeing.callback(self.wait)
            self._arenas, self.stream = {}, None

    def wait(self) -> None:
        """Return when all is done that the stream was given."""
        self.cuda.call('cudaStreamSynchronize', self.stream)

    def reserve(self, direction: str, num_bytes: int) -> None:
        """Have at least ``num_bytes`` of pinned memory for 'up' or 'down'; views of old end."""
        if len(self._arenas.get(direction, ())) >= num_bytes:
            return
        if direction in self._arenas:
            self.wait()  # a run that failed may have left copies under way
            self.cuda.free_pinned(self._arenas.pop(direction))
        self._arenas[direction] = self.cuda.pinned(num_bytes)

    def arrays(
        self, direction: str, wanted: Iterable[tuple[tuple[int, ...], np.dtype]]
    ) -> list[np.ndarray]:
        """Return pinned arrays of these shapes and types, good until asked again."""
        wanted = list(wanted)
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in wanted]
        self.reserve(direction, arena_bytes(sizes))
        arrays, start = [], 0
        for (shape, dtype), size in zip(wanted, sizes, strict=True):
            part = self._arenas[direction][start:start + size]
            arrays.append(part.view(dtype).reshape(shape))
            start += arena_bytes([size])
        return arrays


def arena_bytes(sizes: Iterable[int]) -> int:
    """Return what arrays of ``sizes`` bytes take side by side, each aligned."""
    return sum(-(-max(1, size) // ALIGNMENT) * ALIGNMENT for size in sizes)
