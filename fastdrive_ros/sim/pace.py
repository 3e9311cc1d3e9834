# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Simulated time against the clock on the wall: when a step is due, how far it falls behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# A hiccup is caught up with; what is late by more is lost, or a slow stretch would be followed by
# one that races.
_CATCH_UP_S = 0.2
_WINDOW_STEPS, _FEWEST_STEPS = 50, 10
_BEHIND = 0.95


class Pace:
    """Keeps simulated seconds at ``speed`` a second, and says when it cannot."""

    def __init__(self, speed: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """``speed`` 0: nothing is waited for."""
        self.lost_s = 0.0
        """By how much, in seconds on the wall, the drives ended later than asked."""
        self._speed = speed
        self._monotonic_s = monotonic_s
        self._begin_s = (monotonic_s(), 0.0)
        self._window: deque[tuple[float, float]] = deque(maxlen=_WINDOW_STEPS + 1)

    def start(self, simulated_s: float) -> None:
        """Begin at this simulated time; how it was reached does not count."""
        self._begin_s = (self._monotonic_s(), simulated_s)
        self._window.clear()
        self._window.append(self._begin_s)

    def wait_s(self, simulated_s: float) -> float:
        """Return in how many seconds a simulated time is due; below 0 when it should have been."""
        if not self._speed:
            return 0.0
        wall_s, begin_s = self._begin_s
        return wall_s + (simulated_s - begin_s) / self._speed - self._monotonic_s()

    def reached(self, simulated_s: float) -> None:
        """Note that the simulation is there."""
        now = (self._monotonic_s(), simulated_s)
        self._window.append(now)
        late_s = -self.wait_s(simulated_s)
        if late_s > _CATCH_UP_S:
            self.lost_s += late_s
            self._begin_s = now

    @property
    def factor(self) -> float:
        """Simulated seconds a second, over the last steps; 0 before there are two."""
        if not self._window:
            return 0.0
        (wall_s, simulated_s), (last_wall_s, last_simulated_s) = self._window[0], self._window[-1]
        elapsed_s = last_wall_s - wall_s
        return (last_simulated_s - simulated_s) / elapsed_s if elapsed_s > 0.0 else 0.0

    @property
    def behind(self) -> bool:
        """Whether the last steps, a few at least, came slower than asked."""
        return len(self._window) > _FEWEST_STEPS and self.factor < _BEHIND * self._speed
