# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The planner graph: kept tokens [K, D] and ego history [Hh, F] -> waypoint residuals [T, 3].

    sequence = prompt text, kept tokens, Hh ego tokens, T query embeddings
    one prefill of the language model, final norm, a linear layer on the T queries

Every token knows its place in the full, unpruned sequence (its slot). Position ids and causality
come from the slots alone, so pruning leaves gaps instead of renumbering, and the order in which
tokens lie in memory does not matter.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.learn.prompt import Prompt

HEAD_FILE = 'waypoint_head.safetensors'
_METADATA_KEY = 'fastdrive_waypoint_head'


@dataclass(frozen=True)
class WaypointHeadConfig:
    """Horizon and history of the head; goes into the manifest's planner section."""

    hidden_size: int
    num_waypoints: int = 6
    dt_s: float = 0.5
    history_steps: int = 4
    history_dt_s: float = 0.5
    trained: bool = False
    training: str = 'not trained'
    """Sentence for people: on what it was trained."""


class WaypointHead(nn.Module):
    """What is ours in the planner; untrained it answers zero, which is plain extrapolation."""

    def __init__(self, config: WaypointHeadConfig) -> None:
        """Draw queries and ego projection, set the output layer to zero."""
        super().__init__()
        self.config = config
        self.ego_projection = nn.Linear(len(EGO_FEATURES), config.hidden_size)
        self.queries = nn.Parameter(torch.randn(config.num_waypoints, config.hidden_size) * 0.02)
        self.output = nn.Linear(config.hidden_size, 3)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)


class WaypointPlanner(nn.Module):
    """A language model that reads one fixed prompt, and the head on top of it."""

    def __init__(
        self, language_model: Qwen2_5_VLTextModel, head: WaypointHead, prompt: Prompt
    ) -> None:
        """Share the layers, bake in the prompt's embeddings and the position table."""
        super().__init__()
        # With any other implementation transformers may drop or replace our mask.
        language_model.config._attn_implementation = 'eager'
        self.layers = language_model.layers
        self.norm = language_model.norm
        self.head = head
        length = len(prompt.token_ids)
        tail = torch.arange(head.config.history_steps + head.config.num_waypoints)
        positions = torch.cat(
            [prompt.positions, (prompt.positions.max() + 1 + tail).expand(3, -1)], dim=1
        )
        text_ids = prompt.token_ids[prompt.text_slots]
        text = language_model.embed_tokens(text_ids).detach()
        cos, sin = language_model.rotary_emb(text, positions[:, None])
        constants = {
            'text_embeddings': text,                                    # (L - N, D)
            'cos_table': cos[0],                                        # (L + Hh + T, head)
            'sin_table': sin[0],
            'text_slots': prompt.text_slots,                            # (L - N,)
            'image_slots': prompt.image_slots,                          # (N,)
            'tail_slots': length + tail,                                # (Hh + T,)
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def hidden_states(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """
        Prefill: [B, K, D], int64 [B, K], [B, Hh, F] -> final hidden states [B, S, D].

        S = text tokens + K + Hh + T, in this order.
        """
        batch = kept_tokens.shape[0]
        hidden = torch.cat(
            [
                self.text_embeddings.expand(batch, -1, -1),
                kept_tokens,
                self.head.ego_projection(ego_history),
                self.head.queries.expand(batch, -1, -1),
            ],
            dim=1,
        )
        slots = torch.cat(
            [
                self.text_slots.expand(batch, -1),
                self.image_slots.index_select(0, kept_indices.flatten()).view_as(kept_indices),
                self.tail_slots.expand(batch, -1),
            ],
            dim=1,
        )                                                               # (B, S)
        rotary = (
            functional.embedding(slots, self.cos_table),                # (B, S, head)
            functional.embedding(slots, self.sin_table),
        )
        visible = slots[:, None, :] <= slots[:, :, None]                # (B, query, key)
        mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
        mask = mask.masked_fill(~visible, -torch.inf)[:, None]          # (B, 1, S, S)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        return self.norm(hidden)

    def unpruned_states(
        self, visual_tokens: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """
        Prefill of all N tokens: [B, N, D], [B, Hh, F] -> [B, L + Hh + T, D] in slot order.

        The same numbers as ``hidden_states``, for training: in slot order causality needs no
        mask, which fused attention does in half the time.
        """
        batch = visual_tokens.shape[0]
        rows = torch.cat(
            [
                self.text_embeddings.expand(batch, -1, -1),
                visual_tokens,
                self.head.ego_projection(ego_history),
                self.head.queries.expand(batch, -1, -1),
            ],
            dim=1,
        )
        order = torch.cat([self.text_slots, self.image_slots, self.tail_slots]).argsort()
        hidden = rows.index_select(1, order)
        rotary = self.cos_table[None], self.sin_table[None]
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rotary)
        return self.norm(hidden)

    def residuals(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """Like ``hidden_states``, read at the queries: [B, T, 3] x_m, y_m, yaw_rad."""
        hidden = self.hidden_states(kept_tokens, kept_indices, ego_history)
        queries = hidden[:, -self.head.config.num_waypoints:]           # (B, T, D)
        # In two dimensions it exports as one Gemm that keeps the weight's name: the export
        # check replaces an untrained head's zeros by that name.
        return self.head.output(queries.flatten(0, 1)).unflatten(0, queries.shape[:2])

    def forward(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """Map one set, [K, D], int64 [K], [Hh, F], to waypoint_residuals [T, 3]."""
        return self.residuals(kept_tokens[None], kept_indices[None], ego_history[None]).squeeze(0)


def save_head(head: WaypointHead, path: Path) -> None:
    """Write weights and config to one safetensors file."""
    metadata = {_METADATA_KEY: json.dumps(dataclasses.asdict(head.config))}
    weights = {name: value.contiguous() for name, value in head.state_dict().items()}
    save_file(weights, path, metadata=metadata)


def load_head(path: Path) -> WaypointHead:
    """Read a file of ``save_head``; fp32, evaluation mode."""
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f'expected a waypoint head in {path}, cannot read it: {error}') from error
    if _METADATA_KEY not in metadata:
        raise ValueError(
            f'expected a waypoint head in {path} (metadata {_METADATA_KEY!r}), found metadata '
            f'{sorted(metadata)}: write it with fastdrive_ros.learn.waypoint_head.save_head'
        )
    head = WaypointHead(WaypointHeadConfig(**json.loads(metadata[_METADATA_KEY])))
    head.load_state_dict(weights)
    return head.eval()


def untrained_head(hidden_size: int, seed: int = 0) -> WaypointHead:
    """Return a seeded head whose output layer is zero, leaving torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WaypointHead(WaypointHeadConfig(hidden_size)).eval()
