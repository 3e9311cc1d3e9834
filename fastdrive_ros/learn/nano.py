# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The nano checkpoint: a Qwen2.5-VL of a few million untrained parameters, from a seed.

It is made for six 224 x 392 pictures (a 1600 x 900 JPEG decodes to 400 x 225 with a quarter-size
DCT; 8 x 14 tokens a camera, ragged windows) at 10 Hz on two CPU cores beside ROS and decoding.
The folder is an ordinary Hugging Face checkpoint, and with it lie a pruner and a waypoint head.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex
from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
from transformers import PreTrainedTokenizerFast
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from fastdrive_ros.core.types import NUSCENES_CAMERAS
from fastdrive_ros.learn.checkpoint import open_checkpoint
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.prompt import driving_prompt
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import save_pruner
from fastdrive_ros.learn.vision import Normalisation
from fastdrive_ros.learn.waypoint_head import HEAD_FILE
from fastdrive_ros.learn.waypoint_head import save_head
from fastdrive_ros.learn.waypoint_head import untrained_head

PRUNER_FILE = 'recon_pruner.safetensors'
VOCABULARY_SIZE = 512
SPECIAL_TOKENS = (
    '<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|vision_start|>', '<|vision_end|>',
    '<|vision_pad|>', '<|image_pad|>', '<|video_pad|>',
)
# The pattern of Qwen2's tokenizer.json.
_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r'|\s*[\r\n]+|\s+(?!\S)|\s+')
# What the vocabulary's merges are learned from, so that the prompt is a few dozen tokens long.
CORPUS = (
    driving_prompt(NUSCENES_CAMERAS, 3.0),
    'You are driving. The vehicle keeps its lane, slows down, stops, turns left, turns right, '
    'goes straight on, follows the car ahead, waits at the red traffic light and yields to '
    'pedestrians. Speed in metres per second, heading in radians, position in metres.',
)


def write_nano_checkpoint(out: Path, seed: int = 0, encoder: Path | None = None) -> int:
    """
    Write the checkpoint folder and return how many parameters it has.

    With the vision encoder of another nano checkpoint, if given; ExportError where it is none.
    """
    transformers_logging.disable_progress_bar()
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = nano_tokenizer()
    config = nano_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    if encoder:
        _take_encoder(model, encoder)
    pruner = ReconPruner(ReconPrunerConfig.for_model(config.text_config), 6, 8, 14)
    head = untrained_head(config.text_config.hidden_size, seed=seed)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    save_pruner(pruner, out / PRUNER_FILE)
    save_head(head, out / HEAD_FILE)
    (out / 'preprocessor_config.json').write_text(json.dumps(_preprocessor(config), indent=1))
    return sum(p.numel() for part in (model, pruner, head) for p in part.parameters())


def _take_encoder(model: Qwen2_5_VLForConditionalGeneration, encoder: Path) -> None:
    other, _ = open_checkpoint(encoder)
    try:
        model.model.visual.load_state_dict(other.model.visual.state_dict())
    except RuntimeError as error:
        raise ExportError(f'expected a nano checkpoint in {encoder}, its vision encoder has other '
                          'shapes: give one that `fastdrive nano` or `train planner` wrote'
                          ) from error


def nano_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Return the architecture: windowed and full vision attention, grouped-query decoder."""
    def token_id(token: str) -> int:
        return tokenizer.convert_tokens_to_ids(token)

    return Qwen2_5_VLConfig(
        vision_config={
            'depth': 4, 'hidden_size': 128, 'intermediate_size': 256, 'num_heads': 2,
            'out_hidden_size': 192, 'fullatt_block_indexes': [3], 'initializer_range': 0.05,
        },
        text_config={
            'vocab_size': VOCABULARY_SIZE, 'hidden_size': 192, 'intermediate_size': 512,
            'num_hidden_layers': 4, 'num_attention_heads': 3, 'num_key_value_heads': 1,
            'max_position_embeddings': 4096, 'initializer_range': 0.05,
            'rope_parameters': {
                'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [8, 12, 12],
            },
            'bos_token_id': token_id('<|endoftext|>'), 'eos_token_id': token_id('<|im_end|>'),
            'pad_token_id': token_id('<|endoftext|>'),
        },
        image_token_id=token_id('<|image_pad|>'),
        video_token_id=token_id('<|video_pad|>'),
        vision_start_token_id=token_id('<|vision_start|>'),
        vision_end_token_id=token_id('<|vision_end|>'),
        tie_word_embeddings=True,
    )


def nano_tokenizer() -> PreTrainedTokenizerFast:
    """
    Return a byte-level BPE tokenizer with Qwen's special tokens; any text has an encoding.

    It splits as Qwen's does before it merges: digits apart, punctuation with the blank before it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token='<|im_end|>', pad_token='<|endoftext|>',
        additional_special_tokens=list(SPECIAL_TOKENS),
    )


def _preprocessor(config: Qwen2_5_VLConfig) -> dict[str, object]:
    normalisation = Normalisation()
    vision = config.vision_config
    return {
        'image_processor_type': 'Qwen2VLImageProcessor',
        'image_mean': normalisation.mean,
        'image_std': normalisation.std,
        'rescale_factor': normalisation.scale,
        'patch_size': vision.patch_size,
        'merge_size': vision.spatial_merge_size,
        'temporal_patch_size': vision.temporal_patch_size,
    }
