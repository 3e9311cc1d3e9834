# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and labelled frames -> the pruner's training task, and the trained pruner."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from fastdrive_ros.core.overlay import heat
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import load_or_make_head
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.checkpoint import read_normalisation
from fastdrive_ros.learn.checkpoint import require_whole_tokens
from fastdrive_ros.learn.loop import RUN_FILE
from fastdrive_ros.learn.loop import STATE_FILE
from fastdrive_ros.learn.loop import Batch
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import trained_weights
from fastdrive_ros.learn.plan_keeping import PlanKeeping
from fastdrive_ros.learn.prompt import build_prompt
from fastdrive_ros.learn.prompt import driving_prompt
from fastdrive_ros.learn.pruner_training import PrunerTraining
from fastdrive_ros.learn.pruner_training import PrunerTrainingConfig
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import save_pruner
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.waypoint_head import WaypointPlanner


class PrunerTask:
    """learn.loop.Task of `fastdrive train pruner`."""

    name = 'pruner'

    def __init__(self, checkpoint: Path, data: Path, cameras: tuple[str, ...], height: int,
                 width: int, config: PrunerTrainingConfig, loop: LoopConfig) -> None:
        """Open the checkpoint for pictures of height x width; ExportError where it is none."""
        self._data, self.data_name = data, data.resolve().name
        self.shape = SampleShape(cameras, height, width)
        torch.manual_seed(loop.seed)
        self.model = (_plan_keeping if config.target == 'plan' else _training)(
            checkpoint, cameras, height, width, config)
        if isinstance(self.model, PlanKeeping):
            head = self.model.planner.head.config
            self.shape = SampleShape(cameras, height, width, head.history_steps, head.history_dt_s,
                                     head.num_waypoints, head.dt_s)
            if loop.compile:
                self.model.query_states = torch.compile(self.model.query_states)
        elif config.orient_frames:
            samples = self.samples('train', 0.0)
            places = np.linspace(0, len(samples) - 1, min(config.orient_frames, len(samples)))
            self.model.orient(default_collate([samples[round(place)] for place in places]))
        self.rates: Mapping[str, float] = {'pruner.': config.pruner_rate}
        self.settings: Mapping[str, Any] = {
            'checkpoint_sha256': checkpoint_sha256(checkpoint), 'data': self.data_name,
            'cameras': list(cameras), 'height': height, 'width': width,
            **dataclasses.asdict(config)}

    def samples(self, split: str, brightness: float) -> FrameSamples:
        """Return the frames of a split; DataError where masks are needed and there are none."""
        samples = FrameSamples(self._data, split, self.shape, brightness)
        if isinstance(self.model, PrunerTraining):
            samples.require_masks()
        return samples

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what is trained, and how many steps are over, which decides what is drawn."""
        return {**trained_weights(self.model), 'steps_done': self.model.steps_done}

    def picture(self, batch: Batch) -> np.ndarray | None:
        """Return what the pruner makes of the first frame."""
        return (rebuilt_picture(self.model, batch) if isinstance(self.model, PrunerTraining)
                else None)

    def write(self, out: Path, training: str) -> None:
        """Write the pruner's file; ``training`` is the model card's sentence on how."""
        pruner = self.model.pruner
        pruner.config = dataclasses.replace(pruner.config, trained=True, training=training)
        partial = out.with_name(out.name + '.partial')
        save_pruner(pruner, partial)
        os.replace(partial, out)


def load_training(run: Path, checkpoint: Path) -> PrunerTraining:
    """
    Open what `fastdrive train pruner` saved in ``run``, decoders and all, to look at it.

    Raises DataError where it is no such run, or the checkpoint is not the one it was trained on.
    """
    try:
        settings = json.loads((run / RUN_FILE).read_text(encoding='utf-8'))
        state = torch.load(run / STATE_FILE, map_location='cpu', weights_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f'{run} is no run of `fastdrive train pruner`: {error}') from error
    if settings.get('task') != 'pruner':
        raise DataError(f"{run} is a run of `fastdrive train {settings.get('task')}`, expected "
                        'one of `train pruner`')
    found = checkpoint_sha256(checkpoint)
    if settings['checkpoint_sha256'] != found:
        raise DataError(f'{run} was trained on another checkpoint than {checkpoint} (sha256 '
                        f"{settings['checkpoint_sha256'][:12]}, found {found[:12]}): give the one "
                        'that `train pruner` was given')
    names = {field.name for field in dataclasses.fields(PrunerTrainingConfig)}
    config = PrunerTrainingConfig(**{name: value for name, value in settings.items()
                                     if name in names})
    if config.target == 'plan':
        raise DataError(f"{run} was trained with target 'plan': it rebuilds nothing")
    training = _training(checkpoint, settings['cameras'], settings['height'], settings['width'],
                         config)
    training.load_state_dict(state['weights'], strict=False)
    return training.eval()


def _training(checkpoint: Path, cameras: Sequence[str], height: int, width: int,
              config: PrunerTrainingConfig) -> PrunerTraining:
    """Make pruner and decoders for a checkpoint's frozen encoder."""
    qwen, _ = open_checkpoint(checkpoint)
    vision, pruner = _vision_and_pruner(qwen, checkpoint, len(cameras), height, width)
    return PrunerTraining(vision, pruner, qwen.model.language_model, config)


