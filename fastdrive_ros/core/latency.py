# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stage times of one cycle, and their percentiles over a window of cycles."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np

# In data-flow order. 'convert' and 'sync' happen before Pipeline.run, 'publish' after it;
# 'prefill' and (of planners that write text) 'answer' are inside 'plan'; end_to_end runs from the
# first camera's arrival to publication.
STAGES = ('convert', 'sync', 'decode', 'preprocess', 'encode', 'prune', 'plan', 'prefill',
          'answer', 'postprocess', 'publish', 'end_to_end')


class StageTimer:
    """Collects ``{stage: ms}`` of one cycle: ``with timer('encode'): ...``."""

    def __init__(self) -> None:
        """Start with no stage measured."""
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block; the time is kept when the block raises, too."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[stage] = (time.perf_counter() - start) * 1e3


class LatencyWindow:
    """The last ``size`` cycles of every stage, and their percentiles."""

    def __init__(self, size: int) -> None:
        """Keep ``size`` cycles; older ones fall out."""
        if size < 1:
            raise ValueError(f'a latency window needs at least one cycle, got {size}')
        self._size = size
        self._cycles: dict[str, deque[float]] = {}

    def record(self, stage_ms: Mapping[str, float]) -> None:
        """Add one cycle; a stage that did not run is simply not in the mapping."""
        for stage, ms in stage_ms.items():
            self._cycles.setdefault(stage, deque(maxlen=self._size)).append(ms)

    def clear(self) -> None:
        """Forget everything, as after a time jump."""
        self._cycles.clear()

    def summary(self) -> dict[str, dict[str, float]]:
        """
        Return ``{stage: {'p50', 'p95', 'p99', 'max', 'count'}}``, stages in data-flow order.

        Percentiles are numpy's linear interpolation, milliseconds; count is a number of cycles.
        """
        order = {stage: i for i, stage in enumerate(STAGES)}
        summary = {}
        for stage in sorted(self._cycles, key=lambda s: (order.get(s, len(order)), s)):
            values = np.fromiter(self._cycles[stage], dtype=float)
            p50, p95, p99 = np.percentile(values, (50, 95, 99))
            summary[stage] = {'p50': float(p50), 'p95': float(p95), 'p99': float(p99),
                              'max': float(values.max()), 'count': len(values)}
        return summary
