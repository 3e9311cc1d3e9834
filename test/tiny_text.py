# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A tiny Qwen2.5-VL that can be asked in text, with a tokenizer that splits as Qwen's does.

Qwen's own vocabulary is not to be had offline; its pre-tokenizer (digits apart, punctuation in
runs with the blank before) is, and that is what the grammar has to live with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from tokenizers import Regex
from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration

from fastdrive_ros.learn.nano import SPECIAL_TOKENS
from fastdrive_ros.planners.text_answer import AnswerForm

# The split of Qwen2's tokenizer.json.
_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r'|\s*[\r\n]+|\s+(?!\S)|\s+')
FORM = AnswerForm(before='<PLANNING>Waypoints every 0.5 seconds: ', after='</PLANNING>',
                  num_waypoints=6)
VOCABULARY_SIZE = 420
CAMERAS = ('CAM_FRONT', 'CAM_BACK')
GRID = (3, 4)
HIDDEN_SIZE = 48


@functools.cache
def qwen_tokenizer() -> Tokenizer:
    """Return a byte-level BPE in which ' [', ' [-' and '],' became tokens of their own."""
    corpus = [FORM.text(('1.5', '-0.25') * 6), FORM.text(('-3.0', '0.5') * 6)] * 50
    corpus += ['You drive a vehicle. Predict where it will be in the next 3 seconds.'] * 20
    return _tokenizer(corpus)


def _tokenizer(corpus: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_SPLIT), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


@functools.cache
def plain_tokenizer() -> Tokenizer:
    """Return one in which every character is a token of its own."""
    return _tokenizer([])


def encode_plain(text: str) -> Sequence[int]:
    """Return token ids of ``plain_tokenizer``."""
    return plain_tokenizer().encode(text, add_special_tokens=False).ids


def encode(text: str) -> Sequence[int]:
    """Return token ids, special tokens by their names."""
    return qwen_tokenizer().encode(text, add_special_tokens=False).ids


@functools.cache
def text_model(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return random weights, large enough for positions and history to matter."""
    torch.manual_seed(seed)
    special = {name: encode(name)[0] for name in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        vision_config={'depth': 2, 'hidden_size': 32, 'intermediate_size': 48, 'num_heads': 2,
                       'out_hidden_size': HIDDEN_SIZE, 'fullatt_block_indexes': [1]},
        text_config={
            'vocab_size': VOCABULARY_SIZE, 'hidden_size': HIDDEN_SIZE, 'intermediate_size': 64,
            'num_hidden_layers': 3, 'num_attention_heads': 3, 'num_key_value_heads': 1,
            'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e4,
                                'mrope_section': [2, 3, 3]},
            'eos_token_id': special['<|im_end|>'], 'pad_token_id': special['<|endoftext|>'],
        },
        image_token_id=special['<|image_pad|>'], video_token_id=special['<|video_pad|>'],
        vision_start_token_id=special['<|vision_start|>'],
        vision_end_token_id=special['<|vision_end|>'])
    config._attn_implementation = 'eager'
    model = Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.model.language_model.parameters():
        parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)
    return model
