# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""RUN/metrics.jsonl -> RUN/curves.png: every figure of a training over its steps."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NOT_A_FIGURE = ('step', 'split')
_COLUMNS = 3
_COLOURS = {'train': '#8fb3d9', 'val': '#d1495b'}


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Write one small picture a figure; rows are learn.loop.read_metrics."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for row in rows for name in row if name not in _NOT_A_FIGURE))
    if not names:
        return
    lines = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 2.6 * lines), layout='constrained')
    figure.suptitle(title)
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, _COLUMNS, number)
        for split, colour in _COLOURS.items():
            points = [(row['step'], row[name]) for row in rows
                      if row['split'] == split and name in row]
            if points:
                axes.plot(*zip(*points), color=colour, label=split, linewidth=1.4,
                          marker='o' if split == 'val' else None, markersize=3)
        axes.set_title(name.replace('_', ' '), fontsize=10)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    figure.axes[-1].set_xlabel('step', fontsize=9)
    figure.savefig(path, dpi=110)
