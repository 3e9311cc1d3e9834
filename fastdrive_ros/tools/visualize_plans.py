# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Plans of one frame, from above -> one picture, a panel a method, a colour a keep ratio.

Forwards is up and left is left. Behind the plans: where one may drive, where others are within
the next three seconds (darker: sooner), and the way that the vehicle then went.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.patches import Polygon
from matplotlib.ticker import MultipleLocator

from fastdrive_ros.metrics.footprint import corners
from fastdrive_ros.metrics.judge import FrameTruth
from fastdrive_ros.tools.evaluate_rows import UNPRUNED
from fastdrive_ros.tools.visualize_frames import Shown
from fastdrive_ros.tools.visualize_ways import Way

_INK, _MUTED, _GRID, _VEHICLE = '#1b1f24', '#68727d', '#e3e7eb', '#243b53'
_BLOCKED, _TRUTH = '#dfe4e9', '#2f9f6f'
_COLOURS = ('#e4572e', '#2f6f9f', '#8e5ea2', '#c9a227')
_PANELS = 7
_VEHICLE_M = (4.6, 1.9)
_GRID_M = 10.0
_BEHIND_M, _SHORTEST_M = 6.0, 14.0


def draw_plans(frame: Shown, ways: Sequence[Way], path: Path) -> None:
    """Write the picture as PNG; the frame must have odometry."""
    methods = list(dict.fromkeys(way.method for way in ways))
    ratios = sorted({way.keep_ratio for way in ways}, reverse=True)
    columns = min(_PANELS, len(methods))
    rows = -(-len(methods) // columns)
    ahead_m, aside_m = _limits(frame, ways)
    # The panels' own shape, so that no white is left between the rows.
    panel = 2.5, 2.3 * (ahead_m + _BEHIND_M) / (2 * aside_m)
    size = max(9.0, columns * panel[0]), rows * (panel[1] + 0.4) + 1.1
    with matplotlib.rc_context({'font.family': 'DejaVu Sans', 'font.size': 9.5,
                                'text.color': _INK, 'ytick.color': _MUTED}):
        figure = Figure(figsize=size, facecolor='white')
        figure.text(0.012, 1 - 0.3 / size[1], frame.name, fontsize=15, fontweight='bold',
                    va='center')
        _legend(figure, size, ratios, frame.truth)
        grid = figure.add_gridspec(rows, columns, left=0.012, right=0.97, bottom=0.15 / size[1],
                                   top=1 - 1.1 / size[1], wspace=0.12, hspace=0.16)
        for i, method in enumerate(methods):
            axes = figure.add_subplot(grid[i // columns, i % columns])
            _panel(axes, frame, [way for way in ways if way.method == method], ratios)
            axes.set_xlim(-aside_m, aside_m)
            axes.set_ylim(-_BEHIND_M, ahead_m)
        figure.savefig(path, dpi=100, facecolor='white')


def _limits(frame: Shown, ways: Sequence[Way]) -> tuple[float, float]:
    """Return how far to show ahead and to each side, the same for all panels."""
    points = np.vstack([way.waypoints for way in ways])
    if frame.truth is not None:
        points = np.vstack([points, frame.truth.waypoints[frame.truth.known]])
    ahead_m = max(_SHORTEST_M, float(points[:, 0].max()) + 3.0)
    return ahead_m, max(6.0, float(np.abs(points[:, 1]).max()) + 3.0, 0.3 * ahead_m)


def _legend(figure: Figure, size: tuple[float, float], ratios: Sequence[float],
            truth: FrameTruth | None) -> None:
    words = [] if truth is None else [('the way it went', _TRUTH)]
    words += [('every token' if ratio == 1.0 else f'{ratio:.0%} of the tokens',
               _COLOURS[i % len(_COLOURS)]) for i, ratio in enumerate(ratios)]
    x = 0.012
    for text, colour in words:
        figure.text(x, 1 - 0.62 / size[1], text, color=colour, fontweight='bold', va='center')
        x += (0.085 * len(text) + 0.3) / size[0]
    figure.text(x, 1 - 0.62 / size[1], 'L2: mean distance over 3 s, m', color=_MUTED,
                va='center')


def _panel(axes: Axes, frame: Shown, ways: Sequence[Way], ratios: Sequence[float]) -> None:
    errors = []
    if frame.truth is not None:
        _draw_truth(axes, frame.truth)
    for way in ways:
        colour = _COLOURS[ratios.index(way.keep_ratio) % len(_COLOURS)]
        points = np.vstack([np.zeros(2), way.waypoints])
        axes.plot(-points[:, 1], points[:, 0], color=colour, linewidth=1.8, zorder=4)
        axes.scatter(-way.waypoints[:, 1], way.waypoints[:, 0], s=20, color=colour, zorder=5,
                     edgecolor='white', linewidth=0.7)
        if frame.truth is not None and frame.truth.known.any():
            off_m = np.linalg.norm(way.waypoints - frame.truth.waypoints, axis=1)
            errors.append(f'{off_m[frame.truth.known].mean():.2f}')
    length_m, width_m = _VEHICLE_M
    axes.add_patch(FancyBboxPatch(
        (-width_m / 2, -1.0), width_m, length_m, zorder=3, facecolor=_VEHICLE,
        boxstyle='round,pad=0,rounding_size=0.5', edgecolor='none'))
    name = 'unpruned' if ways[0].method == UNPRUNED else ways[0].method
    axes.set_title(name + ('   L2 ' + ' / '.join(errors) if errors else ''),
                   fontsize=9.5, loc='left', pad=4)
    axes.set_aspect('equal', adjustable='box')
    axes.xaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.yaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8, labelbottom=False)
    axes.yaxis.tick_right()
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_truth(axes: Axes, truth: FrameTruth) -> None:
    """Draw where no car may drive, where others are, and where the vehicle went."""
    if truth.blocked is not None:
        blocked = truth.blocked[0]
        half_m = blocked.shape[0] * truth.cell_m / 2
        shade = np.ma.masked_where(~blocked, np.ones(blocked.shape))
        axes.imshow(shade, extent=(-half_m, half_m, -half_m, half_m), origin='upper', zorder=0,
                    cmap=matplotlib.colors.ListedColormap([_BLOCKED]), interpolation='nearest')
    for step in range(len(truth.boxes)):
        boxes = truth.boxes[step][np.isfinite(truth.boxes[step]).all(axis=-1)]
        for outline in corners(boxes):
            axes.add_patch(Polygon(np.column_stack([-outline[:, 1], outline[:, 0]]), zorder=1,
                                   facecolor=_MUTED, edgecolor='none',
                                   alpha=0.5 - 0.07 * step))
    way = np.vstack([np.zeros(2), truth.waypoints[truth.known]])
    axes.plot(-way[:, 1], way[:, 0], color=_TRUTH, linewidth=6, alpha=0.45, zorder=2,
              solid_capstyle='round')
