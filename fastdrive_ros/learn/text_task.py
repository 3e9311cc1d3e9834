# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint, a dataset and a prompt file -> a checkpoint that writes its waypoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.checkpoint import read_normalisation
from fastdrive_ros.learn.checkpoint import require_whole_tokens
from fastdrive_ros.learn.loop import Batch
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import local_batch
from fastdrive_ros.learn.loop import trained_weights
from fastdrive_ros.learn.planner_task import whole_checkpoint
from fastdrive_ros.learn.prompt_file import read_prompt_file
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.text_training import TextTraining
from fastdrive_ros.learn.text_training import TextTrainingConfig


class TextTask:
    """learn.loop.Task of `fastdrive train planner --prompt`."""

    name = 'text planner'
    rates: Mapping[str, float] = {}

    def __init__(self, checkpoint: Path, data: Path, prompt: Path, cameras: tuple[str, ...],
                 height: int, width: int, config: TextTrainingConfig, loop: LoopConfig) -> None:
        """Open the checkpoint for pictures of height x width; ExportError where it is none."""
        self._checkpoint, self._data = checkpoint, data
        self.data_name = data.resolve().name
        head = read_prompt_file(prompt, cameras)
        self._qwen, self._tokenizer = open_checkpoint(checkpoint)
        vision = self._qwen.config.vision_config
        require_whole_tokens(height, width, vision.patch_size * vision.spatial_merge_size)
        self.shape = SampleShape(cameras, height, width, head.history_steps, head.history_dt_s,
                                 head.answer.num_waypoints, head.dt_s)
        tokenizer = self._tokenizer.backend_tokenizer
        self.model = TextTraining(
            self._qwen, head, lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            cameras, (len(cameras) * local_batch(loop), height, width),
            read_normalisation(checkpoint), config)
        self.settings: Mapping[str, Any] = {
            'checkpoint_sha256': checkpoint_sha256(checkpoint), 'data': self.data_name,
            'cameras': list(cameras), 'height': height, 'width': width,
            'planner': head.section(), **dataclasses.asdict(config)}

    def samples(self, split: str, brightness: float) -> FrameSamples:
        """Return the frames of a split."""
        return FrameSamples(self._data, split, self.shape, brightness)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what is trained."""
        return trained_weights(self.model)

    def picture(self, batch: Batch) -> np.ndarray | None:
        """Return nothing: `fastdrive visualize` shows plans."""
        return None

    def write(self, out: Path) -> None:
        """Write the trained checkpoint folder; it appears whole."""
        with whole_checkpoint(out, self._qwen, self._tokenizer, self._checkpoint):
            pass
