# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Prefill of a text prompt with a method that cuts between language layers: FastV, SparseVLM, ...

The layers run on the device; at a layer where the method cuts, the attention of the text rows is
computed beside the fused one and goes to the host with what else the method looks at, as its
numpy code (pruners/) wants it. VLA-Pruner is left out: it looks at the waypoint queries of former
plans, which a text planner does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.pruners.efficientvla import FIRST_PRUNED_LAYER as EFFICIENTVLA_LAYER
from fastdrive_ros.pruners.fastv import FIRST_PRUNED_LAYER as FASTV_LAYER
from fastdrive_ros.pruners.inside import Cut
from fastdrive_ros.pruners.inside import Layer
from fastdrive_ros.pruners.sparsevlm import pruned_layers
from fastdrive_ros.tools.bench_model_cost import cut_macs
from fastdrive_ros.tools.bench_model_setup import Subject
from fastdrive_ros.tools.bench_model_stages import Clock
from fastdrive_ros.tools.bench_model_stages import Sample

if TYPE_CHECKING:
    import torch


def prefill_inside(subject: Subject, method: str, tokens: torch.Tensor, num_kept: int) -> Sample:
    """Read the prompt with every token, down to ``num_kept`` after the method's last cut."""
    import torch

    rows = subject.rows(tokens, torch.arange(len(tokens)))
    prefill = InsidePrefill(subject, method, num_kept)
    with torch.inference_mode():
        return {'prefill': Clock(subject.device)(lambda: prefill.run(rows))[1]}


def inside_macs(subject: Subject, method: str, num_kept: int) -> dict[str, int]:
    """Return the MACs of that prefill, by the rows that each layer really read."""
    import torch

    every = subject.num_tokens
    prefill = InsidePrefill(subject, method, num_kept)
    with torch.inference_mode():
        tokens = torch.randn(every, subject.shape.hidden_size, device=subject.device)
        prefill.run(subject.rows(tokens.to(subject.dtype), torch.arange(every)))
    return {'macs': cut_macs(subject.shape, prefill.rows_of_layer, len(subject.candidates))}


