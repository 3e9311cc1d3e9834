# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables for people: drawn with rich on a terminal, plain columns in a pipe or a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from collections.abc import Sequence


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print one table; the first column is text, the others are aligned to the right."""
    if sys.stdout.isatty():
        _print_rich(title, columns, rows)
    else:
        _print_plain(title, columns, rows)


def print_latency(title: str, summary: Mapping[str, Mapping[str, float]]) -> None:
    """Print core.latency's summary: one row a stage, milliseconds."""
    print_table(title, ('stage', 'p50 ms', 'p95 ms', 'p99 ms', 'max ms', 'cycles'), [
        (stage, *(f'{values[name]:.2f}' for name in ('p50', 'p95', 'p99', 'max')),
         f"{values['count']:.0f}")
        for stage, values in summary.items()])


def _print_rich(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify='left', title_style='bold', header_style='dim',
                  box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify='right' if i else 'left', no_wrap=not i)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _print_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(cell) for cell in cells) for cells in zip(columns, *rows)]
    print(title)
    for row in (columns, *rows):
        cells = [cell.rjust(width) if i else cell.ljust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        print('  ' + '  '.join(cells).rstrip())
