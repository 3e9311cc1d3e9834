# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A Hugging Face Qwen2.5-VL checkpoint folder -> the torch modules that become graphs.

    images -> FixedGridVision -> ReconPruner -> WaypointPlanner -> waypoint residuals
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from fastdrive_ros.learn.early_pruning import EarlyPrunedVision
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.prompt import Prompt
from fastdrive_ros.learn.prompt import build_prompt
from fastdrive_ros.learn.prompt import driving_prompt
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import load_pruner
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.vision import Normalisation
from fastdrive_ros.learn.waypoint_head import HEAD_FILE
from fastdrive_ros.learn.waypoint_head import WaypointHead
from fastdrive_ros.learn.waypoint_head import WaypointPlanner
from fastdrive_ros.learn.waypoint_head import load_head
from fastdrive_ros.learn.waypoint_head import untrained_head

ARCHITECTURE = 'Qwen2_5_VLForConditionalGeneration'


@dataclass(frozen=True)
class DrivingModel:
    """Everything one bundle is made from; fp32, evaluation mode."""

    vision: FixedGridVision
    pruner: ReconPruner
    planner: WaypointPlanner
    prompt: Prompt
    tokenizer: PreTrainedTokenizerBase
    early: EarlyPrunedVision | None = None
    """The encoder that stands in for ``vision``; None: that one itself."""

    @property
    def encoder(self) -> nn.Module:
        """What the bundle's vision_encoder is made of."""
        return self.early or self.vision

    @property
    def tokens_encoded(self) -> int:
        """How many tokens of all cameras the encoder leaves: N, or fewer with early pruning."""
        return (self.early.tokens_per_camera * self.vision.num_images if self.early
                else len(self.prompt.image_slots))


def load_driving_model(
    checkpoint: Path, pruner_file: Path, cameras: Sequence[str], height: int, width: int
) -> DrivingModel:
    """Read checkpoint, pruner and (if the folder has one) waypoint head for a fixed grid."""
    config = read_config(checkpoint)
    vision_config = config.get('vision_config', {})
    multiple = vision_config.get('patch_size', 14) * vision_config.get('spatial_merge_size', 2)
    require_whole_tokens(height, width, multiple)
    _require_pruner(pruner_file)
    model, tokenizer = open_checkpoint(checkpoint)
    model.eval().requires_grad_(False)
    grid = height // multiple, width // multiple
    try:
        vision = FixedGridVision(
            model.model.visual, len(cameras), height, width, read_normalisation(checkpoint)
        )
        pruner = load_pruner(pruner_file, len(cameras), *grid).requires_grad_(False)
        _require_same_width(pruner_file, pruner, model.config.vision_config.out_hidden_size)
        head = load_or_make_head(checkpoint, model.config.text_config.hidden_size, len(cameras))
        text = driving_prompt(cameras, head.config.num_waypoints * head.config.dt_s)
        prompt = build_prompt(text, tokenizer, model.model, len(cameras), *grid)
    except ValueError as error:
        raise ExportError(str(error)) from error
    planner = WaypointPlanner(model.model.language_model, head.requires_grad_(False), prompt)
    return DrivingModel(vision.eval(), pruner, planner.eval(), prompt, tokenizer)


def load_pruner_for(model: DrivingModel, pruner_file: Path) -> ReconPruner:
    """Read another pruner for the same tokens; ExportError where it is for other ones."""
    _require_pruner(pruner_file)
    vision = model.vision
    try:
        pruner = load_pruner(pruner_file, vision.num_images, vision.grid_height,
                             vision.grid_width).requires_grad_(False)
        _require_same_width(pruner_file, pruner, model.pruner.config.hidden_size)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return pruner


def _require_pruner(pruner_file: Path) -> None:
    if not pruner_file.is_file():
        raise ExportError(
            f'expected a ReconPruner (safetensors) at {pruner_file}, found no such file: name it '
            'with --pruner'
        )


