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
from fastdrive_ros.learn.prompt import PLACE_WAVES
from fastdrive_ros.learn.prompt import Prompt

HEAD_FILE = 'waypoint_head.safetensors'
_METADATA_KEY = 'fastdrive_waypoint_head'
_PRIOR_WIDTH = 192
_READOUT_WIDTH = 256
# Metres and metres a second come in tens; the network wants about one.
_EGO_SCALE = {
    'x_m': 0.1, 'y_m': 0.1, 'sin_yaw': 1.0, 'cos_yaw': 1.0, 'speed_mps': 0.1,
    'yaw_rate_radps': 1.0, 'valid': 1.0,
}


@dataclass(frozen=True)
class WaypointHeadConfig:
    """Horizon and history of the head; goes into the manifest's planner section."""

    hidden_size: int
    num_cameras: int = 6
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
        # Straight into the queries: a handful of ego tokens among hundreds of visual ones would be
        # found by attention only after a long training.
        self.ego_queries = nn.Linear(
            config.history_steps * len(EGO_FEATURES), config.hidden_size
        )
        self.queries = nn.Parameter(torch.randn(config.num_waypoints, config.hidden_size) * 0.02)
        # Which camera and where in it, added to a visual token: position ids tell attention where
        # to look, but what it brings back would not say where it came from.
        self.place = nn.Linear(config.num_cameras + 4 * PLACE_WAVES, config.hidden_size)
        scale = torch.tensor([_EGO_SCALE[name] for name in EGO_FEATURES])
        self.register_buffer('ego_scale', scale, persistent=False)
        history_size = config.history_steps * len(EGO_FEATURES)
        self.readout = nn.Linear(
            config.num_waypoints * config.hidden_size + history_size, _READOUT_WIDTH
        )
        self.output = nn.Linear(_READOUT_WIDTH, config.num_waypoints * 3)
        # What the way so far says of the way to come, without a look at the road. Fitted first and
        # then left alone, so that the language model learns what the cameras add to it.
        self.ego_prior = nn.Sequential(
            nn.Linear(history_size, _PRIOR_WIDTH), nn.GELU(),
            nn.Linear(_PRIOR_WIDTH, _PRIOR_WIDTH), nn.GELU(),
            nn.Linear(_PRIOR_WIDTH, config.num_waypoints * 3),
        )
        for layer in (self.output, self.ego_prior[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def way_so_far(self, ego_history: torch.Tensor) -> torch.Tensor:
        """
        Return [B, Hh, F], scaled for the network, every row known.

        Rows from before the first odometry become where constant speed and turn rate would have
        come from: in training there are none, and a network answers anything to what it has never
        seen.
        """
        steps = self.config.history_steps
        times_s = self.config.history_dt_s * torch.arange(
            1 - steps, 1, device=ego_history.device, dtype=ego_history.dtype)
        speed_mps, yaw_rate_radps = ego_history[:, -1:, 4], ego_history[:, -1:, 5]
        half_rad = yaw_rate_radps * times_s / 2.0                       # (B, Hh)
        # The series of sin(h) / h: h is below one, and at zero there is nothing to divide.
        chord_m = speed_mps * times_s * (1.0 - half_rad**2 / 6.0 + half_rad**4 / 120.0)
        supposed = torch.stack([
            chord_m * half_rad.cos(), chord_m * half_rad.sin(), (2.0 * half_rad).sin(),
            (2.0 * half_rad).cos(), speed_mps.expand_as(half_rad),
            yaw_rate_radps.expand_as(half_rad), torch.ones_like(half_rad)], dim=-1)
        known = ego_history[..., -1:] > 0.5
        return torch.where(known, ego_history, supposed) * self.ego_scale

    def prior(self, ego_history: torch.Tensor) -> torch.Tensor:
        """Map [B, Hh, F] to residuals [B, T, 3] that need no picture."""
        ego = self.way_so_far(ego_history).flatten(1)
        return self.ego_prior(ego).unflatten(1, (-1, 3))

    def residuals(self, queries: torch.Tensor, ego_history: torch.Tensor) -> torch.Tensor:
        """Map the queries' final states [B, T, D] and [B, Hh, F] to residuals [B, T, 3]."""
        ego = self.way_so_far(ego_history).flatten(1)
        read = functional.gelu(self.readout(torch.cat([queries.flatten(1), ego], dim=1)))
        return self.output(read).unflatten(1, (-1, 3)) + self.prior(ego_history)

    def tail(self, ego_history: torch.Tensor) -> torch.Tensor:
        """Map [B, Hh, F] to the sequence's last rows [B, Hh + T, D]: ego tokens, queries."""
        ego = self.way_so_far(ego_history)
        queries = self.queries + self.ego_queries(ego.flatten(1))[:, None]
        return torch.cat([self.ego_projection(ego), queries], dim=1)


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
        self.compute_dtype = language_model.norm.weight.dtype
        """Of the layers; the head and what it adds to the sequence are always fp32."""
        self.head = head
        length = len(prompt.token_ids)
        tail = torch.arange(head.config.history_steps + head.config.num_waypoints)
        positions = torch.cat(
            [prompt.positions, (prompt.positions.max() + 1 + tail).expand(3, -1)], dim=1
        )
        text_ids = prompt.token_ids[prompt.text_slots]
        text = language_model.embed_tokens(text_ids).detach().float()
        cos, sin = language_model.rotary_emb(text, positions[:, None])
        constants = {
            'text_embeddings': text,                                    # (L - N, D)
            'cos_table': cos[0],                                        # (L + Hh + T, head)
            'sin_table': sin[0],
            'text_slots': prompt.text_slots,                            # (L - N,)
            'image_slots': prompt.image_slots,                          # (N,)
            'tail_slots': length + tail,                                # (Hh + T,)
            'place_features': prompt.place_features(),                  # (N, V + 4 waves)
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def embed(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first layer's input [B, S, D] and the slots int64 [B, S] of its rows."""
        batch = kept_tokens.shape[0]
        places = functional.embedding(kept_indices, self.head.place(self.place_features))
        hidden = torch.cat(
            [
                self.text_embeddings.expand(batch, -1, -1),
                kept_tokens + places,
                self.head.tail(ego_history),
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
        )
        return hidden, slots

    def hidden_states(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """
        Prefill: [B, K, D], int64 [B, K], [B, Hh, F] -> final hidden states [B, S, D].

        S = text tokens + K + Hh + T, in this order.
        """
        hidden, slots = self.embed(kept_tokens, kept_indices, ego_history)
        hidden = hidden.to(self.compute_dtype)
        rotary = (
            functional.embedding(slots, self.cos_table).to(hidden.dtype),   # (B, S, head)
            functional.embedding(slots, self.sin_table).to(hidden.dtype),
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
        batch, tokens, _ = visual_tokens.shape
        everything = torch.arange(tokens, device=visual_tokens.device).expand(batch, -1)
        rows, slots = self.embed(visual_tokens, everything, ego_history)
        order = slots[0].argsort()
        hidden = rows.index_select(1, order)
        rotary = self.cos_table[None], self.sin_table[None]
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=rotary)
        return self.norm(hidden)

    def residuals(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """Like ``hidden_states``, read at the queries: [B, T, 3] x_m, y_m, yaw_rad."""
        queries = self.query_states(kept_tokens, kept_indices, ego_history)
        return self.head.residuals(queries, ego_history)

    def query_states(
        self, kept_tokens: torch.Tensor, kept_indices: torch.Tensor, ego_history: torch.Tensor
    ) -> torch.Tensor:
        """Like ``hidden_states``, of the queries alone and in the head's fp32: [B, T, D]."""
        hidden = self.hidden_states(kept_tokens, kept_indices, ego_history)
        return hidden[:, -self.head.config.num_waypoints:].float()

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


def untrained_head(hidden_size: int, num_cameras: int = 6, seed: int = 0) -> WaypointHead:
    """Return a seeded head whose output layer is zero, leaving torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WaypointHead(WaypointHeadConfig(hidden_size, num_cameras)).eval()
