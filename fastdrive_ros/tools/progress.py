# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Long work on stderr: a bar with rate and time left on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LINE_EVERY_S = 15.0


class Progress:
    """What ``showing`` gives: call it with how much is done so far."""

    def __init__(self, what: str, unit: str, total: int, done: int) -> None:
        """Start the clock; ``done`` was there before and does not count for the rate."""
        self._what, self._unit, self._total = what, unit, total
        self._before = done
        self._start_s = time.monotonic()
        self._line_s = self._start_s
        self._bar: Any = None
        self._task: Any = None

    def __call__(self, done: int, note: str = '') -> None:
        """Show that ``done`` of the total are there."""
        if self._bar:
            self._bar.update(self._task, completed=done, note=note, rate=self._rate(done))
        elif time.monotonic() - self._line_s > _LINE_EVERY_S:
            self._line_s = time.monotonic()
            print(', '.join(filter(None, (
                f'{self._what}: {done} of {self._total} {self._unit}', self._rate(done),
                self._left(done), note))), file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.console.print(message, markup=False, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def _left(self, done: int) -> str:
        if done <= self._before:
            return ''
        elapsed_s = time.monotonic() - self._start_s
        left_s = (self._total - done) * elapsed_s / (done - self._before)
        return f'{left_s / 60:.0f} min left'

    def _rate(self, done: int) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-3)
        return f'{(done - self._before) / elapsed_s:.1f} {self._unit}/s'


@contextmanager
def showing(what: str, unit: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar while the context lasts; ``done`` of ``total`` are there already."""
    progress = Progress(what, unit, total, done)
    if not sys.stderr.isatty():
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn
    from rich.progress import MofNCompleteColumn
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn
    from rich.progress import TimeRemainingColumn

    with Bar(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
             TextColumn('{task.fields[rate]}'), TimeRemainingColumn(),
             TextColumn('{task.fields[note]}'), console=Console(stderr=True)) as bar:
        progress._bar = bar
        progress._task = bar.add_task(what, total=total, completed=done, rate='', note='')
        yield progress
