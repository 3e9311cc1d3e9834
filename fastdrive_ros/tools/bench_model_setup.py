# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A shape's name or a checkpoint -> everything that `fastdrive bench model` measures.

Random weights cost what trained ones cost: no stage looks at values to decide what to compute.
What they cannot tell is an answer, so every answer has a fixed number of tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.language_memory import LanguageShape
from fastdrive_ros.planners.language_memory import MemoryPlan
from fastdrive_ros.planners.language_memory import plan_memory
from fastdrive_ros.planners.language_memory import require_memory

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers import Qwen2_5_VLForConditionalGeneration

    from fastdrive_ros.learn.fused_vision import FusedVision
    from fastdrive_ros.learn.recon_pruner import ReconPruner
    from fastdrive_ros.planners.torch_language import TorchLanguageModel

TEXT_TOKENS = 200
"""Of role, task and ego history around the pictures, about what Impromptu-VLA's prompt has."""
BLOCKS = 1, 2, 4, 8, 16, 32
"""Tokens of a pass whose time is measured."""
NUM_CANDIDATES = 16
"""Ten digits and a few signs."""
_BEFORE = 24

_QWEN_VISION = {'depth': 32, 'hidden_size': 1280, 'intermediate_size': 3420, 'num_heads': 16,
                'fullatt_block_indexes': [7, 15, 23, 31]}
_QWEN_IDS = {'image_token_id': 151_655, 'video_token_id': 151_656,
             'vision_start_token_id': 151_652, 'vision_end_token_id': 151_653}
_ROPE = {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24]}
SHAPES: dict[str, dict[str, Any]] = {
    'qwen2.5-vl-3b': {
        'vision_config': {**_QWEN_VISION, 'out_hidden_size': 2048},
        'text_config': {
            'vocab_size': 151_936, 'hidden_size': 2048, 'intermediate_size': 11_008,
            'num_hidden_layers': 36, 'num_attention_heads': 16, 'num_key_value_heads': 2,
            'rope_parameters': _ROPE},
        'tie_word_embeddings': True, **_QWEN_IDS},
    'qwen2.5-vl-7b': {
        'vision_config': {**_QWEN_VISION, 'out_hidden_size': 3584},
        'text_config': {
            'vocab_size': 152_064, 'hidden_size': 3584, 'intermediate_size': 18_944,
            'num_hidden_layers': 28, 'num_attention_heads': 28, 'num_key_value_heads': 4,
            'rope_parameters': _ROPE},
        'tie_word_embeddings': False, **_QWEN_IDS},
    # For two processor cores. The vocabulary is a tenth of the language model, as in the 3B.
    'small': {
        'vision_config': {'depth': 12, 'hidden_size': 384, 'intermediate_size': 1024,
                          'num_heads': 6, 'fullatt_block_indexes': [2, 5, 8, 11],
                          'out_hidden_size': 512},
        'text_config': {
            'vocab_size': 8192, 'hidden_size': 512, 'intermediate_size': 2752,
            'num_hidden_layers': 8, 'num_attention_heads': 4, 'num_key_value_heads': 1,
            'bos_token_id': 8188, 'eos_token_id': 8189, 'rope_parameters': _ROPE},
        'tie_word_embeddings': True, 'image_token_id': 8184, 'video_token_id': 8185,
        'vision_start_token_id': 8186, 'vision_end_token_id': 8187},
}


