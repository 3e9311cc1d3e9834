# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The text model of Qwen2.5-VL in few kernels: rows -> rows, with keys and values kept outside.

    q, k, v    one product, gate and up another; rotary positions of q and k in three kernels
    a prompt   causal attention over its own rows, no mask, no cache read
    a block    a few rows that also see the cache: the query heads that share a key head are rows
               of one product, so that no key is copied, and nothing depends on a length that
               only the host knows

What transformers' layers compute, without its masks, cache objects and Python between kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from fastdrive_ros.planners.language_memory import LanguageShape
from fastdrive_ros.planners.torch_product import Product

Rotary = tuple[torch.Tensor, torch.Tensor]
Weight = Callable[[str], torch.Tensor]
"""A weight by transformers' name inside the text model."""
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Layer, query [S, H, c], key and value [S, G, c] -> mixed values [S, H c]."""


@dataclass(frozen=True)
class _Layer:
    norm: torch.Tensor
    qkv: Product
    out: Product
    mlp_norm: torch.Tensor
    gate_up: Product
    down: Product


class Cache:
    """Keys and values [layers, G, rows, c]; zero at first, so that a masked row does no harm."""

    def __init__(self, shape: LanguageShape, rows: int, like: torch.Tensor) -> None:
        """Allocate on the device and in the precision of ``like``."""
        sizes = shape.num_layers, shape.num_kv_heads, rows, shape.head_dim
        self.keys = like.new_zeros(sizes)
        self.values = like.new_zeros(sizes)


class Decoder:
    """Weights of one text model, and its arithmetic."""

    def __init__(self, shape: LanguageShape, weight: Weight) -> None:
        """
        Take weights by transformers' names inside the text model, and 'lm_head.weight'.

        Tables, norms and, on a GPU, plain products are used as they are given; q, k, v and gate,
        up are copied into one matrix each.
        """
        self.shape = shape
        self.embedding = weight('embed_tokens.weight').detach()
        self.head = self.embedding if shape.tied else weight('lm_head.weight').detach()
        self.norm = weight('norm.weight').detach()
        self.layers = [_layer(weight, f'layers.{index}.') for index in range(shape.num_layers)]
        last = f'layers.{shape.num_layers - 1}.'
        self._last_query = _attention_part(weight, last, 'q')
        self._last_key_value = _attention_part(weight, last, 'kv')
        device, half = self.embedding.device, shape.head_dim // 2
        powers = torch.arange(0, shape.head_dim, 2, dtype=torch.float) / shape.head_dim
        self._frequencies = (1.0 / shape.rope_theta**powers).repeat(2).to(device)   # (c,)
        axes = [axis for axis, size in enumerate(shape.mrope_section) for _ in range(size)]
        self._axis = torch.tensor(axes * 2, device=device)              # (c,): time, row, column
        self._sign = torch.tensor([-1.0] * half + [1.0] * half, device=device)

    def rotary(self, positions: torch.Tensor) -> Rotary:
        """Map int64 [3, S] to cosine and signed sine [S, 1, c]."""
        angles = positions.index_select(0, self._axis).T.float() * self._frequencies
        dtype = self.embedding.dtype
        return angles.cos()[:, None].to(dtype), (angles.sin() * self._sign)[:, None].to(dtype)

    def layer(self, index: int, hidden: torch.Tensor, rotary: Rotary,
              attend: Attend) -> torch.Tensor:
        """Run one layer on [S, D]."""
        shape, weights = self.shape, self.layers[index]
        heads, shared = shape.num_heads, shape.num_kv_heads
        qkv = weights.qkv(self.normed(hidden, weights.norm))
        qkv = qkv.unflatten(1, (heads + 2 * shared, shape.head_dim))
        query, key = _rotate(qkv[:, :heads + shared], *rotary).split((heads, shared), dim=1)
        return self._after_attention(
            hidden, attend(index, query, key, qkv[:, heads + shared:]), weights)

    def last_layer(self, hidden: torch.Tensor, rotary: Rotary, cache: Cache | None,
                   row: torch.Tensor) -> torch.Tensor:
        """
        Run the last layer on a prompt [S, D] for one row, int64 [1]: [1, D].

        Of the others only keys and values are wanted, by what is read later: no query, no MLP.
        """
        shape, weights = self.shape, self.layers[-1]
        heads, shared = shape.num_heads, shape.num_kv_heads
        normed = self.normed(hidden, weights.norm)
        both = self._last_key_value(normed).unflatten(1, (2 * shared, shape.head_dim))
        key, value = both.split(shared, dim=1)
        key, value = _rotate(key, *rotary).transpose(0, 1), value.transpose(0, 1)
        query = self._last_query(normed.index_select(0, row))
        query = _rotate(query.unflatten(1, (heads, shape.head_dim)),
                        *(each.index_select(0, row) for each in rotary))
        if cache is not None:
            cache.keys[-1, :, :key.shape[1]].copy_(key)
            cache.values[-1, :, :value.shape[1]].copy_(value)
        seen = torch.arange(len(hidden), device=row.device) <= row[:, None]
        mixed = _mixed(query, key, value, _mask(seen, hidden.dtype))
        return self._after_attention(hidden.index_select(0, row), mixed, weights)

    def _after_attention(self, hidden: torch.Tensor, mixed: torch.Tensor,
                         weights: _Layer) -> torch.Tensor:
        hidden = weights.out.added_to(hidden, mixed)
        gate, up = weights.gate_up(self.normed(hidden, weights.mlp_norm)).chunk(2, dim=1)
        return weights.down.added_to(hidden, functional.silu(gate) * up)

    def normed(self, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the root-mean-square norm of [S, D]."""
        return functional.rms_norm(hidden, hidden.shape[1:], weight, self.shape.norm_eps)

    def read_prompt(self, hidden: torch.Tensor, positions: torch.Tensor, cache: Cache | None,
                    row: torch.Tensor) -> torch.Tensor:
        """
        Run [S, D] at int64 [3, S] as the first S rows of the cache.

        Returns one row, int64 [1], after the last layer and before the norm: [1, D].
        """
        rotary, attend = self.rotary(positions), prompt_attention(cache)
        for index in range(len(self.layers) - 1):
            hidden = self.layer(index, hidden, rotary, attend)
        return self.last_layer(hidden, rotary, cache, row)

    def read_block(self, token_ids: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor,
                   cache: Cache, num_seen: int) -> torch.Tensor:
        """
        Run int64 [m] as rows int64 [m] of the cache at positions int64 [m]; normed [m, D].

        ``rows`` ascend by one and lie below ``num_seen``; each sees the cache up to itself.
        """
        hidden = functional.embedding(token_ids, self.embedding)
        rotary = self.rotary(positions.expand(3, -1))
        seen = torch.arange(num_seen, device=rows.device) <= rows[:, None]
        attend = _block_attention(cache, rows, _mask(seen, hidden.dtype))
        for index in range(len(self.layers)):
            hidden = self.layer(index, hidden, rotary, attend)
        return self.normed(hidden, self.norm)


