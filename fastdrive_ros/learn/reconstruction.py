# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Masked visual tokens -> the picture they came from, and how far it is from the wanted one.

    V_fore = M~ (.) V, V_back = (1 - M~) (.) V      FastDriveVLA eq. 5; dropped positions are zero
    I_pred = Dec(V_fore), Dec(V_back)               eq. 6; six decoder layers and a head
    L_x    = lambda (1 - SSIM) + (1 - lambda) MSE   eq. 7

The decoder works picture by picture: B pictures of n = grid_height * grid_width tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from pytorch_msssim import ssim
from torch import nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from fastdrive_ros.learn.recon_pruner import ReconPrunerConfig
from fastdrive_ros.learn.recon_pruner import pruner_positions


class Reconstructor(nn.Module):
    """Dec of the paper: decoder layers with full attention, and one head for all tokens."""

    def __init__(self, tokens: ReconPrunerConfig, num_layers: int, hidden_size: int,
                 grid_height: int, grid_width: int, channels: int, pixels: int,
                 layers_to_copy: Sequence[nn.Module] = ()) -> None:
        """
        Make a decoder for tokens of ``tokens.hidden_size``, itself ``hidden_size`` wide.

        Every token becomes ``channels`` x ``pixels`` x ``pixels``. ``layers_to_copy`` gives the
        initial weights, spread over the new layers; without them they are random.
        """
        super().__init__()
        self.grid = grid_height, grid_width
        self.channels, self.pixels = channels, pixels
        heads = max(1, hidden_size // (tokens.hidden_size // tokens.num_attention_heads))
        config = dataclasses.replace(
            tokens, hidden_size=hidden_size, num_attention_heads=heads,
            intermediate_size=tokens.intermediate_size * hidden_size // tokens.hidden_size,
            num_key_value_heads=min(tokens.num_key_value_heads, heads)).layer_config()
        config._attn_implementation = 'sdpa'
        self.widen = (nn.Identity() if hidden_size == tokens.hidden_size
                      else nn.Linear(tokens.hidden_size, hidden_size))
        # Added to every token, so what a dropped one is. At a vector of zeros RMSNorm is as steep
        # as 1 / sqrt(eps), and the gradient of a dropped token's mask would drown all others.
        self.everywhere = nn.Parameter(torch.randn(hidden_size))
        self.layers = nn.ModuleList(Qwen2_5_VLDecoderLayer(config, 0) for _ in range(num_layers))
        for i, layer in enumerate(self.layers):
            # Without this a missing mask means a causal one.
            layer.self_attn.is_causal = False
            if layers_to_copy and hidden_size == tokens.hidden_size:
                place = round(i * (len(layers_to_copy) - 1) / max(1, num_layers - 1))
                layer.load_state_dict(layers_to_copy[place].state_dict())
        self.norm = nn.RMSNorm(hidden_size, eps=tokens.rms_norm_eps)
        self.head = nn.Linear(hidden_size, channels * pixels * pixels)
        positions = pruner_positions(0, 1, grid_height, grid_width)[:, 1:]      # (3, n)
        cos, sin = Qwen2_5_VLRotaryEmbedding(config)(torch.zeros(1), positions[:, None])
        self.register_buffer('cos', cos, persistent=False)
        self.register_buffer('sin', sin, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map [B, n, D] to pictures [B, channels, grid_height * pixels, grid_width * pixels]."""
        hidden = self.widen(tokens) + self.everywhere
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=(self.cos, self.sin))
        patches = self.head(self.norm(hidden)).float()
        return tiled(patches, self.grid, self.channels, self.pixels)


def tiled(patches: torch.Tensor, grid: tuple[int, int], channels: int,
          pixels: int) -> torch.Tensor:
    """Lay patches [B, n, channels * pixels^2] out as [B, channels, gh * pixels, gw * pixels]."""
    rows, columns = grid
    cells = patches.view(-1, rows, columns, channels, pixels, pixels)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(
        -1, channels, rows * pixels, columns * pixels)


def picture_loss(wanted: torch.Tensor, found: torch.Tensor, lambda_ssim: float,
                 window: int) -> torch.Tensor:
    """Return eq. 7 of pictures [B, 3, H, W] in [0, 1], over the whole picture, as a scalar."""
    mse = (wanted - found).square().mean()
    similarity = ssim(wanted, found, data_range=1.0, win_size=window)
    return lambda_ssim * (1.0 - similarity) + (1.0 - lambda_ssim) * mse