@dataclass(frozen=True)
class Subject:
    """Models on their device, one set of pictures and the full prompt."""

    name: str
    device: torch.device
    dtype: torch.dtype
    shape: LanguageShape
    grid: tuple[int, int, int]
    """Cameras, rows and columns of tokens."""
    hf: Qwen2_5_VLForConditionalGeneration
    vision: FusedVision
    pruner: ReconPruner
    pruner_is_trained: bool
    language: TorchLanguageModel
    images: torch.Tensor
    """uint8 (V, H, W, 3)."""
    token_ids: torch.Tensor
    """int64 (L,), of the full prompt, on the host like the two below."""
    positions: torch.Tensor
    image_slots: torch.Tensor
    candidates: np.ndarray

    @property
    def num_tokens(self) -> int:
        """N: visual tokens of all cameras."""
        return len(self.image_slots)

    def rows(self, kept: torch.Tensor, indices: torch.Tensor) -> PromptRows:
        """Return the prompt with only the kept tokens (K, D), which are those at ``indices``."""
        visual = np.full(len(self.token_ids), -1)
        visual[self.image_slots[indices].numpy()] = np.arange(len(indices))
        there = (visual >= 0) | (self.token_ids != self.hf.config.image_token_id).numpy()
        return PromptRows(self.token_ids.numpy()[there], visual[there], kept,
                          self.positions.numpy()[:, there], int(self.positions.max()) + 1)


def bench_config(shape: str | None, checkpoint: Path | None) -> Qwen2_5_VLConfig:
    """Return a checkpoint's config or a shape's."""
    from transformers import Qwen2_5_VLConfig

    if checkpoint is not None:
        if not (checkpoint / 'config.json').is_file():
            raise FileNotFoundError(2, 'expected a Qwen2.5-VL checkpoint folder', str(checkpoint))
        return Qwen2_5_VLConfig.from_pretrained(checkpoint)
    return Qwen2_5_VLConfig(**copy.deepcopy(SHAPES[shape or 'small']))


def has_weights(checkpoint: Path | None) -> bool:
    """Return whether a checkpoint folder is more than a config."""
    return checkpoint is not None and any(checkpoint.glob('*.safetensors'))


def bench_memory(config: Qwen2_5_VLConfig, grid: tuple[int, int, int], answer_tokens: int,
                 number_bytes: int, device: str) -> MemoryPlan:
    """
    Return what the bench will allocate: our language model's plan and transformers' beside it.

    Ours copies q, k, v, gate and up of transformers' weights, so nearly all is there twice.
    """
    shape = LanguageShape.from_config(config.text_config, config.tie_word_embeddings)
    rows = grid[0] * grid[1] * grid[2] + TEXT_TOKENS + max(answer_tokens, *BLOCKS)
    plan = plan_memory(shape, rows, number_bytes, device)
    vision = config.vision_config
    patches = grid[1] * grid[2] * vision.spatial_merge_size**2
    tower = vision.depth * (4 * vision.hidden_size**2
                            + 3 * vision.hidden_size * vision.intermediate_size)
    tower_states = grid[0] * patches * (8 * vision.hidden_size + 4 * vision.intermediate_size)
    # ReconPruner's attention and one slice of the map that VisPruner wants, fp32 and its softmax.
    squares = 3 * max(shape.num_heads * (rows + 1)**2, 1024 * patches * vision.num_heads)
    return MemoryPlan(
        plan.rows, 2 * plan.weights + (tower + 2 * shape.layer_parameters) * number_bytes,
        2 * plan.cache, max(plan.activations, tower_states * number_bytes, squares * number_bytes),
        plan.workspace)


def make_subject(config: Qwen2_5_VLConfig, name: str, checkpoint: Path | None,
                 grid: tuple[int, int, int], answer_tokens: int, device: str,
                 dtype_name: str) -> Subject:
    """
    Load or make every model; EngineError before anything is loaded when memory is too small.

    Weights come from a seed where no checkpoint is given, the pruner's also where the checkpoint
    folder has none.
    """
    import torch

    from fastdrive_ros.planners.torch_decoder import Decoder
    from fastdrive_ros.planners.torch_language import TorchLanguageModel
    from fastdrive_ros.planners.torch_language import free_bytes

    place, dtype = torch.device(device), getattr(torch, dtype_name)
    plan = bench_memory(config, grid, answer_tokens, dtype.itemsize, place.type)
    require_memory(plan, free_bytes(place), device)
    torch.manual_seed(0)
    hf = _language_and_vision(config, checkpoint, place, dtype)
    shape = LanguageShape.from_config(config.text_config, config.tie_word_embeddings)
    vision = _vision(hf, config, grid)
    pruner, trained = _pruner(config, checkpoint, grid)
    with torch.inference_mode():
        decoder = Decoder(shape, text_weights(hf))
    token_ids, positions, slots = _prompt(hf, config, grid)
    rows = len(token_ids) + max(answer_tokens, *BLOCKS)
    images = torch.randint(0, 256, (grid[0], vision.image_height, vision.image_width, 3),
                           dtype=torch.uint8, device=place)
    candidates = np.arange(100, 100 + NUM_CANDIDATES)
    pruner = pruner.set_precision(dtype).to(place).eval()
    return Subject(name, place, dtype, shape, grid, hf, vision, pruner, trained,
                   TorchLanguageModel(decoder, rows), images, token_ids, positions,
                   slots, candidates)


