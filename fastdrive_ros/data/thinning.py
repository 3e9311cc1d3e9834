# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What comes at any rate, jitter and all -> what is kept at the rate asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import TypeVar

# Two that are kept are never nearer than this share of the period.
_NEAREST = 0.75

_Item = TypeVar('_Item')


def thinned(items: Iterable[_Item], stamp_ns: Callable[[_Item], int],
            rate_hz: float) -> Iterator[_Item]:
    """
    Yield those of the items, which come by stamp, that lie nearest to one period after the last.

    What comes at the rate, or a third faster by jitter, is kept whole; a rate that is not a
    multiple comes out as near as it can.
    """
    period_ns = 1e9 / rate_hz
    due_ns = -math.inf
    waiting: _Item | None = None
    for item in items:
        if waiting is not None and due_ns - stamp_ns(waiting) <= stamp_ns(item) - due_ns:
            yield waiting
            due_ns = stamp_ns(waiting) + period_ns
            waiting = None
        if stamp_ns(item) >= due_ns:
            yield item
            due_ns = stamp_ns(item) + period_ns
            waiting = None
        elif stamp_ns(item) >= due_ns - (1 - _NEAREST) * period_ns:
            waiting = item
    if waiting is not None:
        yield waiting
