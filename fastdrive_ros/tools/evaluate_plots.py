# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The summary of an evaluation -> pictures: figures against keep ratio, L2 against compute."""

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
from matplotlib.ticker import MaxNLocator

from fastdrive_ros.tools.evaluate_rows import EXTRAPOLATION
from fastdrive_ros.tools.evaluate_rows import UNPRUNED

_Entry = Mapping[str, Any]

_PANELS = (('l2_mean_avg', 'L2, m'), ('collision_mean_box_avg', 'collision, mean_box, %'),
           ('collision_any_cell_avg', 'collision, any_cell, %'),
           ('boundary_any_cell_avg', 'boundary, any_cell, %'),
           ('foreground_recall', 'foreground recall, %'), ('miss_rate', 'miss rate, %'))
_INK, _MUTED, _GRID = '#1b1f24', '#68727d', '#e3e7eb'
_OURS, _OURS_COLOUR = 'recon', '#d1352b'
# Of the others in the order in which they come; eleven methods are told apart by marker, too.
_COLOURS = ('#2f6f9f', '#3f9c6d', '#8a63b8', '#c98a1b', '#2aa5a0', '#b0557a', '#6f7f2c', '#4f5b66',
            '#9a6b4b', '#7a93d1')
_MARKERS = 'osD^vPX<>*h'
_STYLE = {'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': _INK,
          'axes.edgecolor': _GRID, 'axes.labelcolor': _INK, 'axes.titlesize': 11,
          'xtick.color': _MUTED, 'ytick.color': _MUTED, 'axes.grid': True, 'grid.color': _GRID,
          'axes.axisbelow': True, 'axes.spines.top': False, 'axes.spines.right': False}


def draw_plots(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write two PNGs a planner into ``folder``; return them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_STYLE):
        for planner in summary['planners']:
            entries = [entry for entry in summary['rows'] if not entry['control']
                       and entry['planner'] in ('', planner['name'])]
            for kind, figure in (('quality', _quality(summary, planner['name'], entries)),
                                 ('compute', _compute(summary, planner['name'], entries))):
                paths.append(folder / f"{planner['name']}_{kind}.png")
                FigureCanvasAgg(figure).print_png(paths[-1])
    return paths


