# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A prompt's rows -> what transformers' own greedy `generate` writes: what all else is held to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.runtime.engine import EngineError

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from fastdrive_ros.runtime.bundle import Bundle


def hf_inputs(hf: Qwen2_5_VLForConditionalGeneration, rows: PromptRows,
              device: torch.device) -> dict[str, torch.Tensor]:
    """Return transformers' inputs for a prompt; ``kept_tokens`` of the host or of the device."""
    import torch

    visual = torch.from_numpy(rows.visual_rows).to(device)
    ids = torch.from_numpy(np.where(rows.visual_rows >= 0, 0, rows.token_ids)).to(device)
    with torch.inference_mode():
        embeds = hf.get_input_embeddings()(ids)
        kept = torch.as_tensor(rows.kept_tokens).to(embeds)
        embeds[visual >= 0] = kept[visual[visual >= 0]]
    # The first of four rows must be without gaps, or transformers takes them for packed sequences.
    positions = torch.from_numpy(np.concatenate([np.arange(len(ids))[None], rows.positions]))
    return {'inputs_embeds': embeds[None], 'position_ids': positions[:, None].to(device),
            'attention_mask': torch.ones(1, len(ids), dtype=torch.long, device=device)}


class HfWriter:
    """A checkpoint that answers by `generate`, with a clock around prefill and decode."""

    def __init__(self, checkpoint: Path, bundle: Bundle, end_token: int, max_tokens: int) -> None:
        """
        Load in a bundle's precision, onto the GPU where there is one.

        EngineError where the bundle was exported from another checkpoint.
        """
        import torch
        from transformers import GenerationConfig
        from transformers import Qwen2_5_VLForConditionalGeneration

        from fastdrive_ros.learn.checkpoint import checkpoint_sha256
        from fastdrive_ros.learn.precision import DTYPES

        expected, found = bundle.manifest['source']['checkpoint_sha256'], checkpoint_sha256(
            checkpoint)
        if found != expected:
            raise EngineError(f'expected the checkpoint that {bundle.name} was exported from '
                              f'({expected[:12]}), found {found[:12]} in {checkpoint}: answers of '
                              'two models cannot be compared')
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self._hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=DTYPES[bundle.precision]).to(self._device).eval()
        # The folder's own settings (a repetition penalty, for one) are for chat, not for numbers.
        self._hf.generation_config = GenerationConfig(
            do_sample=False, eos_token_id=end_token, pad_token_id=end_token)
        self._max_tokens = max_tokens

    @property
    def words(self) -> str:
        """What it runs in and on, for people."""
        return f'{str(self._hf.dtype).removeprefix("torch.")} on {self._device.type}'

    def write(self, rows: PromptRows) -> tuple[list[int], float, float]:
        """Return the tokens that follow, milliseconds to the first one, and of the others."""
        given = hf_inputs(self._hf, rows, self._device)
        start_s = time.perf_counter()
        self._generate(given, 1)
        first_s = time.perf_counter()
        tokens = self._generate(given, self._max_tokens)
        end_s = time.perf_counter()
        first_ms = (first_s - start_s) * 1e3
        return tokens, first_ms, (end_s - first_s) * 1e3 - first_ms

    def _generate(self, given: dict[str, torch.Tensor], most: int) -> list[int]:
        # tolist waits for the device.
        return self._hf.generate(**given, max_new_tokens=most)[0].tolist()
