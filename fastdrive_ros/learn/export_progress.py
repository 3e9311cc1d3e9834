# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Lines that say how long a step of an export took, and while it lasts that it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_S = 15.0


@contextmanager
def timed(report: Callable[[str], None], step: str) -> Iterator[Callable[[str], None]]:
    """Report a step with its seconds at its end; yields what adds a result to that line."""
    start_s = time.monotonic()
    done = threading.Event()
    results: list[str] = []

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            report(f'      ...  {step}: goes on, {time.monotonic() - start_s:.0f} s so far')

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield results.append
    finally:
        done.set()
        heart.join()
    report(': '.join([f'{time.monotonic() - start_s:7.1f} s  {step}', *results]))