def _quality(summary: Mapping[str, Any], planner: str, entries: Sequence[_Entry]) -> Figure:
    figure = Figure(figsize=(13.5, 8.0), dpi=100, facecolor='white')
    panels = figure.subplots(2, 3)
    methods = _methods(entries)
    ratios = sorted({entry['keep_ratio'] for line in methods.values() for entry in line},
                    reverse=True)
    for axes, (name, title) in zip(panels.flat, _PANELS):
        axes.set_title(title, loc='left')
        _draw_unpruned(axes, entries, name)
        for i, (method, line) in enumerate(methods.items()):
            aside = 0.6 * ((i + 0.5) / len(methods) - 0.5)
            places = [ratios.index(entry['keep_ratio']) + aside for entry in line]
            _draw_line(axes, places, line, name, method, list(methods))
        axes.set_xticks(range(len(ratios)), [f'{100 * ratio:g} %' for ratio in ratios])
        axes.set_xlim(-0.5, max(0.5, len(ratios) - 0.5))
        axes.grid(axis='x', visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        _draw_extrapolation(axes, entries, name)
    for axes in panels[1]:
        axes.set_xlabel('visual tokens kept')
    _finish(figure, panels.flat[0], summary, f'Planner {planner}: averages of 1, 2 and 3 s, '
            'bars are 95 % intervals over scenes')
    return figure


def _compute(summary: Mapping[str, Any], planner: str, entries: Sequence[_Entry]) -> Figure:
    figure = Figure(figsize=(10.5, 6.6), dpi=100, facecolor='white')
    axes = figure.subplots()
    methods = _methods(entries)
    _draw_unpruned(axes, entries, 'l2_mean_avg')
    for entry in entries:
        if entry['method'] == UNPRUNED:
            axes.plot(entry['macs'] / 1e9, entry['figures']['l2_mean_avg']['value'], 'o',
                      color=_INK, markersize=8)
    for method, line in methods.items():
        _draw_line(axes, [entry['macs'] / 1e9 for entry in line], line, 'l2_mean_avg', method,
                   list(methods))
    _draw_extrapolation(axes, entries, 'l2_mean_avg')
    axes.set_xlabel('GMAC a plan: encoder, pruner and planner')
    axes.set_ylabel('L2, m, mean of 1, 2 and 3 s')
    _finish(figure, axes, summary, f'Planner {planner}: displacement against compute')
    return figure


def _methods(entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Return {method: its entries, most tokens first}; methods that prune."""
    methods: dict[str, list[_Entry]] = {}
    for entry in entries:
        if entry['planner'] and entry['keep_ratio'] < 1.0:
            methods.setdefault(entry['method'], []).append(entry)
    return methods


def _draw_unpruned(axes: Axes, entries: Sequence[_Entry], name: str) -> None:
    """Draw what all is measured against: a line and its interval."""
    found = next(entry for entry in entries if entry['method'] == UNPRUNED)['figures'][name]
    if found['value'] is not None:
        axes.axhline(found['value'], color=_INK, linewidth=1.2, label='not pruned')
    if found['low'] is not None:
        axes.axhspan(found['low'], found['high'], color=_INK, alpha=0.07, linewidth=0)


def _draw_extrapolation(axes: Axes, entries: Sequence[_Entry], name: str) -> None:
    """Draw the baseline where it lies among the others; far from them, say only its value."""
    entry = next(entry for entry in entries if entry['method'] == EXTRAPOLATION)
    value = entry['figures'][name]['value']
    if value is None:
        return
    low, high = axes.get_ylim()
    if low <= value <= high:
        axes.axhline(value, color=_MUTED, linewidth=1.2, linestyle=':')
    axes.text(1.0, 1.02, f"{entry['label']}: {value:.3g}", transform=axes.transAxes, ha='right',
              color=_MUTED, fontsize=8)


def _draw_line(axes: Axes, places: Sequence[float], line: Sequence[_Entry], name: str,
               method: str, methods: Sequence[str]) -> None:
    """Draw one method's figures with their intervals."""
    found = [entry['figures'][name] for entry in line]
    value, low, high = (np.array([each[key] for each in found], dtype=np.float64)
                        for key in ('value', 'low', 'high'))
    ours = method == _OURS
    others = [each for each in methods if each != _OURS]
    colour = _OURS_COLOUR if ours else _COLOURS[others.index(method) % len(_COLOURS)]
    axes.errorbar(places, value, np.abs(np.stack([value - low, high - value])), color=colour,
                  marker=_MARKERS[methods.index(method) % len(_MARKERS)],
                  markersize=6.5 if ours else 4.5, linewidth=2.2 if ours else 0.9,
                  elinewidth=1.4 if ours else 0.7, capsize=0, zorder=3 if ours else 2,
                  alpha=1.0 if ours else 0.85, label=method)


def _finish(figure: Figure, axes: Axes, summary: Mapping[str, Any], title: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    frames, dataset = summary['frames'], summary['dataset']
    figure.suptitle(title, x=0.02, y=0.985, ha='left', fontsize=13, color=_INK)
    figure.text(0.02, 0.012, f"{dataset['name']}, split {dataset['split']}: {frames['scenes']} "
                f"scenes, {frames['frames']} frames; {summary['backend']}; fastdrive_ros "
                f"{summary['version']} {summary['commit'] or ''}".strip(),
                color=_MUTED, fontsize=8)
    figure.legend(handles, labels, loc='lower center', ncols=6,
                  bbox_to_anchor=(0.5, 0.03), frameon=False)
    figure.tight_layout(rect=(0.0, 0.11, 1.0, 0.96))
