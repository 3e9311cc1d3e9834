# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One frame and a pruner's training -> what kept and dropped tokens rebuild, a line a camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from fastdrive_ros.tools.visualize_frames import Shown

_COLUMNS = ('picture', 'foreground (wanted)', 'from kept tokens', 'from dropped tokens',
            'scores S', 'better half')
_DPI = 100
_TITLE_PX, _LABEL_PX = 70, 150


def draw_rebuilt(frame: Shown, training: Any, path: Path) -> None:
    """Write the picture as PNG; ``training`` is a learn.pruner_training.PrunerTraining."""
    import torch

    from fastdrive_ros.learn.pruner_task import rebuilt_picture

    cameras = [i for i, camera in enumerate(frame.cameras) if frame.batch.present[i]]
    images = torch.from_numpy(frame.batch.images)[None]
    masks = np.zeros(frame.batch.images.shape[:3], np.uint8)
    for i, camera in enumerate(frame.cameras):
        if camera in frame.masks:
            masks[i] = _nearest(frame.masks[camera], masks[i].shape)
    picture = rebuilt_picture(training, {
        'images': images, 'present': torch.from_numpy(frame.batch.present)[None],
        'classes': torch.from_numpy(masks)[None]})
    height = frame.batch.images.shape[1]
    picture = np.vstack([picture[i * height:(i + 1) * height] for i in cameras])
    size = picture.shape[1] + _LABEL_PX, picture.shape[0] + _TITLE_PX
    with matplotlib.rc_context({'font.family': 'DejaVu Sans', 'text.color': '#1b1f24'}):
        figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI), dpi=_DPI, facecolor='white')
        figure.figimage(picture, xo=_LABEL_PX, yo=0)
        figure.text(10 / size[0], 1 - 30 / size[1], frame.name, fontsize=15, fontweight='bold')
        for i, name in enumerate(_COLUMNS):
            x = _LABEL_PX + i * picture.shape[1] / len(_COLUMNS)
            name += ': no masks' * (i == 1 and not frame.masks)
            figure.text(x / size[0], 1 - 62 / size[1], name, fontsize=10.5)
        for row, i in enumerate(cameras):
            y = _TITLE_PX + (row + 0.5) * height
            figure.text(10 / size[0], 1 - y / size[1], frame.cameras[i], fontsize=9.5)
        figure.savefig(path, dpi=_DPI, format='png')


def _nearest(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return class ids at another size."""
    rows = np.arange(shape[0]) * mask.shape[0] // shape[0]
    columns = np.arange(shape[1]) * mask.shape[1] // shape[1]
    return mask[rows[:, None], columns]