def text_weights(hf: Qwen2_5_VLForConditionalGeneration) -> Callable[[str], torch.Tensor]:
    """Return what gives torch_decoder.Decoder transformers' weights."""
    text = hf.model.language_model
    return lambda name: (hf.lm_head.weight if name == 'lm_head.weight'
                         else text.get_parameter(name))


def _language_and_vision(config: Qwen2_5_VLConfig, checkpoint: Path | None, device: torch.device,
                         dtype: torch.dtype) -> Qwen2_5_VLForConditionalGeneration:
    import torch
    from transformers import GenerationConfig
    from transformers import Qwen2_5_VLForConditionalGeneration
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if has_weights(checkpoint):
        hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=dtype, attn_implementation='sdpa').to(device)
    else:
        with torch.device(device):
            hf = Qwen2_5_VLForConditionalGeneration._from_config(
                config, dtype=dtype, attn_implementation='sdpa')
    # Greedy, and whatever it writes, as many tokens as are asked for.
    hf.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    return hf.eval().requires_grad_(False)


def _vision(hf: Qwen2_5_VLForConditionalGeneration, config: Qwen2_5_VLConfig,
            grid: tuple[int, int, int]) -> FusedVision:
    from fastdrive_ros.learn.fused_vision import FusedVision

    side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    # Its tables are made on the host; both then share their weights on the device.
    visual, place = hf.model.visual, hf.device
    vision = FusedVision(visual.cpu(), grid[0], grid[1] * side, grid[2] * side)
    visual.to(place)
    return vision.to(place)


def _pruner(config: Qwen2_5_VLConfig, checkpoint: Path | None,
            grid: tuple[int, int, int]) -> tuple[ReconPruner, bool]:
    from fastdrive_ros.learn.recon_pruner import ReconPruner
    from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
    from fastdrive_ros.learn.recon_pruner import load_pruner

    file = None if checkpoint is None else checkpoint / 'recon_pruner.safetensors'
    trained = file is not None and file.is_file()
    pruner = (load_pruner(file, *grid) if trained else
              ReconPruner(ReconPrunerConfig.for_model(config.text_config), *grid))
    # The export needs 'eager'; on torch the fused attention takes the same mask.
    pruner.layer.self_attn.config._attn_implementation = 'sdpa'
    return pruner.requires_grad_(False), trained


def _prompt(hf: Qwen2_5_VLForConditionalGeneration, config: Qwen2_5_VLConfig,
            grid: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids (L,), positions (3, L) and slots (N,): text, pictures in their brackets, text."""
    import torch

    cameras, height, width = grid
    picture = [config.vision_start_token_id, *[config.image_token_id] * (height * width),
               config.vision_end_token_id]
    vocabulary = config.text_config.vocab_size  # its special tokens are at one end or the other
    words = np.random.default_rng(0).integers(
        vocabulary // 4, vocabulary // 2, TEXT_TOKENS - 2 * cameras).tolist()
    ids = torch.tensor([*words[:_BEFORE], *picture * cameras, *words[_BEFORE:]])
    is_image = ids == config.image_token_id
    merge = config.vision_config.spatial_merge_size
    positions, _ = hf.model.get_rope_index(
        ids[None], mm_token_type_ids=is_image.int()[None],
        image_grid_thw=torch.tensor([[1, height * merge, width * merge]] * cameras))
    return ids, positions[:, 0], is_image.nonzero().squeeze(1)
