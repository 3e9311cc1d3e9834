# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Grounding DINO and SAM of a few thousand random weights, saved as real checkpoints are.

The classes, tokenizer, processors and files are transformers' own; only sizes are small. Random
weights find boxes of every class all over the picture, which is all the tests need.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import BertConfig
from transformers import BertTokenizerFast
from transformers import GroundingDinoConfig
from transformers import GroundingDinoForObjectDetection
from transformers import GroundingDinoProcessor
from transformers import SamConfig
from transformers import SamMaskDecoderConfig
from transformers import SamModel
from transformers import SamProcessor
from transformers import SamPromptEncoderConfig
from transformers import SamVisionConfig
from transformers import SwinConfig
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from fastdrive_ros.tools.label_worker import LabelWorker

# Where BERT's vocabulary has them: Grounding DINO's model code knows these ids by heart.
_SPECIAL = {'[PAD]': 0, '[UNK]': 100, '[CLS]': 101, '[SEP]': 102, '[MASK]': 103, '.': 1012,
            '?': 1029}
_WORDS = ('road', 'traffic', 'barrier', 'guard', 'rail', 'cone', 'debris', 'bus', 'truck',
          'trailer', 'construction', 'vehicle', 'car', 'van', 'bicycle', 'motor', '##cycle',
          'sign', 'light', 'person')
_VOCABULARY = 1100
_SIDE = 64


def bert_tokenizer(folder: Path) -> BertTokenizerFast:
    """Return a tokenizer that knows the words of config/foreground.yaml."""
    names = [f'[unused{i}]' for i in range(_VOCABULARY)]
    for name, place in _SPECIAL.items():
        names[place] = name
    names[1040:1040 + len(_WORDS)] = _WORDS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.txt').write_text('\n'.join(names) + '\n')
    return BertTokenizerFast.from_pretrained(folder, do_lower_case=True)


def write_detector(folder: Path, seed: int = 0, queries: int = 6) -> Path:
    """Write a Grounding DINO checkpoint; return the folder."""
    torch.manual_seed(seed)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=_SIDE, window_size=4, embed_dim=8, depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1], out_features=['stage2', 'stage3', 'stage4'],
            out_indices=[2, 3, 4]),
        text_config=BertConfig(
            vocab_size=_VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, max_position_embeddings=256),
        d_model=32, encoder_layers=1, encoder_attention_heads=2, decoder_layers=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=queries,
        num_feature_levels=4, encoder_n_points=2, decoder_n_points=2, disable_custom_kernels=True)
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil(size={'shortest_edge': _SIDE, 'longest_edge': 2 * _SIDE}),
        bert_tokenizer(folder))
    processor.save_pretrained(folder)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    return folder


def write_segmenter(folder: Path, seed: int = 0) -> Path:
    """Write a SAM checkpoint; return the folder."""
    torch.manual_seed(seed)
    patch = 16
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=16, output_channels=8, num_hidden_layers=1, num_attention_heads=2,
            image_size=_SIDE, patch_size=patch, window_size=2, global_attn_indexes=[0],
            mlp_dim=16, num_pos_feats=4),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=8, image_size=_SIDE, patch_size=patch, mask_input_channels=4,
            image_embedding_size=_SIDE // patch),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=8, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2,
            iou_head_hidden_dim=8, iou_head_depth=2))
    SamModel(config).save_pretrained(folder)
    SamProcessor(SamImageProcessorPil(
        size={'longest_edge': _SIDE}, pad_size={'height': _SIDE, 'width': _SIDE},
        mask_size={'longest_edge': _SIDE}, mask_pad_size={'height': _SIDE, 'width': _SIDE},
    )).save_pretrained(folder)
    return folder


class DyingWorker(LabelWorker):
    """A worker that the first shard kills, as want of memory does; the next one lives."""

    def label(self, split: str, shard: int) -> str:
        """Leave half a shard and the process."""
        mark = self._job.target / 'labels' / 'died'
        if not mark.exists():
            mark.touch()
            staging = self._job.target / split / f'{shard:06d}.partial'
            staging.mkdir()
            (staging / 'frames.parquet').write_bytes(b'PAR1 and no more')
            os._exit(1)
        return super().label(split, shard)
