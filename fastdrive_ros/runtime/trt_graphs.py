# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Runs of an engine recorded as CUDA graphs, so that a run that comes again is one launch.

What runs twice in a row with the same shapes, the same K and the same addresses is recorded: the
encoder, the pruner, a planner with waypoints. Passes over a growing cache never are.

A graph is good for the state of the context that it was recorded from, so each has a context of
its own that nothing touches afterwards; their scratch memory is one, for only one runs at a time
(TensorRT developer guide, "CUDA Graphs"). Before a graph is used it must give, bit for bit, what
the engine gives without: it is recorded over inputs of zero bytes and replayed on the real ones
into overwritten outputs, so that nothing recorded, nothing written or an input that is read from
elsewhere shows. A graph that fails ends recording for its engine, which goes on as before.

What was run: all of it on stand-ins for CUDA and TensorRT that record, defer and go wrong in these
ways (test_trt_graphs.py). What was not: on a GPU. How long recording takes is not known; it is
four runs and a capture, once for every new K.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.runtime.cuda_lane import Lane
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.trt_context import Binding
from fastdrive_ros.runtime.trt_context import TrtContext

RUNS_TO_REPLAY = 3
"""After so many equal runs all ways were gone: plain, recorded and proven, found and replayed."""
MOST_GRAPHS = 8
"""Graphs kept of an engine: K at a few keep ratios, with and without a camera."""
_LOG = logging.getLogger(__name__)

Sent = Sequence[tuple[int, np.ndarray]]
"""What travels up: where on the device, and from where in pinned memory."""


@dataclass(frozen=True)
class Replay:
    """A recorded run."""

    shapes: Mapping[str, tuple[int, ...]]
    """Of the outputs."""
    context: TrtContext
    """It was recorded from this one; it must live on, and stay as it is."""
    graph: Any
    lane: Lane

    def enqueue(self, stream: Any) -> None:
        """Queue the run again."""
        self.lane.cuda.call('cudaGraphLaunch', self.graph, stream)

    def close(self) -> None:
        """Destroy the graph."""
        self.lane.cuda.call('cudaGraphExecDestroy', self.graph)


class Replays:
    """The recorded runs of one engine; the one not used for longest goes when there are many."""

    def __init__(self, graph: str, lane: Lane, new_context: Callable[[], TrtContext],
                 dtypes: Mapping[str, np.dtype], most: int = MOST_GRAPHS) -> None:
        """
        Take the graph's name and what makes contexts; record nothing yet, with ``most`` 0 never.

        ``dtypes`` are those of the outputs in device memory.
        """
        self.trouble = ''
        """Why recording was given up; empty while all is well."""
        self._graph = graph
        self._lane = lane
        self._new_context = new_context
        self._dtypes = dtypes
        self._most = most
        self._kept: OrderedDict[Hashable, Replay] = OrderedDict()
        self._last: Hashable = None
        self._due = False

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._kept)

    def find(self, binding: Binding) -> Replay | None:
        """Return the recorded run of this binding; ask once a run."""
        self._due = False
        if not self._most or self.trouble:
            return None
        key = binding.key
        self._due, self._last = key == self._last, key
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def record(self, binding: Binding, plain: TrtContext, sent: Sent) -> Replay | None:
        """
        Record and prove the run that ``find`` had not, if it is the second in a row.

        ``plain`` is bound to it. Inputs and outputs on the device are written over. None: not
        now, or given up.
        """
        if not self._due:
            return None
        try:
            while len(self._kept) >= self._most:
                self._kept.popitem(last=False)[1].close()
            self._kept[binding.key] = replay = self._recorded(binding, sent)
            self._prove(replay, binding, plain, sent)
        except EngineError as error:
            self.trouble = f'{self._graph} goes on without CUDA graphs: {error}'
            _LOG.warning(self.trouble)
            self.close()
            return None
        return replay

    def close(self) -> None:
        """Destroy what was recorded."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _recorded(self, binding: Binding, sent: Sent) -> Replay:
        cuda, stream = self._lane.cuda, self._lane.stream
        context = self._new_context()
        shapes = context.bind(binding, self._dtypes)
        for address, array in sent:
            cuda.fill(address, 0, array.nbytes, stream)
        # What a context does at its first run after new shapes must not be recorded.
        context.enqueue(stream)
        self._lane.wait()
        graph = cuda.record(lambda: context.enqueue(stream), stream)
        return Replay(shapes, context, graph, self._lane)

    def _prove(self, replay: Replay, binding: Binding, plain: TrtContext, sent: Sent) -> None:
        """Raise EngineError unless the replay's outputs are those of a plain run."""
        expected = self._outputs(plain, replay.shapes, binding, sent)
        found = self._outputs(replay, replay.shapes, binding, sent)
        if wrong := [name for name in found if found[name] != expected[name]]:
            raise EngineError(f'a replayed run gave other values of {", ".join(wrong)} than a '
                              'plain one on the same inputs')

    def _outputs(self, run: TrtContext | Replay, shapes: Mapping[str, tuple[int, ...]],
                 binding: Binding, sent: Sent) -> dict[str, bytes]:
        """Return the bytes of every output of one run."""
        cuda, stream = self._lane.cuda, self._lane.stream
        for address, array in sent:
            cuda.upload(address, array, stream)
        found = {name: np.empty(math.prod(shape) * self._dtypes[name].itemsize, np.uint8)
                 for name, shape in shapes.items()}
        for name, array in found.items():
            cuda.fill(binding.addresses[name], 0xff, array.nbytes, stream)
        run.enqueue(stream)
        for name, array in found.items():
            cuda.download(array, binding.addresses[name], stream)
        self._lane.wait()
        return {name: array.tobytes() for name, array in found.items()}
