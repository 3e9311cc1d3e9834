# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and labelled frames -> the pruner's training task, and the trained pruner."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from fastdrive_ros.core.overlay import heat
from fastdrive_ros.data.records import DataError
from fastdrive_ros.learn.checkpoint import checkpoint_sha256
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.checkpoint import read_normalisation
from fastdrive_ros.learn.checkpoint import require_whole_tokens
from fastdrive_ros.learn.loop import RUN_FILE
from fastdrive_ros.learn.loop import STATE_FILE
from fastdrive_ros.learn.loop import Batch
from fastdrive_ros.learn.loop import LoopConfig
from fastdrive_ros.learn.loop import trained_weights
from fastdrive_ros.learn.pruner_training import PrunerTraining
from fastdrive_ros.learn.pruner_training import PrunerTrainingConfig
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import save_pruner
from fastdrive_ros.learn.samples import FrameSamples
from fastdrive_ros.learn.samples import SampleShape
from fastdrive_ros.learn.vision import FixedGridVision


class PrunerTask:
    """learn.loop.Task of `fastdrive train pruner`."""

    name = 'pruner'

    def __init__(self, checkpoint: Path, data: Path, cameras: tuple[str, ...], height: int,
                 width: int, config: PrunerTrainingConfig, loop: LoopConfig) -> None:
        """Open the checkpoint for pictures of height x width; ExportError where it is none."""
        self._data, self.data_name = data, data.resolve().name
        self.shape = SampleShape(cameras, height, width)
        torch.manual_seed(loop.seed)
        self.model = _training(checkpoint, len(cameras), height, width, config)
        if config.orient_frames:
            samples = self.samples('train', 0.0)
            places = np.linspace(0, len(samples) - 1, min(config.orient_frames, len(samples)))
            self.model.orient(default_collate([samples[round(place)] for place in places]))
        self.rates: Mapping[str, float] = {'pruner.': config.pruner_rate}
        self.settings: Mapping[str, Any] = {
            'checkpoint_sha256': checkpoint_sha256(checkpoint), 'data': self.data_name,
            'cameras': list(cameras), 'height': height, 'width': width,
            **dataclasses.asdict(config)}

    def samples(self, split: str, brightness: float) -> FrameSamples:
        """Return the frames of a split; DataError where they have no masks."""
        samples = FrameSamples(self._data, split, self.shape, brightness)
        samples.require_masks()
        return samples

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what is trained, and how many steps are over, which decides what is drawn."""
        return {**trained_weights(self.model), 'steps_done': self.model.steps_done}

    def picture(self, batch: Batch) -> np.ndarray:
        """Return what the pruner makes of the first frame."""
        return rebuilt_picture(self.model, batch)

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
    training = _training(checkpoint, len(settings['cameras']), settings['height'],
                         settings['width'], config)
    training.load_state_dict(state['weights'], strict=False)
    return training.eval()


def _training(checkpoint: Path, num_cameras: int, height: int, width: int,
              config: PrunerTrainingConfig) -> PrunerTraining:
    """Make pruner and decoders for a checkpoint's frozen encoder."""
    qwen, _ = open_checkpoint(checkpoint)
    vision_config = qwen.config.vision_config
    require_whole_tokens(height, width,
                         vision_config.patch_size * vision_config.spatial_merge_size)
    vision = FixedGridVision(qwen.model.visual, num_cameras, height, width,
                             read_normalisation(checkpoint))
    pruner = ReconPruner(ReconPrunerConfig.for_model(qwen.config.text_config), num_cameras,
                         vision.grid_height, vision.grid_width)
    return PrunerTraining(vision, pruner, qwen.model.language_model, config)


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
