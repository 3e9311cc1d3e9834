# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Learning to write waypoints: the next token of the expert's way, in the words of a prompt file.

    images -> encoder -> all N tokens, prompt, answer -> language model -> cross entropy

As Impromptu-VLA was fine-tuned, on one frame and its answer at a time. Large checkpoints are
better fine-tuned with the tools made for that; this is for small ones, and for an honest test of
everything that comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration

from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.learn.prompt_file import TextHead
from fastdrive_ros.learn.vision import FixedGridVision
from fastdrive_ros.learn.vision import Normalisation
from fastdrive_ros.learn.vision import folded_patch_weight
from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.text_prompt import Encode
from fastdrive_ros.planners.text_prompt import PromptBuilder

Batch = dict[str, torch.Tensor]
_END = '<|im_end|>'


@dataclass(frozen=True)
class TextTrainingConfig:
    """What is trained."""

    freeze_encoder: bool = True
    """Train the language model only; the pruner of the encoder stays the right one."""


class TextTraining(nn.Module):
    """What the loop trains: a checkpoint, as it is asked and answers."""

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, head: TextHead, encode: Encode,
                 cameras: Sequence[str], image_shape: tuple[int, int, int],
                 normalisation: Normalisation, config: TextTrainingConfig) -> None:
        """Share the checkpoint's layers; ``image_shape`` is V, height, width."""
        super().__init__()
        self.config, self._head, self._encode = config, head, encode
        self._normalisation = normalisation
        self.vision = FixedGridVision(model.model.visual, *image_shape, normalisation)
        self.patch_embed = model.model.visual.patch_embed
        self.language = model.model.language_model
        self.language.config._attn_implementation = 'sdpa'
        self.output = model.lm_head
        grid = self.vision.grid_height, self.vision.grid_width
        self._everything = np.arange(len(cameras) * grid[0] * grid[1])
        self._prompt = PromptBuilder(head.prompt, encode, cameras, grid, head.history_dt_s)
        for parameter in (*self.vision.parameters(), *self.patch_embed.parameters()):
            parameter.requires_grad_(not config.freeze_encoder)
        # Made from patch_embed in every step, so not weights of their own.
        self.vision.patch_weight.requires_grad_(False)
        self.vision.patch_bias.requires_grad_(False)

    def forward(self, batch: Batch) -> Batch:
        """Map a batch of samples.FrameSamples to the loss and token_accuracy, each a scalar."""
        known = batch['known'].all(dim=1)                               # (B,)
        tokens = self.encode(batch['images'])                           # (B, N, D)
        examples = [self._example(*row) for row in zip(
            batch['ego_history'].cpu().numpy(), batch['waypoints'].cpu().numpy(), strict=True)]
        hidden = self._states(tokens, [rows for rows, _ in examples])   # (B, S, D)
        losses, right = [], []
        for state, (rows, num_answered), counts in zip(hidden, examples, known, strict=True):
            end = len(rows.token_ids)
            logits = self.output(state[end - num_answered - 1:end - 1]).float()
            wanted = torch.from_numpy(rows.token_ids[-num_answered:]).to(logits.device)
            losses.append(functional.cross_entropy(logits, wanted) * counts)
            right.append((logits.argmax(1) == wanted).float().mean() * counts)
        total = known.sum().clamp(min=1)
        return {'loss': torch.stack(losses).sum() / total,
                'token_accuracy': torch.stack(right).detach().sum() / total}

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Map uint8 [B, V, H, W, 3] to tokens [B, N, D]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            weight, bias = folded_patch_weight(self.patch_embed.proj.weight, self._normalisation)
            tokens = self.vision.encode(images.flatten(0, 1), weight, bias)
        return tokens.unflatten(0, (images.shape[0], -1))

    def _example(self, history: np.ndarray, waypoints: np.ndarray) -> tuple[PromptRows, int]:
        """Return prompt and answer as rows, and how many of them are the answer's."""
        form = self._head.answer
        answer = form.text([form.number(value) for value in waypoints[:, :2].ravel().tolist()])
        ids = self._encode(answer + _END)
        kept = KeptTokens(np.zeros((len(self._everything), 0), np.float32), self._everything,
                          num_tokens=len(self._everything))
        return self._prompt.rows(kept, history, ids), len(ids)

    def _states(self, tokens: torch.Tensor, prompts: Sequence[PromptRows]) -> torch.Tensor:
        """Run the language model on prompts filled up on the right: [B, S, D]."""
        longest = max(len(rows.token_ids) for rows in prompts)
        device = tokens.device

        def filled(arrays: Sequence[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.stack([
                np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, longest - a.shape[-1])]) for a in arrays
            ])).to(device)

        ids = filled([rows.token_ids for rows in prompts])              # (B, S)
        visual = filled([rows.visual_rows + 1 for rows in prompts]) - 1
        positions = filled([rows.positions for rows in prompts]).transpose(0, 1)    # (3, B, S)
        text = self.language.embed_tokens(ids)
        seen = tokens.gather(1, visual.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1]))
        hidden = torch.where(visual[..., None] >= 0, seen.to(text.dtype), text)
        rotary = self.language.rotary_emb(hidden, positions)
        # Without a mask the layers are causal, so what fills up is seen by nobody.
        for layer in self.language.layers:
            hidden = layer(hidden, position_embeddings=rotary)
        return self.language.norm(hidden)
