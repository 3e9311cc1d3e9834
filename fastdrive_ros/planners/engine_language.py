# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A language model as one engine: the graph language_model.onnx with its cache in and out.

The cache is rows first, so what the graph returns for new rows is written right behind what it
reads, and forgetting rows is a smaller number. On a device both are its own memory, and so may the
kept tokens be: what travels are token ids, positions and a handful of logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.runtime.engine import Array
from fastdrive_ros.runtime.engine import Engine
from fastdrive_ros.runtime.engine import EngineError


class EngineLanguage:
    """A LanguageModel on an Engine, of the host or of a device."""

    def __init__(self, engine: Engine, cache: Mapping[str, Any]) -> None:
        """``cache`` is the manifest's: layers, kv_heads, head_size, max_rows."""
        self._engine = engine
        self._max_rows: int = cache['max_rows']
        shape = cache['layers'], 2, cache['kv_heads'], cache['head_size']
        memory = engine.memory('cache')
        self._cache: Array = (np.zeros((self._max_rows, *shape), np.float32)
                              if memory is None else memory)        # (P, layers, k or v, heads, d)
        (hidden_size,) = (spec.shape[1] for spec in engine.input_specs
                          if spec.name == 'kept_tokens')
        self._no_tokens = np.zeros((1, hidden_size), np.float32)
        self.num_rows = 0
        self._next_position = 0
        self._after_pictures = 0

    def prefill(self, prompt: PromptRows, candidates: np.ndarray) -> np.ndarray:
        """Forget everything, read a prompt; float32 (C,): logits of int64 (C,) after it."""
        self.num_rows = 0
        self._next_position = prompt.next_position
        self._after_pictures = int(np.flatnonzero(prompt.visual_rows >= 0).max(initial=-1)) + 1
        kept = prompt.kept_tokens if len(prompt.kept_tokens) else self._no_tokens
        last = np.array([len(prompt.token_ids) - 1])
        return self._run(prompt.token_ids, prompt.visual_rows, kept, prompt.positions, last,
                         candidates)[0]

    def extend(self, token_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Read int64 (n,) further tokens; float32 (n, C): logits after each of them."""
        count = len(token_ids)
        rows = np.arange(count)
        positions = np.broadcast_to(self._next_position + rows, (3, count))
        logits = self._run(token_ids, np.full(count, -1), self._no_tokens, positions, rows,
                           candidates)
        self._next_position += count
        return logits

    def forget(self, num_rows: int) -> None:
        """Keep only the first ``num_rows`` of the cache; ValueError for less than the pictures."""
        if not self._after_pictures <= num_rows <= self.num_rows:
            raise ValueError(
                f'expected {self._after_pictures} to {self.num_rows} rows to keep, found '
                f'{num_rows}: before that no row says where the next one stands')
        self._next_position -= self.num_rows - num_rows
        self.num_rows = num_rows

    def _run(self, token_ids: np.ndarray, visual_rows: np.ndarray, kept_tokens: np.ndarray,
             positions: np.ndarray, logit_rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        end = self.num_rows + len(token_ids)
        if end > self._max_rows:
            raise EngineError(f'expected a prompt and an answer of at most {self._max_rows} rows, '
                              f'found {end}: the history has longer numbers than any vehicle, is '
                              'the odometry right?')
        out = self._engine.run({
            'token_ids': token_ids,                                 # (S,)
            'visual_rows': visual_rows,                             # (S,)
            'kept_tokens': kept_tokens,                             # (K, D)
            'positions': np.ascontiguousarray(positions),           # (3, S)
            'cache': self._cache[:self.num_rows],                   # (P, layers, 2, heads, d)
            'logit_rows': logit_rows,                               # (R,)
            'candidates': candidates,                               # (C,)
        }, into={'new_cache': self._cache[self.num_rows:end]})      # (S, layers, 2, heads, d)
        self.num_rows = end
        return out['logits']                                        # (R, C)
