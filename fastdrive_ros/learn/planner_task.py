# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and a dataset -> the planner's training task, and the trained checkpoint."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase

from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import load_or_make_head
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.checkpoint import read_normalisation
from fastdrive_ros.learn.checkpoint import require_whole_tokens
from fastdrive_ros.learn.loop import Batch
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import local_batch
from fastdrive_ros.learn.loop import trained_weights
from fastdrive_ros.learn.planner_training import PlannerTraining
from fastdrive_ros.learn.planner_training import PlannerTrainingConfig
from fastdrive_ros.learn.planner_training import fit_prior
from fastdrive_ros.learn.planner_training import fit_readout
from fastdrive_ros.learn.prompt import build_prompt
from fastdrive_ros.learn.prompt import driving_prompt
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.samples import StepBatches
from fastdrive_ros.learn.samples import loader
from fastdrive_ros.learn.samples import read_ways
from fastdrive_ros.learn.waypoint_head import HEAD_FILE
from fastdrive_ros.learn.waypoint_head import save_head


class PlannerTask:
    """learn.loop.Task of `fastdrive train planner`."""

    name = 'planner'
    rates: Mapping[str, float] = {}

    def __init__(self, checkpoint: Path, data: Path, cameras: tuple[str, ...], height: int,
                 width: int, config: PlannerTrainingConfig, loop: LoopConfig) -> None:
        """Open the checkpoint for pictures of height x width; ExportError where it is none."""
        self._checkpoint, self._data = checkpoint, data
        self._config, self._loop = config, loop
        self.data_name = data.resolve().name
        self._qwen, self._tokenizer = open_checkpoint(checkpoint)
        self._head = load_or_make_head(checkpoint, self._qwen.config.text_config.hidden_size,
                                       len(cameras))
        head = self._head.train().config
        self.shape = SampleShape(cameras, height, width, head.history_steps, head.history_dt_s,
                                 head.num_waypoints, head.dt_s)
        vision = self._qwen.config.vision_config
        pixels_per_token = vision.patch_size * vision.spatial_merge_size
        require_whole_tokens(height, width, pixels_per_token)
        prompt = build_prompt(
            driving_prompt(cameras, head.num_waypoints * head.dt_s), self._tokenizer,
            self._qwen.model, len(cameras), height // pixels_per_token, width // pixels_per_token)
        if config.prior_steps:
            fit_prior(self._head, read_ways(data, self.shape), config, loop.seed)
        self.model = PlannerTraining(
            self._qwen, self._head, prompt, read_normalisation(checkpoint),
            (len(cameras) * local_batch(loop), height, width), config)
        if loop.compile:
            # The two parts with static shapes that take nearly all the time.
            self.model.vision.encode = torch.compile(self.model.vision.encode)
            self.model.planner.unpruned_states = torch.compile(self.model.planner.unpruned_states)
        self.settings: Mapping[str, Any] = {
            'checkpoint_sha256': checkpoint_sha256(checkpoint), 'data': self.data_name,
            'cameras': list(cameras), 'height': height, 'width': width,
            **dataclasses.asdict(config)}

    def samples(self, split: str, brightness: float) -> FrameSamples:
        """Return the frames of a split."""
        return FrameSamples(self._data, split, self.shape, brightness)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what is trained, and the prior, which no two fits make equal to the last bit."""
        prior = self._head.ego_prior.named_parameters(prefix='planner.head.ego_prior')
        return {**trained_weights(self.model), **dict(prior)}

    def picture(self, batch: Batch) -> np.ndarray | None:
        """Return nothing: `fastdrive visualize` shows plans."""
        return None

    def fit_readout(self, on_frames: Callable[[int], None]) -> None:
        """Fit the readout to the states of many frames, if the config says so."""
        wanted = self._config.readout_frames
        if not wanted:
            return
        samples = self.samples('train', 0.0)
        size = self._loop.batch_size
        order = StepBatches(samples.lengths, size, 0,
                            min(wanted, len(samples)) // size, self._loop.seed + 1)
        rows: list[Batch] = []
        model = self.model.eval()
        device = model.class_weights.device
        precision = torch.autocast(device.type, torch.bfloat16, self._loop.precision == 'bf16')
        with torch.no_grad(), precision:
            for batch in loader(samples, order, self._loop.num_workers):
                ego_history = batch['ego_history'].to(device)
                states = model.query_states(model.encode(batch['images'].to(device)), ego_history)
                rows.append({'states': states.cpu().half(), **{
                    name: batch[name] for name in ('ego_history', 'waypoints', 'known')}})
                on_frames(len(rows) * size)
        ways = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        fit_readout(self._head.cpu(), ways, self._config, self._loop.seed)

    def write(self, out: Path, training: str) -> None:
        """
        Write the trained checkpoint folder: Hugging Face's files, head, and a pruner if there was.

        ``training`` is the model card's sentence on how. The folder appears whole.
        """
        self._head.config = dataclasses.replace(self._head.config, trained=True, training=training)
        with whole_checkpoint(out, self._qwen, self._tokenizer, self._checkpoint) as partial:
            save_head(self._head, partial / HEAD_FILE)


@contextmanager
def whole_checkpoint(out: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
                     source: Path) -> Iterator[Path]:
    """Write a checkpoint made from ``source``; the folder it yields becomes ``out`` in the end."""
    partial = out.with_name(out.name + '.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for name in ('preprocessor_config.json', 'recon_pruner.safetensors'):
        if (source / name).is_file():
            shutil.copyfile(source / name, partial / name)
    yield partial
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
