# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A language model's config and the rows that it must hold -> bytes, before anything is loaded.

    weights      every parameter that decoding needs (vision not among them)
    cache        keys and values of all rows, allocated once
    activations  the widest moment of a prefill over all rows, and the fixed input buffers
    workspace    an allowance for what libraries keep: cuBLAS, recorded CUDA graphs, oneDNN
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastdrive_ros.runtime.engine import EngineError

MAX_BLOCK = 64
"""Most tokens that are read in one pass; longer ones are read in several."""

ROW_BUCKET = 256
"""Cached rows that a pass looks at come in multiples of this, one recorded graph for each."""

_WORKSPACE = {'cuda': 256 << 20, 'cpu': 64 << 20}
_GIB = 1 << 30


@dataclass(frozen=True)
class LanguageShape:
    """What of a Qwen2.5-VL text config decides sizes and arithmetic."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding table."""
    mrope_section: tuple[int, int, int]
    rope_theta: float
    norm_eps: float

    # Written into a bundle's manifest with these names (planner.language).

    @classmethod
    def from_config(cls, text: Any, tied: bool) -> LanguageShape:
        """
        Take a transformers text config; ``tied`` stands in the config around it.

        Raises EngineError for what the forward in torch_decoder.py does not compute.
        """
        found = {'hidden_act': text.hidden_act, 'layer_types': sorted(set(text.layer_types)),
                 'rope_type': text.rope_parameters['rope_type']}
        wanted = {'hidden_act': 'silu', 'layer_types': ['full_attention'], 'rope_type': 'default'}
        if found != wanted:
            raise EngineError(f'expected a language model with {wanted}, found {found}.')
        return cls(
            text.num_hidden_layers, text.hidden_size, text.intermediate_size,
            text.num_attention_heads, text.num_key_value_heads, text.vocab_size, tied,
            tuple(text.rope_parameters['mrope_section']), text.rope_parameters['rope_theta'],
            text.rms_norm_eps)

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def layer_parameters(self) -> int:
        """Of one decoder layer: q, k, v with bias, output, three of the MLP, two norms."""
        wide, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        attention = 2 * wide * wide + wide + 2 * (wide * kv + kv)
        return attention + 3 * wide * self.intermediate_size + 2 * wide

    @property
    def parameters(self) -> int:
        """Of all layers, the last norm, the embedding table and an untied output layer."""
        tables = self.vocabulary * self.hidden_size * (1 if self.tied else 2)
        return self.num_layers * self.layer_parameters + self.hidden_size + tables


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes."""

    rows: int
    weights: int
    cache: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations + self.workspace

    def __str__(self) -> str:
        parts = ', '.join(f'{name} {getattr(self, name) / _GIB:.2f}' for name in (
            'weights', 'cache', 'activations', 'workspace'))
        return f'{self.total / _GIB:.2f} GiB for {self.rows} rows ({parts})'


def allocated_rows(max_rows: int) -> int:
    """Return the rows of a cache that holds ``max_rows``: whole buckets, with room for padding."""
    return -(-(max_rows + MAX_BLOCK) // ROW_BUCKET) * ROW_BUCKET


def plan_memory(shape: LanguageShape, max_rows: int, number_bytes: int,
                device: str) -> MemoryPlan:
    """
    Plan for a cache of ``max_rows`` on 'cpu' or 'cuda' with numbers of 2 or 4 bytes.

    Attention needs no square of scores but on CUDA in fp32, where torch has no kernel without it
    for grouped heads.
    """
    rows = allocated_rows(max_rows)
    wide, inner = shape.hidden_size, shape.intermediate_size
    cache = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * rows * number_bytes
    # States before, after and normed; gate and up, their activation and product.
    prefill = rows * (3 * wide + 4 * inner) * number_bytes
    if device == 'cuda' and number_bytes == 4:
        prefill = max(prefill, 2 * shape.num_heads * rows**2 * number_bytes)
    decode = 3 * shape.num_heads * MAX_BLOCK * rows * number_bytes
    inputs = (rows + MAX_BLOCK) * wide * number_bytes + 5 * 8 * rows
    return MemoryPlan(max_rows, shape.parameters * number_bytes, cache,
                      max(prefill, decode) + inputs, _WORKSPACE[device])


def require_memory(plan: MemoryPlan, free_bytes: int, where: str) -> None:
    """Raise EngineError, with all numbers, when a plan does not fit."""
    if plan.total > free_bytes:
        raise EngineError(
            f'expected {plan} free on {where}, found {free_bytes / _GIB:.2f} GiB: keep fewer '
            'tokens, take half precision, or close what else fills that memory.')
