# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A bag -> one picture that proves its calibration: where the vehicle went, drawn into its cameras.

Odometry of the next seconds lies on the ground and is projected through camera_info and the
transforms at each picture's own stamp. Where it lies on the driven lane, stamps, K, transforms
and odometry agree; where it floats, one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.patches import Polygon
from matplotlib.ticker import MultipleLocator

from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import PresetFit
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.decode import decode
from fastdrive_ros.core.rig import Camera
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.types import EncodedImage
from fastdrive_ros.core.types import Frame
from fastdrive_ros.core.types import FrameError
from fastdrive_ros.core.types import FrameSet
from fastdrive_ros.data.bag_rig import read_motion
from fastdrive_ros.data.bag_rig import read_rig
from fastdrive_ros.data.driven_path import DrivenPath
from fastdrive_ros.data.driven_path import corridor_px
from fastdrive_ros.data.driven_path import driven_path
from fastdrive_ros.data.driven_path import line_px
from fastdrive_ros.data.records import DataError
from fastdrive_ros.data.records import SceneRecord
from fastdrive_ros.ros.convert import stamp_to_ns
from fastdrive_ros.ros.convert import to_frame

AHEAD_S, BEHIND_S = 4.0, -3.0
_NUM_SWEEPS = 3
_COLUMNS = 3
# A way shorter than this shows nothing: a sweep further along is taken.
_SHORT_M = 5.0
_SHOWN_WIDTH_PX = 768
_INK, _MUTED, _GRID, _VEHICLE = '#1b1f24', '#68727d', '#e3e7eb', '#243b53'
_AHEAD, _BEHIND = '#e4572e', '#2f6f9f'
_OPACITY = 0.42
_MIDDLE_RGB = (255, 255, 255)
_VEHICLE_M = (4.6, 1.8)
# base_link is the rear axle, this far from the vehicle's rear end.
_OVERHANG_M = 1.0
_GRID_M = 10.0
# OpenCV draws at 1/16 of a pixel.
_SHIFT = 4


@dataclass(frozen=True)
class Sweep:
    """One sweep of the rig to draw."""

    stamp_ns: int
    """The earliest picture's."""
    pictures: Mapping[str, tuple[int, np.ndarray]]
    """Camera -> its stamp, and uint8 (H, W, 3) RGB."""