def prompt_attention(cache: Cache | None) -> Attend:
    """Return causal attention of S rows among themselves; they become the cache's first S."""

    def attend(index: int, query: torch.Tensor, key: torch.Tensor,
               value: torch.Tensor) -> torch.Tensor:
        query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        if cache is not None:
            cache.keys[index, :, :key.shape[1]].copy_(key)
            cache.values[index, :, :value.shape[1]].copy_(value)
        mixed = functional.scaled_dot_product_attention(
            query[None], key[None], value[None], is_causal=True, enable_gqa=True)
        return mixed[0].transpose(0, 1).flatten(1)

    return attend


def _block_attention(cache: Cache, rows: torch.Tensor, mask: torch.Tensor) -> Attend:
    """Return attention of m rows, which go into the cache first, to what ``mask`` lets them."""
    num_seen = mask.shape[1]

    def attend(index: int, query: torch.Tensor, key: torch.Tensor,
               value: torch.Tensor) -> torch.Tensor:
        cache.keys[index].index_copy_(1, rows, key.transpose(0, 1))
        cache.values[index].index_copy_(1, rows, value.transpose(0, 1))
        return _mixed(query, cache.keys[index, :, :num_seen], cache.values[index, :, :num_seen],
                      mask)

    return attend


def _mask(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to scores: bool [m, rows] as zero and -inf."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, -torch.inf)


def _mixed(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
           mask: torch.Tensor) -> torch.Tensor:
    """Attend from few rows [m, H, c] to [G, rows, c], with a mask [m, rows]: [m, H c]."""
    shared, channels = keys.shape[0], keys.shape[2]
    group = query.shape[1] // shared
    mask = mask[:, None].expand(-1, group, -1).flatten(0, 1)            # (m group, rows)
    query = query.unflatten(1, (shared, group)).transpose(0, 1)         # (G, m, group, c)
    scores = torch.baddbmm(mask, query.reshape(shared, -1, channels),
                           keys.transpose(1, 2), alpha=channels**-0.5)
    mixed = torch.softmax(scores, dim=-1) @ values                      # (G, m group, c)
    return mixed.unflatten(1, (-1, group)).transpose(0, 1).flatten(1)


def _layer(weight: Weight, name: str) -> _Layer:
    return _Layer(
        norm=weight(f'{name}input_layernorm.weight').detach(),
        qkv=_attention_part(weight, name, 'qkv'),
        out=Product(weight(f'{name}self_attn.o_proj.weight').detach()),
        mlp_norm=weight(f'{name}post_attention_layernorm.weight').detach(),
        gate_up=Product(_joined(weight, name, ('mlp.gate_proj.weight', 'mlp.up_proj.weight'))),
        down=Product(weight(f'{name}mlp.down_proj.weight').detach()))


def _attention_part(weight: Weight, name: str, parts: str) -> Product:
    names = [f'self_attn.{part}_proj' for part in parts]
    return Product(*(_joined(weight, name, [f'{each}.{kind}' for each in names])
                     for kind in ('weight', 'bias')))


def _joined(weight: Weight, name: str, parts: Sequence[str]) -> torch.Tensor:
    return torch.cat([weight(name + part).detach() for part in parts])


def _rotate(states: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotate [S, heads, c]: halves swapped, the sine's sign in the table."""
    swapped = states.roll(states.shape[2] // 2, dims=2)
    return torch.addcmul(states * cos, swapped, signed_sin)
