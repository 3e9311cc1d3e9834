# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The vision tower for running on torch: FixedGridVision with torch's fused attention.

What is exported writes its attention weights out, as every ONNX reader wants them; over 12,996
patches that is gigabytes a block. Here no block does, and the one map that VisPruner asks for is
summed up in slices.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.vision import Layout
from fastdrive_ros.learn.vision import rotate

_SLICE = 1024
"""Queries whose attention weights exist at one time."""


class FusedVision(FixedGridVision):
    """FixedGridVision without its attention weights."""

    def sight(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Map uint8 [V, H, W, 3] to visual_tokens [N, D], attention [N] and features [N, C].

        As rival_graphs.VisionAttention: received attention of the last full-attention block, and
        states before the merger.
        """
        last = max(self.full_attention)
        hidden = self.embed(images, self.patch_weight, self.patch_bias)
        for index, block in enumerate(self.blocks):
            if index == last:
                received = self._received(block.attn, block.norm1(hidden))
            hidden = self.block(index, hidden)
        return (self.merge(hidden), self.per_token(received[..., None]).squeeze(1),
                self.per_token(hidden))

    def _attend(self, attention: Qwen2_5_VLVisionAttention, hidden: torch.Tensor,
                layout: Layout) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Attend within each window: (V, P, C) -> (V, P, C); no weights."""
        parts = _heads(attention, hidden, layout)
        outputs = []
        for group in layout.windows:
            query, key, value = (
                part[:, group.start:group.end]
                .reshape(-1, group.length, *part.shape[2:])
                .transpose(1, 2)                                        # (V * count, heads, l, c)
                for part in parts)
            mixed = functional.scaled_dot_product_attention(
                query, key, value, scale=attention.scaling).transpose(1, 2)
            outputs.append(mixed.reshape(hidden.shape[0], group.end - group.start, -1))
        return attention.proj(torch.cat(outputs, dim=1)), []

    def _received(self, attention: Qwen2_5_VLVisionAttention,
                  hidden: torch.Tensor) -> torch.Tensor:
        """Return (V, P): the attention that a patch receives, mean over queries and heads."""
        parts = _heads(attention, hidden, self.layout)
        query, key, _ = (part.transpose(1, 2) for part in parts)
        received = torch.zeros(hidden.shape[:2], device=hidden.device)
        for part in (query * attention.scaling).split(_SLICE, dim=2):
            weights = torch.softmax(part @ key.transpose(2, 3), dim=-1)
            received += weights.float().sum((1, 2))
        return received / (attention.num_heads * hidden.shape[1])


def _heads(attention: Qwen2_5_VLVisionAttention, hidden: torch.Tensor,
           layout: Layout) -> tuple[torch.Tensor, ...]:
    """Return rotated query and key, and value, (V, P, heads, c) each."""
    qkv = attention.qkv(hidden).unflatten(2, (3, attention.num_heads, attention.head_dim))
    query, key, value = qkv.unbind(2)
    return (*(rotate(part, layout).to(part.dtype) for part in (query, key)), value)