def draw(bag: Bag, fit: PresetFit, settings: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG; raises DataError naming what the bag lacks."""
    if not fit.cameras:
        raise DataError(f'{bag.path}: no camera of any preset, there is nothing to draw a path in')
    motion = read_motion(bag, fit.odometry_topic)
    rig = read_rig(bag, fit.cameras, motion.vehicle_frame)
    scene = SceneRecord(bag.path.name, 'bag', 'recorded', rig.cameras, motion.track,
                        motion.frame_id)
    chosen = _choose(_frame_sets(bag, fit, settings), scene)
    sweeps = _load(bag, fit, chosen)
    distorted = f"; lens distortion is not drawn: {', '.join(rig.distorted)}" * bool(rig.distorted)
    with matplotlib.rc_context({
            'font.family': 'DejaVu Sans', 'font.size': 10, 'text.color': _INK,
            'xtick.color': _MUTED, 'ytick.color': _MUTED}):
        figure = _figure(sweeps, scene, distorted, bag.start_ns)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, facecolor='white')


def _frame_sets(bag: Bag, fit: PresetFit, settings: Mapping[str, Any]) -> list[FrameSet]:
    """Return the sweeps that the node would plan on; their pictures are left out."""
    synchronizer = FrameSynchronizer((*fit.cameras, *fit.missing), sync_config(settings))
    camera_of = {topic: camera for camera, topic in fit.cameras.items()}
    nothing = EncodedImage('', np.empty(0, np.uint8))
    sets: list[FrameSet] = []
    for message in bag.messages(camera_of):
        stamp_ns = stamp_to_ns(bag.decode(message).header.stamp)
        sets += synchronizer.push(
            Frame(camera_of[message.topic], stamp_ns, message.log_ns, nothing))
    while (deadline_ns := synchronizer.next_deadline_ns) is not None:
        sets += synchronizer.poll(deadline_ns)
    return sets


def _choose(sets: Sequence[FrameSet], scene: SceneRecord) -> list[FrameSet]:
    """Return a few sweeps with a way ahead, evenly spread; of a vehicle that stands, any."""
    known, moving = [], []
    for frame_set in sets:
        try:
            ahead = driven_path(scene, frame_set.stamp_ns, AHEAD_S)
            driven_path(scene, max(f.stamp_ns for f in frame_set.frames.values()), AHEAD_S)
        except DataError:
            continue
        known.append(frame_set)
        if ahead.length_m > _SHORT_M:
            moving.append(frame_set)
    candidates = moving or known
    if not candidates:
        raise DataError(f'{scene.name}: none of {len(sets)} sweeps lies within the odometry: do '
                        'pictures and odometry follow the same clock?')
    count = min(_NUM_SWEEPS, len(candidates))
    return [candidates[(2 * i + 1) * len(candidates) // (2 * count)] for i in range(count)]


def _load(bag: Bag, fit: PresetFit, chosen: Sequence[FrameSet]) -> list[Sweep]:
    """Read the pictures of the chosen sweeps; what cannot be decoded stays away."""
    place = {(name, frame.stamp_ns): i for i, frame_set in enumerate(chosen)
             for name, frame in frame_set.frames.items()}
    camera_of = {topic: camera for camera, topic in fit.cameras.items()}
    pictures: list[dict[str, tuple[int, np.ndarray]]] = [{} for _ in chosen]
    for message in bag.messages(camera_of):
        camera = camera_of[message.topic]
        decoded = bag.decode(message)
        stamp_ns = stamp_to_ns(decoded.header.stamp)
        i = place.get((camera, stamp_ns))
        if i is None:
            continue
        try:
            image = to_frame(decoded, camera, message.log_ns).image
            pictures[i][camera] = stamp_ns, decode(image, 1, _SHOWN_WIDTH_PX)
        except FrameError:
            continue
    return [Sweep(frame_set.stamp_ns, found) for frame_set, found in zip(chosen, pictures)]


def draw_path(rgb: np.ndarray, camera: Camera, ahead: DrivenPath, behind: DrivenPath) -> (
        np.ndarray):
    """Return the picture, scaled to the width that is shown, with both ways in it."""
    scale = _SHOWN_WIDTH_PX / camera.width
    size = (_SHOWN_WIDTH_PX, round(camera.height * scale))
    drawn = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if rgb.shape[1] > size[0]
                       else cv2.INTER_CUBIC)
    for path, colour in ((behind, _BEHIND), (ahead, _AHEAD)):
        ink = tuple(int(colour[i:i + 2], 16) for i in (1, 3, 5))
        cover = np.zeros(drawn.shape[:2], np.uint8)
        cv2.fillPoly(cover, [_fixed(polygon * scale) for polygon in corridor_px(camera, path)],
                     255, cv2.LINE_AA, _SHIFT)
        opacity = cover[..., None] / 255.0 * _OPACITY
        drawn = (drawn * (1 - opacity) + np.array(ink) * opacity).astype(np.uint8)
        for line, line_ink in ((path.left_m, ink), (path.right_m, ink),
                               (path.middle_m, _MIDDLE_RGB)):
            for segment in line_px(camera, line):
                cv2.line(drawn, *_fixed(segment * scale).tolist(), line_ink, 2, cv2.LINE_AA,
                         _SHIFT)
    return drawn


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Return int32 as OpenCV's shift wants them; those far outside are moved nearer."""
    return np.clip(np.round(pixels * (1 << _SHIFT)), -1 << 22, 1 << 22).astype(np.int32)


def _figure(sweeps: Sequence[Sweep], scene: SceneRecord, distorted: str,
            start_ns: int) -> Figure:
    names = [camera.name for camera in scene.cameras]
    rows = -(-len(names) // _COLUMNS)
    height = 1.05 + len(sweeps) * (rows * 2.47 + 0.5)
    figure = Figure(figsize=(17, height), facecolor='white')
    figure.text(0.012, 1 - 0.34 / height, f'{scene.name}: the driven path on the ground',
                fontsize=17, fontweight='bold', va='center')
    figure.text(0.012, 1 - 0.68 / height, fontsize=10.5, color=_MUTED, va='center', s=(
        f'Odometry of the next {AHEAD_S:g} s (orange) and the last {-BEHIND_S:g} s (blue), 1.8 m '
        'wide, on z = 0 of base_link, through K of camera_info and the transforms, at each '
        f"picture's own stamp{distorted}."))
    blocks = figure.add_gridspec(len(sweeps), 1, left=0.012, right=0.975,
                                 top=1 - 1.28 / height, bottom=0.12 / height, hspace=0.1)
    ways = [(driven_path(scene, sweep.stamp_ns, AHEAD_S),
             driven_path(scene, sweep.stamp_ns, BEHIND_S)) for sweep in sweeps]
    limits_m = _limits(np.vstack([path.middle_m for pair in ways for path in pair]))
    for i, sweep in enumerate(sweeps):
        block = blocks[i].subgridspec(1, 2, width_ratios=(4.1, 1), wspace=0.03)
        _draw_sweep(figure, block[0].subgridspec(rows, _COLUMNS, hspace=0.03, wspace=0.015),
                    sweep, scene, start_ns)
        _draw_from_above(figure.add_subplot(block[1]), *ways[i], limits_m)
    return figure


def _draw_sweep(figure: Figure, grid: Any, sweep: Sweep, scene: SceneRecord,
                start_ns: int) -> None:
    for i, camera in enumerate(scene.cameras):
        axes = figure.add_subplot(grid[i // _COLUMNS, i % _COLUMNS])
        axes.set_axis_off()
        label = camera.name
        if camera.name in sweep.pictures:
            stamp_ns, rgb = sweep.pictures[camera.name]
            axes.imshow(draw_path(rgb, camera, driven_path(scene, stamp_ns, AHEAD_S),
                                  driven_path(scene, stamp_ns, BEHIND_S)), aspect='auto')
            label += f'   +{(stamp_ns - sweep.stamp_ns) / 1e6:.1f} ms'
        else:
            label += '   no picture'
        axes.text(0.018, 0.95, label, transform=axes.transAxes, color='white', fontsize=9.5,
                  va='top', bbox={'boxstyle': 'round,pad=0.3', 'facecolor': _INK, 'alpha': 0.7,
                                  'edgecolor': 'none'})
        if i == 0:
            axes.set_title(f'{(sweep.stamp_ns - start_ns) / 1e9:.2f} s into the bag', loc='left',
                           fontsize=12, fontweight='bold', pad=5)
        if i == 1:
            axes.set_title(f'stamp {sweep.stamp_ns // 10**9}.{sweep.stamp_ns % 10**9:09d}',
                           loc='left', fontsize=10.5, color=_MUTED, pad=5)


def _limits(points_m: np.ndarray) -> tuple[float, float]:
    """Return how far the view from above reaches back and ahead, for it to hold all points."""
    back_m, ahead_m = min(-6.0, points_m[:, 0].min()), max(12.0, points_m[:, 0].max())
    # The view is half as high again as it is wide.
    lacking_m = max(0.0, 3.2 * float(np.abs(points_m[:, 1]).max()) - (ahead_m - back_m))
    return back_m - lacking_m / 2 - 2.0, ahead_m + lacking_m / 2 + 2.0


def _draw_from_above(axes: Axes, ahead: DrivenPath, behind: DrivenPath,
                     limits_m: tuple[float, float]) -> None:
    """Draw what lies ahead upwards and what lies left to the left, in metres."""
    for path, colour in ((behind, _BEHIND), (ahead, _AHEAD)):
        outline = np.vstack([path.left_m, path.right_m[::-1]])
        axes.add_patch(Polygon(np.column_stack([-outline[:, 1], outline[:, 0]]),
                               facecolor=colour, alpha=_OPACITY, edgecolor='none'))
        axes.plot(-path.middle_m[:, 1], path.middle_m[:, 0], color=colour, linewidth=1.6)
        axes.scatter(-path.seconds_m[:, 1], path.seconds_m[:, 0], s=22, color=colour, zorder=3,
                     edgecolor='white', linewidth=0.8)
    length_m, width_m = _VEHICLE_M
    axes.add_patch(FancyBboxPatch(
        (-width_m / 2, -_OVERHANG_M), width_m, length_m, zorder=2, facecolor=_VEHICLE,
        boxstyle='round,pad=0,rounding_size=0.5', edgecolor='none'))
    aside_m = 1.0 + max(float(np.abs(path.middle_m[:, 1]).max()) for path in (ahead, behind))
    axes.update_datalim([(-aside_m, 0.0), (aside_m, 0.0)])  # keeps the vehicle in the middle
    axes.set_aspect('equal', adjustable='datalim')
    axes.set_ylim(limits_m)
    axes.xaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.yaxis.set_major_locator(MultipleLocator(_GRID_M))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=8.5, labelbottom=False)
    axes.yaxis.tick_right()
    axes.set_title(f'{ahead.length_m:.1f} m ahead, a dot a second', fontsize=10.5, color=_MUTED,
                   loc='left', pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)