class InsidePrefill:
    """One prefill; ``rows_of_layer`` says afterwards how many rows each layer read."""

    def __init__(self, subject: Subject, method: str, num_kept: int) -> None:
        """Take the method and its budget."""
        self._decoder = subject.language.decoder
        self._device = subject.device
        self._pruner = make_pruner(method)
        self._pruner.begin(num_kept, 1)
        depth = subject.shape.num_layers
        self._cut_layers = {
            'fastv': [FASTV_LAYER - 1], 'efficientvla': [EFFICIENTVLA_LAYER - 1],
            'sparsevlm': pruned_layers(depth)}[method]
        self._wants_states = method != 'fastv'
        self.rows_of_layer: list[int] = []
        self.visual_rows = np.empty(0, np.int64)
        """Of each row that is left, in the prompt's order: its visual token, -1 for text."""

    def run(self, rows: PromptRows) -> torch.Tensor:
        """Return the last row (1, D) after the last layer, before the norm."""
        import torch

        decoder = self._decoder
        ids = torch.from_numpy(np.maximum(rows.token_ids, 0)).to(self._device)
        visual = torch.from_numpy(rows.visual_rows).to(self._device)
        hidden = torch.nn.functional.embedding(ids, decoder.embedding)
        hidden[visual >= 0] = rows.kept_tokens.to(hidden.dtype)
        positions = torch.from_numpy(rows.positions).to(self._device)
        self._embeddings = _host(rows.kept_tokens) if self._wants_states else np.empty(
            (len(rows.kept_tokens), 0), np.float32)
        self._text = _host(hidden[visual < 0]) if self._wants_states else np.empty((0, 0))
        self._slots, self.visual_rows = np.arange(len(ids)), rows.visual_rows
        rotary = decoder.rotary(positions)
        for index in range(len(decoder.layers) - 1):
            self.rows_of_layer.append(len(hidden))
            cuts = index in self._cut_layers
            attention: list[np.ndarray] = []
            attend = self._attend(attention if cuts else None)
            hidden = decoder.layer(index, hidden, rotary, attend)
            if cuts and (cut := self._pruner.after(self._layer(index, hidden, attention[0]))):
                hidden = self._cut(hidden, cut)
                slots = torch.from_numpy(self._slots).to(self._device)
                rotary = decoder.rotary(positions.index_select(1, slots))
        self.rows_of_layer.append(len(hidden))
        last = torch.tensor([len(hidden) - 1], device=self._device)
        return decoder.last_layer(hidden, rotary, None, last)

    def _attend(self, attention: list[np.ndarray] | None) -> Callable:
        from fastdrive_ros.planners.torch_decoder import prompt_attention

        fused = prompt_attention(None)

        def attend(index: int, query: torch.Tensor, key: torch.Tensor,
                   value: torch.Tensor) -> torch.Tensor:
            if attention is not None:
                attention.append(self._text_attention(query, key))
            return fused(index, query, key, value)

        return attend

    def _text_attention(self, query: torch.Tensor, key: torch.Tensor) -> np.ndarray:
        """Return float32 (S, S), head-mean, text first; visual rows are zero: nobody asks."""
        import torch

        text = torch.from_numpy(np.flatnonzero(self.visual_rows < 0)).to(self._device)
        query = query.index_select(0, text).transpose(0, 1)             # (H, text, c)
        key = key.repeat_interleave(query.shape[0] // key.shape[1], dim=1)
        scores = query @ key.permute(1, 2, 0) * query.shape[2]**-0.5    # (H, text, S)
        hidden = torch.arange(key.shape[0], device=self._device) > text[:, None]
        weights = scores.float().masked_fill(hidden, -torch.inf).softmax(2).mean(0)
        attention = np.zeros((key.shape[0], key.shape[0]), np.float32)
        attention[:len(text)] = weights.cpu().numpy()[:, self._text_first()]
        return attention

    def _text_first(self) -> np.ndarray:
        """Return the rows as the methods want them: text, then visual, each in its order."""
        return np.argsort(self.visual_rows >= 0, kind='stable')

    def _layer(self, index: int, hidden: torch.Tensor, attention: np.ndarray) -> Layer:
        rows, num_text = self._text_first(), np.count_nonzero(self.visual_rows < 0)
        states = _host(hidden)[rows] if self._wants_states else np.empty((0, 0), np.float32)
        return Layer(
            index, len(self._decoder.layers), hidden=states, attention=attention,
            visual_rows=np.arange(num_text, len(rows)),
            visual_indices=self.visual_rows[rows[num_text:]],
            text_rows=np.arange(num_text - 1), query_rows=np.arange(num_text - 1, num_text),
            ego_rows=np.empty(0, np.int64), embeddings=self._embeddings,
            text_embeddings=self._text[:-1])

    def _cut(self, hidden: torch.Tensor, cut: Cut) -> torch.Tensor:
        """Drop visual rows, add the merged ones in the slots of their centres."""
        import torch

        visual = np.flatnonzero(self.visual_rows >= 0)
        chosen = np.concatenate([np.flatnonzero(self.visual_rows < 0), visual[cut.keep],
                                 visual[cut.merged_places]])
        source = chosen.copy()
        if len(cut.merged_places):
            count = len(cut.merged_places)
            source[-count:] = len(hidden) + np.arange(count)
            hidden = torch.cat([hidden, torch.from_numpy(cut.merged).to(hidden)])
        order = np.argsort(self._slots[chosen], kind='stable')
        self._slots, self.visual_rows = self._slots[chosen][order], self.visual_rows[chosen][order]
        return hidden.index_select(0, torch.from_numpy(source[order]).to(self._device))


def _host(states: torch.Tensor) -> np.ndarray:
    return states.float().cpu().numpy()
