# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One moment of a drive as one picture: cameras with kept tokens, the plan from above, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MultipleLocator

_LAYOUT = (('CAM_FRONT_LEFT', 'CAM_FRONT', 'CAM_FRONT_RIGHT'),
           ('CAM_BACK_LEFT', 'CAM_BACK', 'CAM_BACK_RIGHT'))
_INK, _MUTED, _GRID = '#1b1f24', '#68727d', '#e3e7eb'
_PLAN, _DRIVEN, _VEHICLE = '#e4572e', '#9fb3c8', '#243b53'
_MODEL, _WAIT, _REST = '#2f6f9f', '#c3cdd8', '#6aa57d'
_COLOURS = {'encode': _MODEL, 'prune': _MODEL, 'plan': _MODEL, 'sync': _WAIT}
_SHOWN = ('sync', 'convert', 'decode', 'preprocess', 'encode', 'prune', 'plan', 'postprocess',
          'publish', 'end_to_end')
_VEHICLE_M = (4.6, 1.9)
_GRID_M = 5.0
_LABELS = 0.085
_LABELS_X = -_LABELS


@dataclass(frozen=True)
class Moment:
    """What the picture shows."""

    overlays: Mapping[str, bytes]
    """Camera -> JPEG with kept tokens bright."""
    plan_m: np.ndarray
    """float64 (T, 2): x forward, y left of the vehicle at the moment."""
    driven_m: np.ndarray
    """float64 (P, 2): the whole drive in the same axes."""
    dt_s: float
    summary: Mapping[str, Mapping[str, float]]
    """core.latency's summary of the drive."""
    title: str
    caption: str


def draw(moment: Moment, path: Path) -> None:
    """Write the picture as PNG."""
    with matplotlib.rc_context({
            'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': _INK,
            'axes.edgecolor': _GRID, 'axes.labelcolor': _MUTED, 'xtick.color': _MUTED,
            'ytick.color': _INK}):
        figure = Figure(figsize=(16, 8.7), facecolor='white')
        cameras, side = figure.add_gridspec(
            1, 2, width_ratios=(3.4, 1), left=0.018, right=0.975, top=0.915, bottom=0.08,
            wspace=0.04)
        left = cameras.subgridspec(2, 1, height_ratios=(2.04, 1), hspace=0.12)
        _draw_cameras(figure, left[0], moment.overlays)
        # Room for the stages' names to the left of the bars.
        times = left[1].subgridspec(1, 2, width_ratios=(_LABELS, 1.0), wspace=0.0)
        _draw_times(figure.add_subplot(times[1]), moment.summary)
        _draw_plan(figure.add_subplot(side), moment)
        figure.text(0.018, 0.955, moment.title, fontsize=17, fontweight='bold', va='center')
        figure.text(0.018, 0.022, moment.caption, fontsize=9.5, color=_MUTED, va='center')
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, facecolor='white')


def _draw_cameras(figure: Figure, place: Any, overlays: Mapping[str, bytes]) -> None:
    grid = place.subgridspec(2, 3, hspace=0.035, wspace=0.02)
    for row, cameras in enumerate(_LAYOUT):
        for column, camera in enumerate(cameras):
            axes = figure.add_subplot(grid[row, column])
            axes.set_axis_off()
            if camera in overlays:
                bgr = cv2.imdecode(np.frombuffer(overlays[camera], np.uint8), cv2.IMREAD_COLOR)
                axes.imshow(bgr[:, :, ::-1], interpolation='antialiased', aspect='auto')
            axes.text(0.018, 0.945, camera.removeprefix('CAM_').replace('_', ' ').lower(),
                      transform=axes.transAxes, color='white', fontsize=10, va='top',
                      bbox={'boxstyle': 'round,pad=0.3', 'facecolor': _INK, 'alpha': 0.65,
                            'edgecolor': 'none'})


def _draw_plan(axes: Axes, moment: Moment) -> None:
    """Draw what lies ahead upwards and what lies left to the left, in metres."""
    def across(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return -points[:, 1], points[:, 0]

    ahead_m = max(12.0, 1.25 * float(np.abs(moment.plan_m).max()))
    axes.plot(*across(moment.driven_m), color=_DRIVEN, linewidth=7, alpha=0.6,
              solid_capstyle='round', label='driven (odometry)', zorder=1)
    way = np.vstack((np.zeros(2), moment.plan_m))
    axes.plot(*across(way), color=_PLAN, linewidth=2.2, zorder=3)
    axes.scatter(*across(moment.plan_m), s=46, color=_PLAN, edgecolor='white', linewidth=1.2,
                 label='plan', zorder=4)
    for i, (x_m, y_m) in enumerate(moment.plan_m, start=1):
        axes.annotate(f'{i * moment.dt_s:.1f} s', (-y_m, x_m), xytext=(11, 0),
                      textcoords='offset points', color=_MUTED, fontsize=9, va='center')
    length_m, width_m = _VEHICLE_M
    axes.add_patch(FancyBboxPatch(
        (-width_m / 2, -length_m / 2), width_m, length_m, boxstyle='round,pad=0,rounding_size=0.6',
        facecolor=_VEHICLE, edgecolor='none', zorder=2))
    axes.set_aspect('equal', adjustable='box')
    axes.set_ylim(-0.45 * ahead_m, ahead_m)
    axes.set_xlim(-0.24 * ahead_m, 0.24 * ahead_m)
    axes.xaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.yaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=_MUTED)
    axes.yaxis.tick_right()
    axes.set_title('plan from above, vehicle axes, metres', fontsize=11, color=_INK, loc='left')
    axes.legend(loc='lower left', frameon=False, fontsize=9.5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_times(axes: Axes, summary: Mapping[str, Mapping[str, float]]) -> None:
    stages = [stage for stage in _SHOWN if stage in summary]
    p50 = np.array([summary[stage]['p50'] for stage in stages])
    p95 = np.array([summary[stage]['p95'] for stage in stages])
    rows = np.arange(len(stages))
    axes.barh(rows, p50, height=0.66, zorder=2, color=[
        _INK if stage == 'end_to_end' else _COLOURS.get(stage, _REST) for stage in stages])
    axes.hlines(rows, p50, p95, color=_MUTED, linewidth=1.4, zorder=3)
    axes.vlines(p95, rows - 0.2, rows + 0.2, color=_MUTED, linewidth=1.4, zorder=3)
    for row, middle, high in zip(rows, p50, p95):
        axes.annotate(f'{middle:.1f}', (high, row), xytext=(7, 0), textcoords='offset points',
                      va='center', fontsize=9.5, fontweight='bold')
    axes.set_yticks(rows, [stage.replace('_', ' ') for stage in stages])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.1 * p95.max())
    axes.grid(axis='x', color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_title('where a cycle spends its time, from the first camera message to the published '
                   'plan: p50 (bar) and p95 (whisker), ms', fontsize=11, loc='left', x=_LABELS_X)
    for spine in axes.spines.values():
        spine.set_visible(False)
