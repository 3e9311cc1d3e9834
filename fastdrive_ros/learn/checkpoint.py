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
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.utils import logging as transformers_logging

from fastdrive_ros.learn.early_pruning import EarlyPrunedVision
from fastdrive_ros.learn.early_pruning import EarlyRequest
from fastdrive_ros.learn.early_pruning import prune_early
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.language_graph import LanguageGraph
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
from fastdrive_ros.learn.weights import LANGUAGE_PREFIXES
from fastdrive_ros.learn.weights import OUTPUT_PREFIXES
from fastdrive_ros.learn.weights import VISION_PREFIXES
from fastdrive_ros.learn.weights import Weights
from fastdrive_ros.planners.language_memory import LanguageShape

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


@dataclass(frozen=True)
class ModelParts:
    """
    A checkpoint and a pruner for a fixed grid, of which nothing large is in memory yet.

    The methods load one part each, in the asked type or (None) in the one of the files; weights
    are mapped from the files where the types are equal (weights.py).
    """

    folder: Path
    pruner_file: Path
    config: Qwen2_5_VLConfig
    tokenizer: PreTrainedTokenizerBase
    cameras: tuple[str, ...]
    prompt: Prompt
    head: WaypointHead
    normalisation: Normalisation
    height: int
    width: int
    early: EarlyRequest | None = None
    """Drop windows inside the encoder; fp32."""

    @property
    def num_cameras(self) -> int:
        """V."""
        return self.prompt.grid[0]

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.prompt.image_slots)

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.config.text_config.hidden_size

    def vision(self, dtype: torch.dtype | None = torch.float32) -> FixedGridVision:
        """Load the vision tower."""
        config = self.config.vision_config
        visual = Weights(self.folder).load(
            lambda: Qwen2_5_VisionTransformerPretrainedModel._from_config(config),
            VISION_PREFIXES, dtype)
        return FixedGridVision(visual, self.num_cameras, self.height, self.width,
                               self.normalisation).eval()

    def early_vision(self, dtype: torch.dtype | None = None) -> EarlyPrunedVision | None:
        """Load the vision tower that drops windows, if there is one; None: in the files' type."""
        return prune_early(self.vision(dtype), self.early) if self.early else None

    def pruner(
        self, dtype: torch.dtype = torch.float32, file: Path | None = None
    ) -> ReconPruner:
        """Load the pruner, or another one for the same tokens; ExportError where it is not."""
        file = file or self.pruner_file
        _require_pruner(file)
        try:
            pruner = load_pruner(file, *self.prompt.grid).requires_grad_(False)
        except ValueError as error:
            raise ExportError(str(error)) from error
        _require_same_width(file, pruner, self.config.vision_config.out_hidden_size)
        return pruner.set_precision(dtype)

    def planner(self, dtype: torch.dtype | None = torch.float32) -> WaypointPlanner:
        """Load the language model, with the waypoint head on top."""
        return WaypointPlanner(self._language_model(dtype), self.head, self.prompt).eval()

    def language(self, dtype: torch.dtype | None = torch.float32) -> LanguageGraph:
        """Load the language model with the output layer that writes text."""
        language_model = self._language_model(dtype)
        if self.config.tie_word_embeddings:
            return LanguageGraph(language_model, language_model.embed_tokens.weight).eval()
        size, vocabulary = self.hidden_size, self.config.text_config.vocab_size
        output = Weights(self.folder).load(
            lambda: nn.Linear(size, vocabulary, bias=False), OUTPUT_PREFIXES, dtype)
        return LanguageGraph(language_model, output.weight).eval()

    @property
    def language_shape(self) -> LanguageShape:
        """What a text planner on torch must know; EngineError for what graphs do not compute."""
        return LanguageShape.from_config(self.config.text_config, self.config.tie_word_embeddings)

    def _language_model(self, dtype: torch.dtype | None) -> Qwen2_5_VLTextModel:
        config = self.config.text_config
        return Weights(self.folder).load(
            lambda: Qwen2_5_VLTextModel._from_config(config), LANGUAGE_PREFIXES, dtype)

    def stored_dtype(self, part: str) -> torch.dtype:
        """Return the type in the files of 'vision', 'llm' or 'pruner' (which is small: fp32)."""
        if part == 'pruner':
            return torch.float32
        prefixes = VISION_PREFIXES if part == 'vision' else LANGUAGE_PREFIXES
        return Weights(self.folder).stored_dtype(prefixes)

    def parameters(self, text_planner: bool = False) -> dict[str, int]:
        """
        Return how many weights each part has, those of the checkpoint by their shapes.

        'llm' is what is exported of the language model: for a text planner its vocabulary, too.
        """
        with init_empty_weights():
            text = Qwen2_5_VLTextModel._from_config(self.config.text_config)
            visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(
                self.config.vision_config)
        vocabulary = text.embed_tokens.weight.numel()
        llm = _num_weights(text) - vocabulary
        if text_planner:
            llm += vocabulary * (1 if self.config.tie_word_embeddings else 2)
        else:
            llm += _num_weights(self.head)              # and only the prompt's rows of the table
        return {
            'vision': _num_weights(visual),
            'pruner': _num_weights(self.pruner()),
            'llm': llm,
        }

    def matrix_weights(self) -> int:
        """Return how many weights the matrices of the language layers have."""
        with init_empty_weights():
            text = Qwen2_5_VLTextModel._from_config(self.config.text_config)
        return sum(layer.weight.numel() for layer in text.layers.modules()
                   if isinstance(layer, nn.Linear))


def open_parts(
    checkpoint: Path, pruner_file: Path, cameras: Sequence[str], height: int, width: int
) -> ModelParts:
    """Read what is small of a checkpoint; ExportError for all that could be wrong but weights."""
    raw = read_config(checkpoint)
    vision_config = raw.get('vision_config', {})
    multiple = vision_config.get('patch_size', 14) * vision_config.get('spatial_merge_size', 2)
    require_whole_tokens(height, width, multiple)
    _require_pruner(pruner_file)
    transformers_logging.set_verbosity_error()
    try:
        config = Qwen2_5_VLConfig.from_pretrained(checkpoint, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ExportError(f'cannot load the checkpoint {checkpoint}: {error}') from error
    # Eager: what takes any mask, and what the exporter can follow.
    config._attn_implementation = 'eager'
    _require_full_attention(checkpoint, config.text_config.layer_types)
    with init_empty_weights():
        model = Qwen2_5_VLForConditionalGeneration(config)
    try:
        head = load_or_make_head(checkpoint, config.text_config.hidden_size, len(cameras))
        text = driving_prompt(cameras, head.config.num_waypoints * head.config.dt_s)
        prompt = build_prompt(text, tokenizer, model.model, len(cameras), height // multiple,
                              width // multiple)
    except ValueError as error:
        raise ExportError(str(error)) from error
    parts = ModelParts(checkpoint, pruner_file, config, tokenizer, tuple(cameras), prompt,
                       head.requires_grad_(False), read_normalisation(checkpoint), height, width)
    parts.pruner()  # to refuse another model's before the work
    return parts


def load_driving_model(
    checkpoint: Path, pruner_file: Path, cameras: Sequence[str], height: int, width: int
) -> DrivingModel:
    """Read checkpoint, pruner and (if the folder has one) waypoint head for a fixed grid."""
    parts = open_parts(checkpoint, pruner_file, cameras, height, width)
    return DrivingModel(parts.vision(), parts.pruner(), parts.planner(), parts.prompt,
                        parts.tokenizer)


def _num_weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


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
