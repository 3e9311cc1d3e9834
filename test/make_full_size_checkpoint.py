# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A checkpoint folder of Qwen2.5-VL-3B's shape with random weights, for docs/full_size.md.

    python test/make_full_size_checkpoint.py OUT [vision layers] [language layers]

3.75 billion bf16 weights in shards, as transformers writes them; a ReconPruner and a waypoint head
whose output layer is random, so that a wrong plan shows. Wants 9 GB of memory, 8 GB of disk. No
tokenizer of Qwen's is at hand offline: it is nano's, which has all tokens of the prompt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration

from fastdrive_ros.learn.nano import PRUNER_FILE
from fastdrive_ros.learn.nano import nano_tokenizer
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import save_pruner
from fastdrive_ros.learn.waypoint_head import HEAD_FILE
from fastdrive_ros.learn.waypoint_head import save_head
from fastdrive_ros.learn.waypoint_head import untrained_head


def config_3b(vision_layers: int = 32, language_layers: int = 36) -> Qwen2_5_VLConfig:
    """Return the published configuration, with the token ids of nano's tokenizer."""
    ids = nano_tokenizer().convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        vision_config={
            'depth': vision_layers, 'hidden_size': 1280, 'num_heads': 16,
            'intermediate_size': 3420, 'out_hidden_size': 2048, 'window_size': 112,
            'fullatt_block_indexes': [i for i in (7, 15, 23, 31) if i < vision_layers],
        },
        text_config={
            'vocab_size': 151936, 'hidden_size': 2048, 'intermediate_size': 11008,
            'num_hidden_layers': language_layers, 'num_attention_heads': 16,
            'num_key_value_heads': 2, 'max_position_embeddings': 128000, 'rms_norm_eps': 1e-6,
            'rope_parameters': {
                'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24],
            },
        },
        image_token_id=ids('<|image_pad|>'), video_token_id=ids('<|video_pad|>'),
        vision_start_token_id=ids('<|vision_start|>'),
        vision_end_token_id=ids('<|vision_end|>'), tie_word_embeddings=True,
    )


def write(folder: Path, vision_layers: int = 32, language_layers: int = 36) -> int:
    """Write the folder, return the number of weights."""
    torch.manual_seed(0)
    config = config_3b(vision_layers, language_layers)
    torch.set_default_dtype(torch.bfloat16)
    model = Qwen2_5_VLForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size='4GB')
    nano_tokenizer().save_pretrained(folder)
    save_pruner(ReconPruner(ReconPrunerConfig.for_model(config.text_config), 6, 8, 14),
                folder / PRUNER_FILE)
    head = untrained_head(config.text_config.hidden_size)
    torch.nn.init.normal_(head.output.weight, std=0.02)
    save_head(head, folder / HEAD_FILE)
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == '__main__':
    print(f'{write(Path(sys.argv[1]), *map(int, sys.argv[2:])):,} weights')
