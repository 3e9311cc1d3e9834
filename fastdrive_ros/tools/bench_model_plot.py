# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What `fastdrive bench model` measured -> a picture: prefill, decode, end to end against K."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.bench_model_report import PLAIN
from fastdrive_ros.tools.bench_model_report import device_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID = '#1b1f24', '#68727d', '#e3e7eb'
_OURS, _THEIRS = '#d1352b', '#4f5b66'
_RIVALS = {'fastv': '#2f6f9f', 'sparsevlm': '#3f9c6d', 'efficientvla': '#8a63b8'}
_STAGES = {'encode': '#9fb7c9', 'prune': '#c98a1b', 'prefill': '#d1352b', 'passes': '#e8a49e'}
_STYLE = {'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': _INK,
          'axes.edgecolor': _GRID, 'axes.labelcolor': _INK, 'axes.titlesize': 11,
          'xtick.color': _MUTED, 'ytick.color': _MUTED, 'axes.grid': True, 'grid.color': _GRID,
          'axes.axisbelow': True, 'axes.spines.top': False, 'axes.spines.right': False}


def draw_plot(result: Mapping[str, Any], path: Path) -> Path:
    """Write one PNG of three panels; return its path."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(13.5, 4.8), dpi=100, facecolor='white')
        prefill, decode, whole = figure.subplots(1, 3)
        _prefill(prefill, result)
        _decode(decode, result)
        _end_to_end(whole, result)
        figure.suptitle('Prefill, decode and whole plan against kept tokens', x=0.02, ha='left',
                        fontsize=13)
        figure.text(0.02, 0.015, f"{result['model']} ({result['weights']} weights, "
                    f"{result['dtype']}) on {device_name(result)}; N = {result['tokens']}, "
                    f"medians of {result['repeats']}; fastdrive bench model",
                    color=_MUTED, fontsize=8)
        figure.tight_layout(rect=(0.0, 0.04, 1.0, 0.97))
        FigureCanvasAgg(figure).print_png(path)
    return path


def _prefill(axes: Axes, result: Mapping[str, Any]) -> None:
    _title(axes, 'prefill, ms')
    _line(axes, result, ('none', 'recon'), 'prefill', _OURS, 'ours')
    _line(axes, result, (f'{PLAIN}, from tokens', f'{PLAIN}, pruned prompt'), 'prefill', _THEIRS,
          'transformers, one token')
    for name, colour in _RIVALS.items():
        _line(axes, result, (name,), 'prefill', colour, f'{name}, cut inside')
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)


def _decode(axes: Axes, result: Mapping[str, Any]) -> None:
    _title(axes, 'decode, ms a token')
    _line(axes, result, ('none', 'recon'), 'decode', _OURS, 'ours, one by one')
    _line(axes, result, (f'{PLAIN}, from tokens', f'{PLAIN}, pruned prompt'), 'decode', _THEIRS,
          'transformers')
    passes = [(row['kept'], row['stages_ms']['passes']['p50'] / result['answer_tokens'])
              for row in result['rows'] if 'passes' in row['stages_ms']]
    _draw(axes, passes, '#e8a49e', f"ours, {result['passes']} passes for "
          f"{result['answer_tokens']} tokens")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=8)


def _end_to_end(axes: Axes, result: Mapping[str, Any]) -> None:
    """Bars of our stages, and a line for transformers from pixels."""
    _title(axes, 'pixels to answer, ms')
    rows = sorted((row for row in result['rows'] if 'passes' in row['stages_ms']),
                  key=lambda row: row['kept'])
    bottom = [0.0] * len(rows)
    for stage, colour in _STAGES.items():
        heights = [row['stages_ms'][stage]['p50'] for row in rows]
        label = f"answer in {result['passes']} passes" if stage == 'passes' else stage
        axes.bar(range(len(rows)), heights, 0.6, bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights)]
    axes.set_xticks(range(len(rows)), [str(row['kept']) for row in rows])
    for row in result['rows']:
        if row['name'] == PLAIN and 'end_to_end' in row['stages_ms']:
            ms = row['stages_ms']['end_to_end']['p50']
            axes.axhline(ms, color=_THEIRS, linestyle='--', linewidth=1.4,
                         label=f'transformers, every token: {ms:.0f}')
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=8, ncols=2, loc='upper left')


def _line(axes: Axes, result: Mapping[str, Any], names: Sequence[str], stage: str, colour: str,
          label: str) -> None:
    _draw(axes, [(row['kept'], row['stages_ms'][stage]['p50']) for row in result['rows']
                 if row['name'] in names and stage in row['stages_ms']], colour, label)


def _draw(axes: Axes, points: Sequence[tuple[int, float]], colour: str, label: str) -> None:
    if points:
        axes.plot(*zip(*sorted(points)), color=colour, marker='o', markersize=4.5, label=label)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc='left')
    axes.set_xlabel('visual tokens kept')
