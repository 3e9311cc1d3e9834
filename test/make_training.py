# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A dataset of two cameras and a few frames, to train on for a step or two."""

from __future__ import annotations

from pathlib import Path

from make_drives import HEIGHT
from make_drives import WIDTH
from make_drives import make_scene

from fastdrive_ros.data.header import DatasetHeader
from fastdrive_ros.data.store import DatasetWriter

CAMERAS = ('CAM_FRONT', 'CAM_BACK')


def write_training_data(root: Path, masks: bool = True, drives: int = 3) -> Path:
    """Write ``drives`` drives of four frames to train and one to val; return the folder."""
    header = DatasetHeader('tiny', 'metadrive', CAMERAS, WIDTH, HEIGHT, 2.0)
    writer = DatasetWriter(root, header, print)
    for split, count in (('train', drives), ('val', 1)):
        with writer.shard(split, 0) as shard:
            for number in range(count):
                shard.add(*make_scene(f'{split}-{number}', 4, number, cameras=CAMERAS,
                                      masks=masks))
    return root
