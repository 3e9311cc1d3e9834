# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The model in pieces, for pruning methods that look inside: attention maps, single language layers.

    vision_attention   the encoder, and what its tokens received and were before the merger
    planner_embed      kept tokens -> the sequence's rows and their slots
    planner_layer_NN   rows -> rows, and who attended to whom
    planner_output     the queries' rows -> waypoint residuals

Embed, all layers and output after one another are planner.onnx; that is checked at export.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fastdrive_ros.learn.checkpoint import DrivingModel
from fastdrive_ros.learn.early_pruning import EarlyVisionAttention
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.waypoint_head import WaypointPlanner


@dataclass(frozen=True)
class RivalGraph:
    """One graph to export: the module, and which of its inputs have a free first dimension."""

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: tuple[str, ...]
    free_dims: dict[str, dict[int, str]]


class VisionAttention(nn.Module):
    """The encoder as VisPruner wants to see it."""

    def __init__(self, vision: FixedGridVision) -> None:
        """Share the encoder's weights; raises ExportError without a full-attention block."""
        super().__init__()
        if not vision.full_attention:
            raise ExportError(
                'expected a vision block with full attention (fullatt_block_indexes) whose '
                'attention VisPruner can take, found none: export without --rivals'
            )
        self.vision = vision
        self.last_full = max(vision.full_attention)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Map uint8 [V, H, W, 3] to visual_tokens [N, D], attention [N] and features [N, C].

        ``attention`` is what a token's patches receive in the last full-attention block, mean over
        patches, queries and heads of their picture (VisPruner's scores, for an encoder without a
        class token). ``features`` are the states before the merger, mean over patches.
        """
        vision = self.vision
        hidden = vision.embed(images, vision.patch_weight, vision.patch_bias)
        for index in range(len(vision.blocks)):
            hidden, weights = vision.block_and_attention(index, hidden)
            if index == self.last_full:
                received = weights[0].mean((1, 2))                      # (V, P)
        return (
            vision.merge(hidden),
            vision.per_token(received[..., None]).squeeze(1),
            vision.per_token(hidden),
        )


class PlannerEmbed(nn.Module):
    """The rows of the sequence, as the planner puts them together."""

    def __init__(self, planner: WaypointPlanner) -> None:
        """Share the planner's prompt and head."""
        super().__init__()
        self.planner = planner

    def forward(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [K, D], int64 [K], [Hh, F] to hidden [S, D] and slots int64 [S]."""
        hidden, slots = self.planner.embed(
            kept_tokens[None], kept_indices[None], ego_history[None]
        )
        return hidden[0], slots[0]


class PlannerLayer(nn.Module):
    """One language layer that also tells its attention."""

    def __init__(self, planner: WaypointPlanner, index: int) -> None:
        """Share layer ``index`` of the planner and its table of positions."""
        super().__init__()
        self.layer = planner.layers[index]
        for name in ('cos_table', 'sin_table'):
            self.register_buffer(name, getattr(planner, name), persistent=False)

    def forward(
        self, hidden: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map [S, D] and int64 [S] to next_hidden [S, D] and attention [S, S], head-mean."""
        rotary = (
            functional.embedding(slots, self.cos_table)[None],          # (1, S, head)
            functional.embedding(slots, self.sin_table)[None],
        )
        visible = slots[None, :] <= slots[:, None]                      # (query, key)
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~visible, -torch.inf)[None, None]       # (1, 1, S, S)
        # transformers' layer throws the weights away, so its few lines stand here.
        attended, weights = self.layer.self_attn(
            self.layer.input_layernorm(hidden[None]), attention_mask=mask,
            position_embeddings=rotary,
        )
        hidden = hidden[None] + attended
        hidden = hidden + self.layer.mlp(self.layer.post_attention_layernorm(hidden))
        return hidden[0], weights[0].mean(0)


class PlannerOutput(nn.Module):
    """Final norm and head on the rows of the queries."""

    def __init__(self, planner: WaypointPlanner) -> None:
        """Share the planner's norm and head."""
        super().__init__()
        self.norm = planner.norm
        self.head = planner.head

    def forward(self, hidden: torch.Tensor, ego_history: torch.Tensor) -> torch.Tensor:
        """Map the queries' rows [T, D] and [Hh, F] to waypoint_residuals [T, 3]."""
        return self.head.residuals(self.norm(hidden)[None], ego_history[None])[0]


def vision_attention(model: DrivingModel, inputs: dict[str, torch.Tensor]) -> RivalGraph:
    """Return the encoder's graph, whole or early-pruned; ``inputs`` has ``images``."""
    module: nn.Module = VisionAttention(model.vision)
    outputs: tuple[str, ...] = ('visual_tokens', 'attention', 'features')
    if model.early:
        module = EarlyVisionAttention(model.early, max(model.vision.full_attention))
        outputs += ('token_present',)
    return RivalGraph('vision_attention', module, inputs, outputs, {})


def layer_name(index: int) -> str:
    """Return the graph's name of a language layer."""
    return f'planner_layer_{index:02d}'


def rival_graphs(model: DrivingModel, example: dict[str, torch.Tensor]) -> list[RivalGraph]:
    """Return all graphs of ``--rivals``; ``example`` has inputs of vision encoder and planner."""
    planner = model.planner
    plan = {name: example[name] for name in ('kept_tokens', 'kept_indices', 'ego_history')}
    embed = PlannerEmbed(planner)
    with torch.inference_mode():
        hidden, slots = (value.clone() for value in embed(*plan.values()))
    rows = {'hidden': hidden, 'slots': slots}
    free_rows = {'hidden': {0: 'S'}, 'slots': {0: 'S'}, 'next_hidden': {0: 'S'},
                 'attention': {0: 'S', 1: 'S'}}
    queries = {
        'hidden': hidden[-planner.head.config.num_waypoints:], 'ego_history': plan['ego_history'],
    }
    return [
        vision_attention(model, {'images': example['images']}),
        RivalGraph('planner_embed', embed, plan, ('hidden', 'slots'),
                   {'kept_tokens': {0: 'K'}, 'kept_indices': {0: 'K'}, **free_rows}),
        *(RivalGraph(layer_name(index), PlannerLayer(planner, index), rows,
                     ('next_hidden', 'attention'), free_rows)
          for index in range(len(planner.layers))),
        RivalGraph('planner_output', PlannerOutput(planner), queries, ('waypoint_residuals',),
                   {}),
    ]