def _plan_keeping(checkpoint: Path, cameras: Sequence[str], height: int, width: int,
                  config: PrunerTrainingConfig) -> PlanKeeping:
    """Make a pruner between a checkpoint's frozen encoder and its frozen planner."""
    qwen, tokenizer = open_checkpoint(checkpoint)
    vision, pruner = _vision_and_pruner(qwen, checkpoint, len(cameras), height, width)
    head = load_or_make_head(checkpoint, qwen.config.text_config.hidden_size, len(cameras))
    if not head.config.trained:
        raise DataError(f"{checkpoint} holds no trained planner, which target 'plan' learns from: "
                        'give what `fastdrive train planner` wrote')
    prompt = build_prompt(
        driving_prompt(tuple(cameras), head.config.num_waypoints * head.config.dt_s), tokenizer,
        qwen.model, len(cameras), vision.grid_height, vision.grid_width)
    return PlanKeeping(vision, pruner, WaypointPlanner(qwen.model.language_model, head, prompt))


def _vision_and_pruner(qwen: Any, checkpoint: Path, num_cameras: int, height: int,
                       width: int) -> tuple[FixedGridVision, ReconPruner]:
    config = qwen.config.vision_config
    require_whole_tokens(height, width, config.patch_size * config.spatial_merge_size)
    vision = FixedGridVision(qwen.model.visual, num_cameras, height, width,
                             read_normalisation(checkpoint))
    return vision, ReconPruner(ReconPrunerConfig.for_model(qwen.config.text_config), num_cameras,
                               vision.grid_height, vision.grid_width)


def rebuilt_picture(model: PrunerTraining, batch: Batch) -> np.ndarray:
    """
    Return uint8 RGB of what a pruner makes of the first frame of a batch, a line a camera.

    Picture, wanted foreground, rebuilt from kept tokens, rebuilt from dropped tokens, scores,
    and the better half of all tokens.
    """
    model.eval()
    with torch.no_grad():
        tokens = model.encode(batch['images'][:1]).float()
        scores = model.scores(tokens, batch['present'][:1])[0]          # (V, n)
        rebuilt = [part.float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
                   for part in model.rebuild(tokens[0], scores)]
    images = batch['images'][0].cpu().numpy()
    fore = model.is_foreground[batch['classes'][0].int()].cpu().numpy()
    grid = model.vision.grid_height, model.vision.grid_width
    half = (scores >= scores.flatten().median()).view(-1, *grid).cpu().numpy()
    scores = scores.view(-1, *grid).cpu().numpy()
    lowest, highest = np.quantile(scores[np.isfinite(scores)], (0.02, 0.98))
    lines = []
    for i, image in enumerate(images):
        size = image.shape[1], image.shape[0]
        shown = [cv2.resize((part[i] * 255).astype(np.uint8), size) for part in rebuilt]
        shown = [part if part.ndim == 3 else cv2.cvtColor(part, cv2.COLOR_GRAY2RGB)
                 for part in shown]
        level = np.clip((scores[i] - lowest) / max(highest - lowest, 1e-6), 0, 1)
        warmth = cv2.resize(heat(level), size, interpolation=cv2.INTER_NEAREST)
        mask = cv2.resize(half[i].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        lines.append(np.hstack([image, image * fore[i][..., None], *shown, warmth,
                                image * mask[..., None]]))
    return np.vstack(lines)
