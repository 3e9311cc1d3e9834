# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A Qwen2.5-VL of 200,000 parameters, and transformers' own forward on it as the reference.

Weights are scaled up so that positions matter: at the usual initialisation a wrong position id
changes a hidden state by less than the tolerance.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.checkpoint import load_driving_model
from fastdrive_ros.learn.nano import PRUNER_FILE
from fastdrive_ros.learn.nano import nano_tokenizer
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import save_pruner

HIDDEN_SIZE = 48
# (height, width) in pixels: 7 x 6 tokens has windows of four sizes, 4 x 8 of one.
GRIDS = ((196, 168), (112, 224))


@dataclass(frozen=True)
class Made:
    """Our modules and transformers' model on the same weights."""

    driving: DrivingModel
    hf: Qwen2_5_VLForConditionalGeneration

    def random_tokens(self) -> torch.Tensor:
        """Return visual tokens [N, D]."""
        return torch.randn(len(self.driving.prompt.image_slots), HIDDEN_SIZE)

    def random_history(self) -> torch.Tensor:
        """Return an ego history [Hh, F]."""
        return torch.randn(self.driving.planner.head.config.history_steps, 7)

    def slots(self, kept_indices: torch.Tensor) -> torch.Tensor:
        """Return where the planner's tokens stand in the full sequence, in the planner's order."""
        prompt, planner = self.driving.prompt, self.driving.planner
        return torch.cat(
            [prompt.text_slots, prompt.image_slots[kept_indices], planner.tail_slots]
        )


def write_checkpoint(folder: Path, seed: int = 0, hidden_size: int = HIDDEN_SIZE) -> Path:
    """Write a checkpoint with a pruner and without a waypoint head; return the folder."""
    torch.manual_seed(seed)
    tokenizer = nano_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        vision_config={
            'depth': 3, 'hidden_size': 32, 'intermediate_size': 48, 'num_heads': 2,
            'out_hidden_size': hidden_size, 'fullatt_block_indexes': [1],
        },
        text_config={
            'vocab_size': 512, 'hidden_size': hidden_size, 'intermediate_size': 64,
            'num_hidden_layers': 2, 'num_attention_heads': hidden_size // 16,
            'num_key_value_heads': 1,
            'rope_parameters': {
                'rope_type': 'default', 'rope_theta': 1e4, 'mrope_section': [2, 3, 3],
            },
        },
        image_token_id=ids('<|image_pad|>'),
        video_token_id=ids('<|video_pad|>'),
        vision_start_token_id=ids('<|vision_start|>'),
        vision_end_token_id=ids('<|vision_end|>'),
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    pruner = ReconPruner(ReconPrunerConfig.for_model(config.text_config), 1, 1, 1)
    _scale_up(model)
    _scale_up(pruner)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_pruner(pruner, folder / PRUNER_FILE)
    return folder


def load_both(checkpoint: Path, num_cameras: int, height: int, width: int) -> Made:
    """Load a checkpoint as ours and as transformers' own."""
    driving = load_driving_model(
        checkpoint, checkpoint / PRUNER_FILE, NUSCENES_CAMERAS[:num_cameras], height, width
    )
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation='sdpa'
    ).eval()
    return Made(driving, hf)


def make_driving_model(num_cameras: int, height: int, width: int) -> Made:
    """Return both sides of a comparison on a fresh random checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        return load_both(write_checkpoint(Path(folder)), num_cameras, height, width)


def random_images(num_cameras: int, height: int, width: int) -> torch.Tensor:
    """Return uint8 noise [V, H, W, 3]."""
    return torch.randint(0, 256, (num_cameras, height, width, 3), dtype=torch.uint8)


def hf_image_features(
    hf: Qwen2_5_VLForConditionalGeneration, images: torch.Tensor
) -> torch.Tensor:
    """Return [N, D] by transformers: its image processor, its vision tower."""
    processor = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=1 << 30)
    batch = processor(images=list(images.numpy()), return_tensors='pt')
    features = hf.model.get_image_features(batch['pixel_values'], batch['image_grid_thw'])
    return torch.cat(tuple(features.pooler_output))


def hf_hidden_states(
    made: Made,
    tokens: torch.Tensor,
    history: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Return [S, D] of transformers' language model on the whole sequence.

    Prompt ids with the visual tokens scattered in, then ego and query tokens, positions of
    get_rope_index continued. With ``keep``, the columns of all other visual tokens are masked.
    """
    prompt, head = made.driving.prompt, made.driving.planner.head
    model = made.hf.model
    embeds = model.get_input_embeddings()(prompt.token_ids)
    is_image = prompt.token_ids == made.hf.config.image_token_id
    places = head.place(prompt.place_features())
    embeds = embeds.masked_scatter(is_image[:, None], tokens + places)
    embeds = torch.cat([embeds, head.tail(history[None])[0]])
    vision = made.driving.vision
    grid = torch.tensor([[1, vision.grid_height * 2, vision.grid_width * 2]] * vision.num_images)
    positions, _ = model.get_rope_index(
        prompt.token_ids[None], mm_token_type_ids=is_image.int()[None], image_grid_thw=grid
    )
    more = positions.max() + 1 + torch.arange(len(embeds) - len(prompt.token_ids))
    positions = torch.cat([positions, more.expand(3, 1, -1)], dim=2)
    seen = torch.ones(1, len(embeds), dtype=torch.long)
    if keep is not None:
        seen[0, prompt.image_slots] = 0
        seen[0, prompt.image_slots[keep]] = 1
    return model.language_model(
        inputs_embeds=embeds[None], position_ids=positions, attention_mask=seen, use_cache=False
    ).last_hidden_state[0]


def _scale_up(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2 and 'norm' not in name:
                parameter.normal_(0.0, 1.0 / parameter[0].numel() ** 0.5)
            elif 'bias' in name:
                parameter.normal_(0.0, 0.1)