def require_whole_tokens(height: int, width: int, multiple: int) -> None:
    """Raise ExportError unless a picture of height x width is whole visual tokens."""
    if height < multiple or width < multiple or height % multiple or width % multiple:
        nearest = [max(1, round(size / multiple)) * multiple for size in (height, width)]
        raise ExportError(
            f'--height and --width must be multiples of {multiple} (one visual token), found '
            f'{height} x {width}: try --height {nearest[0]} --width {nearest[1]}'
        )


def open_checkpoint(
    checkpoint: Path,
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerBase]:
    """Read model (fp32, eager attention) and tokenizer of a folder; ExportError if it cannot."""
    read_config(checkpoint)
    # transformers draws progress bars and tells of weights that it does not need to find.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation='eager', local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(f'cannot load the checkpoint {checkpoint}: {error}') from error
    _require_full_attention(checkpoint, model.config.text_config.layer_types)
    return model, tokenizer


def read_config(checkpoint: Path) -> dict:
    """Return config.json of a Qwen2.5-VL checkpoint folder; ExportError if it is none."""
    if not checkpoint.is_dir():
        raise ExportError(
            f'expected a Hugging Face checkpoint folder at {checkpoint}, found no such folder'
        )
    file = checkpoint / 'config.json'
    if not file.is_file():
        found = sorted(entry.name for entry in checkpoint.iterdir())[:8] or 'an empty folder'
        raise ExportError(f'expected config.json in the checkpoint {checkpoint}, found {found}')
    try:
        config = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ExportError(f'expected JSON in {file}, found {error}') from error
    if config.get('model_type') != 'qwen2_5_vl':
        raise ExportError(
            f"expected a Qwen2.5-VL checkpoint (model_type 'qwen2_5_vl') in {checkpoint}, found "
            f'model_type {config.get("model_type")!r}: other architectures cannot be exported'
        )
    return config


def read_normalisation(checkpoint: Path) -> Normalisation:
    """Return what the checkpoint's image processor does to pixels; Qwen's own without a file."""
    file = checkpoint / 'preprocessor_config.json'
    if not file.is_file():
        return Normalisation()
    settings = json.loads(file.read_text(encoding='utf-8'))
    usual = Normalisation()
    return Normalisation(
        mean=tuple(settings.get('image_mean', usual.mean)),
        std=tuple(settings.get('image_std', usual.std)),
        scale=settings.get('rescale_factor', usual.scale),
    )


def checkpoint_sha256(checkpoint: Path) -> str:
    """Return one sha256 over config and weights, in the order of their names."""
    digest = hashlib.sha256()
    for path in [checkpoint / 'config.json', *sorted(checkpoint.glob('*.safetensors'))]:
        digest.update(path.name.encode())
        with path.open('rb') as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _require_full_attention(checkpoint: Path, layer_types: Sequence[str]) -> None:
    if set(layer_types) != {'full_attention'}:
        raise ExportError(
            f'expected full attention in every language layer of {checkpoint}, found '
            f'{sorted(set(layer_types))}: set use_sliding_window to false in config.json'
        )


def _require_same_width(pruner_file: Path, pruner: ReconPruner, hidden_size: int) -> None:
    if pruner.config.hidden_size != hidden_size:
        raise ExportError(
            f'the pruner {pruner_file} has hidden size {pruner.config.hidden_size}, the '
            f"checkpoint's visual tokens have {hidden_size}: it was made for another model"
        )


def load_or_make_head(checkpoint: Path, hidden_size: int, num_cameras: int) -> WaypointHead:
    """Return the folder's waypoint head, or an untrained one where it has none."""
    file = checkpoint / HEAD_FILE
    if not file.is_file():
        return untrained_head(hidden_size, num_cameras)
    head = load_head(file)
    found = head.config.hidden_size, head.config.num_cameras
    if found != (hidden_size, num_cameras):
        raise ExportError(
            f'the waypoint head {file} is for hidden size {found[0]} and {found[1]} cameras, the '
            f'language model has {hidden_size} and {num_cameras} are asked for: it was made for '
            'another model'
        )
    return head
