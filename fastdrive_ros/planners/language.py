# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a text planner asks of a language model, whatever runs it.

    prefill(prompt) -> logits;  extend(tokens) -> logits;  forget(down to n rows)

The cache belongs to the model; a caller only says how many of its rows still hold. Logits are
asked for a handful of candidate tokens: an answer of numbers needs no 150,000 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class PromptRows:
    """
    A prompt whose dropped visual tokens are gone; S rows in the order of the full prompt.

    Rows keep the M-RoPE ids of the full prompt, so what was dropped leaves gaps.
    """

    token_ids: np.ndarray
    """int64 (S,); what stands in a visual row is not looked at."""
    visual_rows: np.ndarray
    """int64 (S,): which of ``kept_tokens`` a row is, -1 where it is text."""
    kept_tokens: np.ndarray
    """float32 (K, D); a model on a device may also take them in that device's own memory."""
    positions: np.ndarray
    """int64 (3, S): time, row, column."""
    next_position: int
    """Of the first answered token, in all three."""


class LanguageModel(Protocol):
    """One sequence at a time, one thread. Raises EngineError when a run fails."""

    num_rows: int
    """Rows in the cache: those of the prompt and of all tokens given since."""

    def prefill(self, prompt: PromptRows, candidates: np.ndarray) -> np.ndarray:
        """Forget everything, read a prompt; float32 (C,): logits of int64 (C,) after it."""

    def extend(self, token_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Read int64 (n,) further tokens; float32 (n, C): logits after each of them."""

    def forget(self, num_rows: int) -> None:
        """Keep only the first ``num_rows`` of the cache."""


def read_golden(model: LanguageModel, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    Let a model read what runtime.golden.run_language lets a graph read: a prompt, then a block.

    Returns prompt_logits (C,) and block_logits (n, C).
    """
    positions, candidates = feeds['positions'], feeds['candidates']
    prompt = PromptRows(feeds['token_ids'], feeds['visual_rows'], feeds['kept_tokens'], positions,
                        int(positions.max()) + 1)
    return {'prompt_logits': model.prefill(prompt, candidates),
            'block_logits': model.extend(feeds['block_ids'], candidates)}
