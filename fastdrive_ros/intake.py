# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Where the callbacks put what came, and where the worker takes the newest frame set from.

Callbacks only store, so an executor is never blocked; one worker thread takes. Latest wins: a set
that is replaced before the worker took it is counted, never queued. No timer is needed for the
synchroniser's deadlines, because the only reader waits exactly until the next one.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.ego import OdometrySample
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.sync import SyncConfig
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameSet


@dataclass(frozen=True)
class IntakeCounts:
    """What happened to everything that came so far."""

    sets: dict[str, int]
    """whole, partial, refused (by the synchroniser), superseded, rate_limited, resets."""
    frame_drops: dict[tuple[str, str], int]
    """(camera, reason) -> frames; also ('odometry', reason) -> samples."""


class Intake:
    """Synchroniser, odometry buffer and one-slot mailbox behind one lock."""

    def __init__(self, synchronizer: FrameSynchronizer, ego: EgoBuffer, max_rate_hz: float,
                 monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Start empty; ``max_rate_hz`` 0 means as fast as sets come."""
        self._sync = synchronizer
        self._ego = ego
        self._max_rate_hz = max_rate_hz
        self._monotonic_ns = monotonic_ns
        self._changed = threading.Condition()
        self._ready: FrameSet | None = None
        self._last_accepted_ns: int | None = None
        self._counts: Counter[str] = Counter()
        self._frame_drops: Counter[tuple[str, str]] = Counter()
        self._closed = False
        self.idle = False
        """True while the worker waits: what comes now will be planned on, not superseded."""

    def push_frame(self, frame: Frame) -> None:
        """Store one frame (executor thread)."""
        with self._changed:
            self._accept(self._sync.push(frame))
            self._changed.notify()

    def push_odometry(self, sample: OdometrySample) -> None:
        """Store one odometry sample; raises EgoError when it cannot be used."""
        with self._changed:
            self._ego.push(sample)
            self._changed.notify()

    def drop_frame(self, camera: str, reason: str) -> None:
        """Count a frame that never became one, or that failed later (undecodable)."""
        with self._changed:
            self._frame_drops[camera, reason] += 1

    def take(self) -> FrameSet | None:
        """Wait for the newest set (worker thread); None once closed."""
        with self._changed:
            while not self._closed:
                now_ns = self._monotonic_ns()
                self._accept(self._sync.poll(now_ns))
                if self._ready is not None and now_ns >= self._odometry_deadline_ns():
                    taken, self._ready = self._ready, None
                    return taken
                self.idle = True
                self._changed.wait(self._patience_s(now_ns))
                self.idle = False
            return None

    def ego_at(self, stamp_ns: int) -> EgoState:
        """Return the ego state at a header stamp; raises EgoError when there is none."""
        with self._changed:
            return self._ego.at(stamp_ns)

    def reset(self) -> None:
        """Forget everything that is pending: the clock jumped. Counters stay."""
        with self._changed:
            self._sync.reset()
            self._ego.reset()
            self._ready = None
            self._last_accepted_ns = None
            self._counts['clock_resets'] += 1

    def reconfigure(self, sync: SyncConfig, ego: EgoConfig, max_rate_hz: float) -> None:
        """Take new limits from now on."""
        with self._changed:
            self._sync.reconfigure(sync)
            self._ego.reconfigure(ego)
            self._max_rate_hz = max_rate_hz
            self._changed.notify()

    def close(self) -> None:
        """Release the worker; nothing is accepted afterwards."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def counts(self) -> IntakeCounts:
        """Return a copy of all counters."""
        with self._changed:
            odometry = Counter({('odometry', reason): count
                                for reason, count in self._ego.ignored.items()})
            drops = self._frame_drops + self._sync.drops + odometry
            return IntakeCounts({**self._sync.set_counts, **self._counts}, dict(drops))

    def _odometry_deadline_ns(self) -> int:
        """Return until when the ready set waits for the first odometry of the drive."""
        if self._ready is None or not self._ego.empty:
            return 0
        return self._sync.deadline_ns(self._ready.first_arrival_ns)

    def _patience_s(self, now_ns: int) -> float | None:
        """Return how long nothing can happen but a message; None: for ever."""
        deadlines_ns = [deadline_ns for deadline_ns in (
            self._sync.next_deadline_ns, self._odometry_deadline_ns()) if deadline_ns]
        if not deadlines_ns:
            return None
        return max(0.0, (min(deadlines_ns) - now_ns) / 1e9) + 1e-4

    def _accept(self, sets: list[FrameSet]) -> None:
        for frame_set in sets:
            if self._too_soon(frame_set.stamp_ns):
                self._counts['rate_limited'] += 1
                continue
            if self._ready is not None:
                self._counts['superseded'] += 1
            self._ready = frame_set
            self._last_accepted_ns = frame_set.stamp_ns

    def _too_soon(self, stamp_ns: int) -> bool:
        if not self._max_rate_hz or self._last_accepted_ns is None:
            return False
        elapsed_ns = stamp_ns - self._last_accepted_ns
        # A tenth of slack: 10 Hz stamps jitter, and a limit of 10 Hz should not halve them.
        return 0 <= elapsed_ns < 0.9e9 / self._max_rate_hz
