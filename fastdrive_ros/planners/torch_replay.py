# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Passes of fixed shape: recorded once as a CUDA graph and replayed; on the CPU simply run.

A pass of a 3B model is about 600 kernels of a few microseconds; launched one by one from Python
they take longer than they run. A recorded pass is one launch.

What was run: the CPU side. What was not: capture and replay, for no GPU was there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Replay:
    """
    Runs passes by key on one stream of its own.

    A pass reads and writes only tensors that stay where they are, holds no decision of the host,
    and run twice leaves what it leaves when run once.
    """

    def __init__(self, device: torch.device) -> None:
        """Take the device; on CUDA make the stream and the memory pool that all graphs share."""
        self.fixed_shapes = device.type == 'cuda'
        """Whether passes must come in few shapes, so that a recorded one is found again."""
        self._graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        # Graphs may share a pool: nothing in it outlives a replay, results are copied out of it.
        self._pool = torch.cuda.graph_pool_handle() if device.type == 'cuda' else None

    @property
    def recorded(self) -> int:
        """How many passes were recorded."""
        return len(self._graphs)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Work on the stream, after all that the caller's stream was given."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def wait(self) -> None:
        """Return when all is done that the stream was given."""
        if self._stream is not None:
            self._stream.synchronize()

    def __call__(self, key: Any, work: Callable[[], None]) -> None:
        """Do a pass; only inside ``on_stream``."""
        if self._stream is None:
            work()
            return
        if key not in self._graphs:
            self._graphs[key] = self._record(work)
        self._graphs[key].replay()

    def _record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        # Twice as it is: kernels are loaded and workspaces made, which cannot be recorded.
        for _ in range(2):
            work()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread's engine may allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream,
                              capture_error_mode='thread_local'):
            work()
        return graph
