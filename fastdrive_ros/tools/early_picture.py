# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `fastdrive bench encoders` found of early-pruned bundles -> one picture."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastdrive_ros.data.records import DataError

_Line = Sequence[Mapping[str, Any]]

_PANELS = (('l2_relative_percent', 'L2 against unpruned, %'),
           ('collision_mean_box_avg', 'collision, mean_box, %'),
           ('boundary_any_cell_avg', 'boundary, any_cell, %'),
           ('foreground_recall', 'foreground recall, %'),
           ('miss_rate', 'miss rate (things, not road), %'))
# Rows of an evaluation that are drawn -> style: what the early cut alone does, and a pruner after.
_ROWS = {'none': '-', 'recon@0.5': ':'}
_INK, _MUTED, _GRID = '#1b1f24', '#68727d', '#e3e7eb'
_COLOURS = '#2f6f9f', '#d1352b', '#3f9c6d', '#8a63b8', '#c98a1b', '#2aa5a0'
_MARKERS = 'osD^vP'
_STYLE = {'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': _INK,
          'axes.edgecolor': _GRID, 'axes.labelcolor': _INK, 'axes.titlesize': 11,
          'xtick.color': _MUTED, 'ytick.color': _MUTED, 'axes.grid': True, 'grid.color': _GRID,
          'axes.axisbelow': True, 'axes.spines.top': False, 'axes.spines.right': False}


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """Write a PNG; DataError unless evaluations of early-pruned bundles are there."""
    whole, *others = figures['bundles']
    blocks = sorted({each['early_pruning']['after_block'] for each in others
                     if each['early_pruning']})
    if not blocks or not figures['scenes']:
        raise DataError('--picture needs an unpruned bundle first, then early-pruned ones '
                        '(`fastdrive export --early-pruning`), and --evaluations of all')
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(13.5, 8.2), dpi=100, facecolor='white')
        panels = figure.subplots(2, 3)
        for axes, (_, title) in zip(panels.flat, _PANELS):
            axes.set_title(title, loc='left')
        for i, block in enumerate(blocks):
            line = [whole, *sorted(
                (each for each in others if each['early_pruning']
                 and each['early_pruning']['after_block'] == block),
                key=lambda each: -each['encoded_share'])]
            for axes, (name, _) in zip(panels.flat, _PANELS):
                _draw_quality(axes, line, name, f'after block {block}', i)
            _draw_cost(panels[1, 2], line, f'after block {block}', i)
        panels[1, 2].set_title('encoder: time (marks), MACs (lines), 1 = whole', loc='left')
        panels[1, 2].set_ylim(0.0, 1.1)
        for axes in panels.flat:
            axes.set_xlim(105.0, 0.0)
        for axes in panels[1]:
            axes.set_xlabel('tokens that the encoder carries to its end, %')
        _finish(figure, panels[0, 0], figures)
        FigureCanvasAgg(figure).print_png(path)


def _draw_quality(axes: Axes, line: _Line, name: str, label: str, number: int) -> None:
    for j, (row, style) in enumerate(_ROWS.items()):
        found = [each['quality'].get(row) for each in line]
        if None in found:
            continue
        value, low, high = (np.array([each[name][key] for each in found], dtype=np.float64)
                            for key in ('value', 'low', 'high'))
        places = [100.0 * each['encoded_share'] + 1.6 * (number - 1) + 0.6 * j for each in line]
        after = '' if row == 'none' else f', then {row}'
        axes.errorbar(places, value, np.abs(np.stack([value - low, high - value])),
                      color=_COLOURS[number % len(_COLOURS)], linestyle=style,
                      marker=_MARKERS[number % len(_MARKERS)], markersize=5.5 if j == 0 else 4,
                      markerfacecolor=None if j == 0 else 'white', linewidth=1.5,
                      elinewidth=0.8, capsize=0, label=label + after)


def _draw_cost(axes: Axes, line: _Line, label: str, number: int) -> None:
    places = [100.0 * each['encoded_share'] for each in line]
    colour = _COLOURS[number % len(_COLOURS)]
    axes.plot(places, [each['macs_ratio'] for each in line], color=colour, linewidth=1.2)
    axes.plot(places, [each['time_ratio'] for each in line], linestyle='', color=colour,
              marker=_MARKERS[number % len(_MARKERS)], markersize=5.5)


def _finish(figure: Figure, axes: Axes, figures: Mapping[str, Any]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.suptitle('Early pruning: what leaves the vision tower, and what that does to plans '
                    '(bars: 95 % over scenes)', x=0.02, y=0.985, ha='left', fontsize=13)
    figure.text(0.02, 0.012, f"{figures['scenes']} scenes; encoder {figures['cameras']} x "
                f"{figures['height']} x {figures['width']}, {figures['precision']}, "
                f"{figures['backend']}, 1 thread, medians of {figures['repeats']}",
                color=_MUTED, fontsize=8)
    figure.legend(handles, labels, loc='lower center', ncols=3, bbox_to_anchor=(0.5, 0.03),
                  frameon=False)
    figure.tight_layout(rect=(0.0, 0.12, 1.0, 0.96))
