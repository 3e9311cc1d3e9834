# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
ReconPruner (FastDriveVLA, arXiv 2507.23318): visual tokens [N, D] -> the K worth keeping.

    [Q*, V*] = one Qwen2.5 decoder layer, full attention, over [Q, V]
    scores   = Scorer(V* (.) Q*)                                  (N,), in fp32
    kept     = the K highest scores, ties to the lower index, in the original order

What is kept are the encoder's own tokens V, not V*. The paper leaves the position ids open; here
the query stands at 0 and each image has the M-RoPE ids of an image in a prompt, one after another.
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
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLDecoderLayer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

_METADATA_KEY = 'fastdrive_recon_pruner'


@dataclass(frozen=True)
class ReconPrunerConfig:
    """The decoder layer's shape, as in the text config of the model it prunes for."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    query_position: int = 0
    trained: bool = False
    training: str = 'not trained'
    """Sentence for people: on what it was trained."""

    @classmethod
    def for_model(cls, text: Qwen2_5_VLTextConfig) -> ReconPrunerConfig:
        """Return the shape of one decoder layer of a language model."""
        return cls(
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            mrope_section=tuple(text.rope_parameters['mrope_section']),
            rope_theta=text.rope_parameters['rope_theta'],
            rms_norm_eps=text.rms_norm_eps,
        )

    def layer_config(self) -> Qwen2_5_VLTextConfig:
        """Return transformers' config for the decoder layer."""
        config = Qwen2_5_VLTextConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            rms_norm_eps=self.rms_norm_eps,
            rope_parameters={
                'rope_type': 'default',
                'rope_theta': self.rope_theta,
                'mrope_section': list(self.mrope_section),
            },
        )
        config._attn_implementation = 'eager'  # the one that takes any additive mask and exports
        return config


