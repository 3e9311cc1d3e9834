# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Ours, beside ReconPruner: the same small network, taught what the planner needs to see.

    all tokens  -> planner -> its plan
    best tokens -> planner -> nearly the same plan, whatever share of the tokens is left

Nothing is rebuilt and no mask is needed, but it belongs to one planner where ReconPruner belongs
to an encoder. Encoder and planner stay frozen. While training, a dropped token stays in the
sequence and a gate on the attention that it receives closes: the numbers are those of a pruned
sequence, and the gate has a gradient for kept and dropped tokens alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import repeat_kv

from fastdrive_ros.core.classes import foreground
from fastdrive_ros.learn.recon_pruner import ReconPruner
from fastdrive_ros.learn.selection import above_random_share
from fastdrive_ros.learn.selection import selection_figures
from fastdrive_ros.learn.selection import straight_through
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.waypoint_head import WaypointPlanner

Batch = dict[str, torch.Tensor]

_STATE_WEIGHT_M = 0.5
"""Metres that a mean square of one counts in the queries' final states, which tell more of a
token's worth than the way that is read off them."""
_SMOOTH_M = 0.05
_CLOSED = 1e-6
"""What a closed gate lets through: the logarithm of nothing has no gradient."""


def gated_attention(module: nn.Module, query: torch.Tensor, key: torch.Tensor,
                    value: torch.Tensor, attention_mask: torch.Tensor, scaling: float,
                    gates: torch.Tensor, **others: Any) -> tuple[torch.Tensor, None]:
    """
    Attend to every key as far as its gate [B, S] is open: 0 is as if the row were not there.

    softmax(l + log g) is g e^l / sum(g e^l), whose gradient in g is finite at 0, too.
    """
    key = repeat_kv(key, module.num_key_value_groups)
    value = repeat_kv(value, module.num_key_value_groups)
    bias = attention_mask + (gates + _CLOSED).log()[:, None, None, :]   # (B, 1, query, key)
    weights = ((query * scaling) @ key.transpose(2, 3) + bias).softmax(-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register('fastdrive_gated', gated_attention)


class PlanKeeping(nn.Module):
    """What the loop trains: a pruner between a frozen encoder and a frozen planner."""

    def __init__(self, vision: FixedGridVision, pruner: ReconPruner,
                 planner: WaypointPlanner) -> None:
        """Take the parts; the pruner begins as a copy of the planner's first layer."""
        super().__init__()
        self.vision = vision.requires_grad_(False)
        self.planner = planner.requires_grad_(False)
        planner.layers[0].self_attn.config._attn_implementation = 'fastdrive_gated'
        self.pruner = pruner
        pruner.layer.load_state_dict(planner.layers[0].state_dict())
        is_foreground = torch.from_numpy(foreground(torch.arange(256, dtype=torch.uint8).numpy()))
        self.register_buffer('is_foreground', is_foreground, persistent=False)
        self.register_buffer('steps_done', torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> Batch:
        """Map images uint8 [B, V, H, W, 3], present [B, V], ego_history [B, Hh, F] to scalars."""
        present, ego_history = batch['present'], batch['ego_history']
        tokens = self.encode(batch['images'])                           # (B, V, n, D)
        there = present[..., None].expand(tokens.shape[:3]).float()     # (B, V, n)
        with torch.no_grad():
            wanted = self.query_states(tokens, there, ego_history)
        scores = self.scores(tokens, present)
        generator = None
        if self.training:
            generator = torch.Generator().manual_seed(int(self.steps_done))
            self.steps_done += 1
        over = above_random_share(scores, present, generator).masked_fill(there == 0, -1.0)
        found = self.query_states(tokens, straight_through(over), ego_history)
        off_m = self._off(found, wanted, ego_history)
        states = (found - wanted).float().square().mean()
        fore = self.is_foreground[batch['classes'].int()]
        return {'loss': off_m + _STATE_WEIGHT_M * states, 'off_m': off_m.detach(),
                'states': states.detach(),
                **selection_figures(scores.detach(), fore, present)}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [B, V, H, W, 3] to [B, V, n, D], without gradient."""
        with torch.no_grad():
            tokens = self.vision(images.flatten(0, 1))
        return tokens.unflatten(0, (*images.shape[:2], -1))

    def scores(self, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Map [B, V, n, D], bool [B, V] to float32 [B, V, n]; absent cameras -inf."""
        return self.pruner.scores(tokens.flatten(1, 2), present).view(tokens.shape[:3])

    def query_states(self, tokens: torch.Tensor, gates: torch.Tensor,
                     ego_history: torch.Tensor) -> torch.Tensor:
        """Map [B, V, n, D], gates [B, V, n], [B, Hh, F] to the queries' states [B, T, D]."""
        planner = self.planner
        tokens, gates = tokens.flatten(1, 2), gates.flatten(1)
        batch, count, _ = tokens.shape
        everything = torch.arange(count, device=tokens.device).expand(batch, -1)
        hidden, slots = planner.embed(tokens, everything, ego_history)
        gates = torch.cat([gates.new_ones(batch, len(planner.text_slots)), gates,
                           gates.new_ones(batch, len(planner.tail_slots))], dim=1)
        rotary = (functional.embedding(slots, planner.cos_table),
                  functional.embedding(slots, planner.sin_table))
        visible = slots[:1, None, :] <= slots[:1, :, None]              # (1, query, key)
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~visible, -torch.inf)[:, None]
        for layer in planner.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, gates=gates)
        return planner.norm(hidden)[:, -planner.head.config.num_waypoints:]

    def _off(self, found: torch.Tensor, wanted: torch.Tensor,
             ego_history: torch.Tensor) -> torch.Tensor:
        """Return how far the two plans lie apart, in metres, mean over waypoints and frames."""
        head = self.planner.head
        apart = (head.residuals(found, ego_history) - head.residuals(wanted, ego_history)).float()
        return (apart[..., :2].square().sum(-1) + _SMOOTH_M**2).sqrt().mean()
