# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The Qwen2.5-VL vision tower for V equal images: uint8 [V, H, W, 3] -> visual tokens [N, D].

transformers computes window order and attention segments from the grid at run time, which no
exporter can follow, and pads nothing: windows at the right and lower edge are shorter (ragged)
when the token grid is no multiple of the window. With one fixed grid all of this is constant, so
here windows are sorted by length once and every length is one batched attention. Normalisation
and the doubling of a still image in time are folded into the patch convolution.

Shapes: P patches and n tokens of one image (P = n * merge^2), C vision channels, N = V * n.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import rotate_half
from transformers.vision_utils import get_vision_position_ids
from transformers.vision_utils import get_vision_window_index


@dataclass(frozen=True)
class Normalisation:
    """What the image processor does to a pixel: (pixel * scale - mean) / std, per channel."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    scale: float = 1 / 255


@dataclass(frozen=True)
class Windows:
    """``count`` attention windows of ``length`` patches each, from patch ``start`` on."""

    start: int
    count: int
    length: int

    @property
    def end(self) -> int:
        """The patch behind the last one."""
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Layout:
    """The patches that a block sees of each picture: their windows, and where each one stands."""

    windows: tuple[Windows, ...]
    cos: torch.Tensor
    """Rotary factors [P, 1, C / heads]; [V, P, 1, C / heads] where pictures differ."""
    sin: torch.Tensor


class FixedGridVision(nn.Module):
    """transformers' vision tower with its weights, for V images of H x W pixels."""

    def __init__(
        self,
        visual: Qwen2_5_VisionTransformerPretrainedModel,
        num_images: int,
        height: int,
        width: int,
        normalisation: Normalisation | None = None,
    ) -> None:
        """Share the tower's blocks and precompute everything that depends on the grid."""
        super().__init__()
        config = visual.config
        pixels_per_token = config.patch_size * config.spatial_merge_size
        if height % pixels_per_token or width % pixels_per_token:
            raise ValueError(
                f'image height and width must be multiples of {pixels_per_token}, '
                f'found {height} x {width}'
            )
        self.num_images = num_images
        self.image_height, self.image_width = height, width
        self.grid_height = height // pixels_per_token
        self.grid_width = width // pixels_per_token
        self.patch_size = config.patch_size
        self.blocks = visual.blocks
        self.merger = visual.merger
        self.merger.mlp[1] = _Gelu()
        # What the blocks run in. The patch convolution sees raw pixels and stays in fp32: folded
        # weights take a mean from them, which bf16's eight bits would blur.
        self.compute_dtype = visual.merger.ln_q.weight.dtype
        self.full_attention = frozenset(config.fullatt_block_indexes)
        weight, bias = folded_patch_weight(
            visual.patch_embed.proj.weight.detach().float(), normalisation or Normalisation())
        self.patch_weight = nn.Parameter(weight, requires_grad=False)   # (C, 3, patch, patch)
        self.patch_bias = nn.Parameter(bias, requires_grad=False)       # (C,)
        self._lay_out_grid(visual)

    def _lay_out_grid(self, visual: Qwen2_5_VisionTransformerPretrainedModel) -> None:
        config = visual.config
        merge = config.spatial_merge_size
        grid = torch.tensor([[1, self.grid_height * merge, self.grid_width * merge]])
        token_order, bounds = get_vision_window_index(
            grid, spatial_merge_size=merge, window_size=config.window_size,
            patch_size=config.patch_size,
        )
        windows = [
            token_order[start // merge**2:end // merge**2]
            for start, end in itertools.pairwise(bounds.tolist())
        ]
        windows.sort(key=len, reverse=True)
        token_order = torch.cat(windows)                                # (n,)
        self.windows = _group_by_length([len(window) * merge**2 for window in windows])

        positions = get_vision_position_ids(grid, merge)                # (P, 2): row, column
        raster = positions[:, 0] * (self.grid_width * merge) + positions[:, 1]
        cos, sin = visual.rotary_pos_emb(raster, positions)             # (P, C / heads)

        def in_window_order(per_patch: torch.Tensor) -> torch.Tensor:
            return per_patch.unflatten(0, (-1, merge**2))[token_order].flatten(0, 1)

        self.register_buffer('patch_order', in_window_order(raster), persistent=False)
        self.register_buffer('token_rank', torch.argsort(token_order), persistent=False)
        self.register_buffer('cos', in_window_order(cos)[:, None], persistent=False)
        self.register_buffer('sin', in_window_order(sin)[:, None], persistent=False)

    @property
    def layout(self) -> Layout:
        """Every patch of the grid."""
        return Layout(self.windows, self.cos, self.sin)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [V, H, W, 3] to float32 [N, D]: camera-major, then row, then column."""
        return self.encode(images, self.patch_weight, self.patch_bias).float()

    def encode(
        self, images: torch.Tensor, patch_weight: torch.Tensor, patch_bias: torch.Tensor
    ) -> torch.Tensor:
        """Like ``forward``, with a folded convolution that may have gradients."""
        hidden = self.embed(images, patch_weight, patch_bias)
        for index in range(len(self.blocks)):
            hidden = self.block(index, hidden)
        return self.merge(hidden)

    def embed(
        self, images: torch.Tensor, patch_weight: torch.Tensor, patch_bias: torch.Tensor
    ) -> torch.Tensor:
        """Map uint8 [V, H, W, 3] to the patches [V, P, C], in window order."""
        pixels = images.to(patch_weight.dtype).permute(0, 3, 1, 2)
        hidden = functional.conv2d(pixels, patch_weight, patch_bias, stride=self.patch_size)
        # (V, C, rows, columns)
        hidden = hidden.flatten(2).transpose(1, 2)                      # (V, P, C)
        if self.compute_dtype != torch.float32:     # in training autocast decides
            hidden = hidden.to(self.compute_dtype)
        return hidden.index_select(1, self.patch_order)

    def block(
        self, index: int, hidden: torch.Tensor, layout: Layout | None = None
    ) -> torch.Tensor:
        """Run one block on [V, P, C]."""
        return self.block_and_attention(index, hidden, layout)[0]

    def block_and_attention(
        self, index: int, hidden: torch.Tensor, layout: Layout | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Run one block on [V, P, C]; return its output and who attended to whom.

        Weights are [V * windows, heads, l, l], rows are queries, for each group of windows of one
        length l; a full-attention block has one group of one window, l = P. ``layout`` says which
        patches there are, None: all of the grid.
        """
        block = self.blocks[index]
        layout = layout or self.layout
        if index in self.full_attention:
            layout = replace(layout, windows=(Windows(0, 1, hidden.shape[1]),))
        attended, weights = self._attend(block.attn, block.norm1(hidden), layout)
        hidden = hidden + attended
        return hidden + block.mlp(block.norm2(hidden)), weights

    def merge(self, hidden: torch.Tensor) -> torch.Tensor:
        """Make visual tokens [N, D], camera-major, row, column, of the last [V, P, C]."""
        tokens = self.merger(hidden).unflatten(0, (hidden.shape[0], -1))    # (V, n, D)
        return tokens.index_select(1, self.token_rank).flatten(0, 1)    # (N, D)

    def per_token(self, per_patch: torch.Tensor) -> torch.Tensor:
        """Average [V, P, X] over each token's patches: [N, X] in the tokens' order."""
        patches = per_patch.shape[1] // len(self.token_rank)
        means = per_patch.unflatten(1, (-1, patches)).mean(2)           # (V, n, X)
        return means.index_select(1, self.token_rank).flatten(0, 1)

    def _attend(
        self,
        attention: Qwen2_5_VLVisionAttention,
        hidden: torch.Tensor,
        layout: Layout,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Attend within each window: (V, P, C) -> (V, P, C) and each group's weights."""
        heads, channels = attention.num_heads, attention.head_dim
        qkv = attention.qkv(hidden).unflatten(2, (3, heads, channels))
        query, key, value = qkv.unbind(2)                               # (V, P, heads, c) each
        # Scaled before it is rounded: a factor of the graph's type would be rounded itself.
        query = (rotate(query, layout) * attention.scaling).to(hidden.dtype)
        key = rotate(key, layout).to(hidden.dtype)
        outputs, groups = [], []
        for group in layout.windows:
            q, k, v = (
                part[:, group.start:group.end]
                .reshape(-1, group.length, heads, channels)
                .transpose(1, 2)                                        # (V * count, heads, l, c)
                for part in (query, key, value)
            )
            scores = q @ k.transpose(-2, -1)
            weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(v.dtype)
            groups.append(weights)
            mixed = (weights @ v).transpose(1, 2)
            outputs.append(mixed.reshape(hidden.shape[0], group.end - group.start, -1))
        return attention.proj(torch.cat(outputs, dim=1)), groups


def rotate(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Turn queries or keys [V, P, heads, c] to their places, in the tables' precision."""
    return states * layout.cos + rotate_half(states) * layout.sin


class _Gelu(nn.Module):
    """The merger's activation in fp32: decomposed in ONNX its constants would be rounded, too."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return functional.gelu(states.float()).to(states.dtype)


def _group_by_length(lengths: Sequence[int]) -> tuple[Windows, ...]:
    groups, start = [], 0
    for length, members in itertools.groupby(lengths):
        count = len(list(members))
        groups.append(Windows(start, count, length))
        start += count * length
    return tuple(groups)


def folded_patch_weight(
    weight: torch.Tensor, normalisation: Normalisation
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the 2-D convolution of raw pixels that equals normalise, double, convolve in 3-D.

    ``weight`` [C, 3, 2, patch, patch] is the tower's own; gradients flow back to it.
    """
    dtype = weight.dtype
    weight = weight.double().sum(2)                                     # both instants are equal
    mean = torch.tensor(normalisation.mean, dtype=torch.float64, device=weight.device)
    std = torch.tensor(normalisation.std, dtype=torch.float64, device=weight.device)
    weight = weight / std.view(1, 3, 1, 1)
    bias = -(weight * mean.view(1, 3, 1, 1)).sum((1, 2, 3))
    return (weight * normalisation.scale).to(dtype), bias.to(dtype)