class ReconPruner(nn.Module):
    """Scores and selection for V images of one token grid."""

    def __init__(
        self, config: ReconPrunerConfig, num_cameras: int, grid_height: int, grid_width: int
    ) -> None:
        """Make an untrained pruner; the grid is no weight, any other grid loads the same file."""
        super().__init__()
        self.config = config
        self.tokens_per_camera = grid_height * grid_width
        layer_config = config.layer_config()
        self.query = nn.Parameter(torch.randn(1, config.hidden_size) * 0.02)
        self.layer = Qwen2_5_VLDecoderLayer(layer_config, 0)
        self.compute_dtype = torch.float32
        """Of the layer (``set_precision``); the scorer is always fp32."""
        self.scorer = nn.Linear(config.hidden_size, 1)
        positions = pruner_positions(config.query_position, num_cameras, grid_height, grid_width)
        cos, sin = Qwen2_5_VLRotaryEmbedding(layer_config)(self.query, positions[:, None])
        self.register_buffer('cos', cos, persistent=False)              # (1, 1 + N, head)
        self.register_buffer('sin', sin, persistent=False)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.cos.shape[1] - 1

    def set_precision(self, dtype: torch.dtype) -> ReconPruner:
        """Run the decoder layer in ``dtype``; Hadamard product and scorer stay in fp32."""
        self.compute_dtype = dtype
        self.query.data = self.query.data.to(dtype)
        self.layer.to(dtype)
        return self

    def scores(
        self,
        visual_tokens: torch.Tensor,
        camera_present: torch.Tensor,
        token_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Score every token: float [B, N, D], bool [B, V], perhaps bool [B, N] -> float32 [B, N].

        Tokens of absent cameras, and those that early pruning dropped, get -inf and are hidden
        from the attention, so that what stands in them has no influence on any other score.
        """
        batch = visual_tokens.shape[0]
        visual_tokens = visual_tokens.to(self.compute_dtype)
        present = camera_present.repeat_interleave(self.tokens_per_camera, dim=1)   # (B, N)
        if token_present is not None:
            present = present & token_present
        seen = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
        mask = torch.zeros(seen.shape, dtype=visual_tokens.dtype, device=seen.device)
        # An explicit mask: without one the layer is causal and the query would see only itself.
        mask = mask.masked_fill(~seen, -torch.inf)[:, None, None, :]    # (B, 1, 1, 1 + N)
        query = self.query.expand(batch, 1, -1)
        hidden = self.layer(
            torch.cat([query, visual_tokens], dim=1),
            attention_mask=mask,
            position_embeddings=(self.cos.to(query.dtype), self.sin.to(query.dtype)),
        )                                                               # (B, 1 + N, D)
        # fp32 from here: in bf16 most scores of a large grid are equal to another one.
        product = hidden[:, 1:].float() * hidden[:, :1].float()
        scores = product @ self.scorer.weight.float().T + self.scorer.bias.float()
        return scores.squeeze(2).masked_fill(~present, -torch.inf)

    def forward(
        self,
        visual_tokens: torch.Tensor,
        camera_present: torch.Tensor,
        num_kept_tokens: torch.Tensor,
        token_present: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Map [N, D], bool [V], int64 K to kept_tokens [K, D], kept_indices [K], scores [N].

        ``token_present`` bool [N] is what an early-pruned encoder says it kept. K is at most what
        is there; asked for more, absent tokens would come along.
        """
        scores = self.scores(
            visual_tokens[None], camera_present[None],
            None if token_present is None else token_present[None],
        ).squeeze(0)
        kept_indices = select_tokens(scores, num_kept_tokens)
        return visual_tokens.index_select(0, kept_indices), kept_indices, scores


def select_tokens(scores: torch.Tensor, num_kept_tokens: torch.Tensor) -> torch.Tensor:
    """
    Return the ascending int64 indices [K] of the K highest scores, ties to the lower index.

    No two keys that decide an order are ever equal, so the answer does not hang on how a backend's
    TopK breaks ties (torch and ONNX Runtime differ). Keys are exact in fp32 up to 2^23 tokens.
    """
    kept = num_kept_tokens.item()
    tokens = scores.shape[0]
    torch._check(kept >= 1)
    torch._check(kept <= tokens)
    threshold = torch.topk(scores, kept).values.amin(0)
    backwards = torch.arange(tokens, 0, -1, dtype=torch.float32, device=scores.device)
    rank = torch.where(scores > threshold, 2.0 * tokens, 0.0)
    rank = torch.where(scores == threshold, 1.0 * tokens, rank)
    chosen = torch.topk(rank + backwards, kept).indices
    return (-torch.topk(-chosen.float(), kept).values).long()


def pruner_positions(
    query_position: int, num_cameras: int, grid_height: int, grid_width: int
) -> torch.Tensor:
    """Return int64 [3, 1 + N]: time, row and column ids of the query and every visual token."""
    row, column = torch.meshgrid(
        torch.arange(grid_height), torch.arange(grid_width), indexing='ij'
    )
    image = torch.stack([torch.zeros_like(row), row, column]).flatten(1)    # (3, n)
    step = max(grid_height, grid_width)
    first = query_position + 1
    images = [image + first + step * camera for camera in range(num_cameras)]
    return torch.cat([torch.full((3, 1), query_position), *images], dim=1)


def save_pruner(pruner: ReconPruner, path: Path) -> None:
    """Write weights and config to one safetensors file."""
    metadata = {_METADATA_KEY: json.dumps(dataclasses.asdict(pruner.config))}
    weights = {name: value.contiguous() for name, value in pruner.state_dict().items()}
    save_file(weights, path, metadata=metadata)


def load_pruner(path: Path, num_cameras: int, grid_height: int, grid_width: int) -> ReconPruner:
    """Read a file of ``save_pruner`` for a grid; fp32, evaluation mode."""
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise ValueError(f'expected a ReconPruner in {path}, cannot read it: {error}') from error
    if _METADATA_KEY not in metadata:
        raise ValueError(
            f'expected a ReconPruner in {path} (metadata {_METADATA_KEY!r}), found metadata '
            f'{sorted(metadata)}: write it with fastdrive_ros.learn.recon_pruner.save_pruner'
        )
    settings = json.loads(metadata[_METADATA_KEY])
    settings['mrope_section'] = tuple(settings['mrope_section'])
    pruner = ReconPruner(ReconPrunerConfig(**settings), num_cameras, grid_height, grid_width)
    pruner.load_state_dict(weights)
    return pruner.eval()
