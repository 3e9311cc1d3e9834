# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The graph of a text planner: rows of text and kept tokens, and a cache, -> logits and new cache.

One graph serves prefill (P = 0), decoding (S = 1) and blocks in between. The cache is rows first,
float [P, layers, 2, key heads, d]: what comes out for the S new rows belongs right behind it.

Shapes: S new rows, P cached ones, K kept tokens, R rows whose logits are wanted, C candidates.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half

INPUTS = ('token_ids', 'visual_rows', 'kept_tokens', 'positions', 'cache', 'logit_rows',
          'candidates')
OUTPUTS = ('logits', 'new_cache')
FREE_DIMS = {
    'token_ids': {0: 'S'}, 'visual_rows': {0: 'S'}, 'kept_tokens': {0: 'K'},
    'positions': {1: 'S'}, 'cache': {0: 'P'}, 'logit_rows': {0: 'R'}, 'candidates': {0: 'C'},
    'logits': {0: 'R', 1: 'C'}, 'new_cache': {0: 'S'},
}


class LanguageGraph(nn.Module):
    """transformers' language model with its weights, and an attention that any exporter takes."""

    def __init__(self, language: Qwen2_5_VLTextModel, output: torch.Tensor) -> None:
        """Share the layers; ``output`` [vocabulary, D] may be the embeddings' own tensor."""
        super().__init__()
        self.layers = language.layers
        self.norm = language.norm
        self.rotary = language.rotary_emb
        self.embeddings = language.embed_tokens.weight                  # (vocabulary, D)
        self.output = nn.Parameter(output, requires_grad=False) \
            if output is not self.embeddings else self.embeddings
        self.compute_dtype = language.norm.weight.dtype
        """Of the layers; cache and logits are float32 at the edges in every precision."""
        config = language.config
        self.num_heads = config.num_attention_heads
        self.num_key_heads = config.num_key_value_heads
        self.head_size = getattr(config, 'head_dim', None) or config.hidden_size // self.num_heads

    def forward(
        self, token_ids: torch.Tensor, visual_rows: torch.Tensor, kept_tokens: torch.Tensor,
        positions: torch.Tensor, cache: torch.Tensor, logit_rows: torch.Tensor,
        candidates: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return float32 logits [R, C] and new_cache [S, layers, 2, key heads, d].

        Inputs as in planners/language.py: int64 [S], int64 [S] (-1 is text), [K, D], int64 [3, S],
        [P, layers, 2, key heads, d], int64 [R], int64 [C].
        """
        text = functional.embedding(token_ids, self.embeddings).to(self.compute_dtype)  # (S, D)
        visual = kept_tokens.index_select(0, visual_rows.clamp(min=0)).to(text.dtype)
        hidden = torch.where(visual_rows[:, None] >= 0, visual, text)
        cos, sin = self.rotary(hidden, positions[:, None])              # (1, S, d)
        rotary = cos[0, :, None], sin[0, :, None]                       # (S, 1, d)
        visible = self._visible(token_ids, cache)                       # (S, P + S)
        mask = torch.zeros(visible.shape, dtype=torch.float32, device=hidden.device)
        mask = mask.masked_fill(~visible, -torch.inf)
        new = []
        for index, layer in enumerate(self.layers):
            # Nobody reads the last layer's other rows: of those only keys and values are made.
            rows = logit_rows if index == len(self.layers) - 1 else None
            hidden, added = self._layer(layer, hidden, rotary, mask, cache[:, index], rows)
            new.append(added)
        wanted = self.norm(hidden)                                      # (R, D)
        logits = wanted @ self.output.index_select(0, candidates).to(wanted.dtype).T
        return logits.float(), torch.stack(new, dim=1).to(cache.dtype)

    @staticmethod
    def _visible(token_ids: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """Return bool (S, P + S): every cached row, and the new ones up to its own."""
        rows = torch.arange(token_ids.shape[0], device=token_ids.device)
        cached = torch.zeros_like(cache[:, 0, 0, 0, 0], dtype=torch.int64) - 1
        return torch.cat([cached, rows])[None, :] <= rows[:, None]

    def _layer(
        self, layer: Qwen2_5_VLDecoderLayer, hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, cache: torch.Tensor,
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Run one layer on (S, D) with its cache (P, 2, key heads, d); also its new rows of it.

        ``rows`` (R,) are those whose output is wanted, (R, D); None: all.
        """
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        key, value = (project(normed).unflatten(1, (-1, self.head_size))    # (S, key heads, d)
                      for project in (attention.k_proj, attention.v_proj))
        key = _rotated(key, *rotary)
        if rows is not None:
            hidden, normed, mask = (each.index_select(0, rows) for each in (hidden, normed, mask))
            rotary = tuple(each.index_select(0, rows) for each in rotary)
        query = attention.q_proj(normed).unflatten(1, (-1, self.head_size))
        query = _rotated(query, *rotary)                                # (S or R, heads, d)
        new = torch.stack([key, value], dim=1)                          # (S, 2, key heads, d)
        both = torch.cat([cache.to(new.dtype), new])                    # (P + S, 2, key heads, d)
        # Query heads in groups of those that share a key head.
        query = query.unflatten(1, (self.num_key_heads, -1)).permute(1, 2, 0, 3)
        keys = both[:, 0].permute(1, 2, 0)[:, None]                     # (key heads, 1, d, P + S)
        weights = (query @ keys).float() * self.head_size ** -0.5 + mask
        values = both[:, 1].transpose(0, 1)[:, None]                    # (key heads, 1, P + S, d)
        mixed = torch.softmax(weights, dim=-1).to(values.dtype) @ values
        mixed = mixed.permute(2, 0, 1, 3).flatten(1)                    # (S, heads * d)
        hidden = hidden + attention.o_proj(mixed)
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden)), new


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (S, heads, d) by (S, 1, d)."""
    return states * cos + rotate_half(states) * sin
