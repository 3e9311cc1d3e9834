# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How far the labelling is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager

_LINE_EVERY_S = 30.0


@contextmanager
def progress(total: int, say: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Give what is to be told how many pictures are done, again and again."""
    if not sys.stderr.isatty():
        yield _Lines(total, say)
        return
    from rich.console import Console
    from rich.progress import BarColumn
    from rich.progress import MofNCompleteColumn
    from rich.progress import Progress
    from rich.progress import TextColumn
    from rich.progress import TimeRemainingColumn

    columns = (TextColumn('labelling'), BarColumn(), MofNCompleteColumn(),
               TextColumn('{task.fields[rate]}'), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=600) as bar:
        task = bar.add_task('labelling', total=total, rate='')

        def show(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, rate=f'{speed:.2f} images/s' if speed else '')

        yield show


class _Lines:
    """A line every half minute, for logs."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self._total = total
        self._say = say
        self._began_s = self._said_s = time.monotonic()

    def __call__(self, done: int) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < _LINE_EVERY_S or not done:
            return
        self._said_s = now_s
        rate = done / (now_s - self._began_s)
        left_s = (self._total - done) / rate
        self._say(f'{done} of {self._total} images, {rate:.2f} images/s, '
                  f'{left_s / 60:.0f} min left')
