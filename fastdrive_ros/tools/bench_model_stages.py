# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The trials of `fastdrive bench model`: each does a part of a plan once and says what it took.

    chain       encode, prune, prefill, an answer of T tokens one by one, the same in few passes
                with forced text and guesses
    generate    transformers' own, from pixels, or from the same pruned prompt
    rivals      prune alone for methods before the language model, prefill for those inside it
    blocks      one pass over 1, 2, 4 ... cached tokens

Milliseconds: CUDA events on a GPU, perf_counter on the CPU; the device is idle before each stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeVar

import numpy as np

from fastdrive_ros.pruners import make_pruner
from fastdrive_ros.pruners.budget import select
from fastdrive_ros.pruners.sight import Sight
from fastdrive_ros.tools.bench_model_setup import BLOCKS
from fastdrive_ros.tools.bench_model_setup import Subject
from fastdrive_ros.tools.hf_generate import hf_inputs

if TYPE_CHECKING:
    import torch

Sample = dict[str, 'float | list[float]']
"""Stage -> milliseconds, or those of many passes."""

_PASSES_OF_A_BLOCK = 8
_Result = TypeVar('_Result')


class Clock:
    """Times one call at a time."""

    def __init__(self, device: torch.device) -> None:
        """Take the device whose work is waited for."""
        import torch

        self._cuda = torch.cuda if device.type == 'cuda' else None

    def __call__(self, work: Callable[[], _Result]) -> tuple[_Result, float]:
        """Return a call's result and milliseconds."""
        if self._cuda is None:
            start_s = time.perf_counter()
            return work(), (time.perf_counter() - start_s) * 1e3
        self._cuda.synchronize()
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = work()
        end.record()
        end.synchronize()
        return result, start.elapsed_time(end)


def chain(subject: Subject, method: str, num_kept: int, answer_tokens: int,
          passes: int, read: int) -> Sample:
    """Plan once with ReconPruner or, with 'none', with every token."""
    clock = Clock(subject.device)
    tokens, encode_ms = clock(lambda: encode(subject))
    (kept, indices), prune_ms = clock(lambda: prune(subject, method, tokens, num_kept))
    logits, prefill_ms = clock(lambda: subject.language.prefill(
        subject.rows(kept, indices), subject.candidates))
    prompt_rows = subject.language.num_rows
    took_ms = []
    for _ in range(answer_tokens - 1):  # the prefill gave the first, as for transformers
        logits, ms = clock(lambda: _next(subject, logits, 1))  # noqa: B023 - called at once
        took_ms.append(ms)
    subject.language.forget(prompt_rows)
    passes_ms = []
    for length, right in zip(shares(read, passes), shares(answer_tokens, passes), strict=True):
        logits, ms = clock(lambda: _next(subject, logits, length))  # noqa: B023
        passes_ms.append(ms)
        # The rest were wrong guesses.
        subject.language.forget(subject.language.num_rows - (length - right))
    before_ms = encode_ms + prune_ms + prefill_ms
    return {'encode': encode_ms, 'prune': prune_ms, 'prefill': prefill_ms, 'decode': took_ms,
            'answer': sum(took_ms), 'passes': sum(passes_ms),
            'end_to_end': before_ms + sum(took_ms),
            'end_to_end_passes': before_ms + sum(passes_ms)}


def generate_from_pixels(subject: Subject, answer_tokens: int) -> Sample:
    """Answer by transformers alone, every token kept, from patches on the device."""
    import torch

    clock, hf, config = Clock(subject.device), subject.hf, subject.hf.config
    ids = subject.token_ids[None].to(subject.device)
    merge, vision = config.vision_config.spatial_merge_size, config.vision_config
    cameras, height, width = subject.grid
    grid = torch.tensor([[1, height * merge, width * merge]] * cameras, device=subject.device)
    pixels = torch.randn(
        cameras * height * width * merge**2,
        vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        dtype=subject.dtype, device=subject.device)
    _, encode_ms = clock(lambda: hf.model.get_image_features(pixels, grid))
    _, ms = clock(lambda: hf.generate(
        input_ids=ids, pixel_values=pixels, image_grid_thw=grid,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == config.image_token_id).int(),
        max_new_tokens=answer_tokens, use_cache=True))
    return {'encode': encode_ms, 'end_to_end': ms}


def generate(subject: Subject, tokens: torch.Tensor, num_kept: int, answer_tokens: int) -> Sample:
    """Answer by transformers from the prompt with the first ``num_kept`` tokens."""
    import torch

    clock = Clock(subject.device)
    rows = subject.rows(tokens[:num_kept], torch.arange(num_kept))
    given = hf_inputs(subject.hf, rows, subject.device)
    _, first_ms = clock(lambda: subject.hf.generate(**given, max_new_tokens=1))
    _, ms = clock(lambda: subject.hf.generate(**given, max_new_tokens=answer_tokens))
    return {'prefill': first_ms, 'decode': (ms - first_ms) / (answer_tokens - 1),
            'answer': ms - first_ms}


def prune_only(subject: Subject, method: str, sight: tuple[torch.Tensor, ...],
               num_kept: int) -> Sample:
    """Choose by a method, from what the encoder gave on the device to indices on the host."""
    return {'prune': Clock(subject.device)(
        lambda: prune(subject, method, sight[0], num_kept, sight[1:]))[1]}


def blocks(subject: Subject, tokens: torch.Tensor, num_kept: int) -> Sample:
    """Time passes over blocks of tokens after a prompt."""
    import torch

    clock, language = Clock(subject.device), subject.language
    logits = language.prefill(subject.rows(tokens[:num_kept], torch.arange(num_kept)),
                              subject.candidates)
    rows = language.num_rows
    sample: Sample = {}
    for length in BLOCKS:
        took_ms = []
        for _ in range(_PASSES_OF_A_BLOCK):
            took_ms.append(clock(lambda: _next(subject, logits, length))[1])  # noqa: B023
            language.forget(rows)
        sample[f'block_{length}'] = took_ms
    return sample


def encode(subject: Subject) -> torch.Tensor:
    """Return visual tokens (N, D)."""
    import torch

    with torch.inference_mode():
        return subject.vision(subject.images)


def prune(subject: Subject, method: str, tokens: torch.Tensor, num_kept: int,
          seen: tuple[torch.Tensor, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return kept tokens (K, D) on the device and their int64 (K,) indices on the host.

    ReconPruner runs on the device, every other method is numpy's on the host, and what it looks
    at (tokens; ``seen``: attention and features) travels there.
    """
    import torch

    with torch.inference_mode():
        if method == 'none':
            return tokens, torch.arange(len(tokens))
        if method == 'recon':
            present = torch.ones(subject.grid[0], dtype=torch.bool, device=subject.device)
            kept, indices, _ = subject.pruner(tokens, present, torch.tensor(num_kept))
            return kept, indices.cpu()
        pruner = make_pruner(method)
        host = [each.float().cpu().numpy() for each in (tokens, *seen)]
        attention, features = host[1:] or (None, None)
        chosen = torch.from_numpy(select(pruner, Sight(
            host[0], np.ones(subject.grid[0], bool), *subject.grid[1:], attention=attention,
            features=features, stamp_ns=1), num_kept, 0.0))
        return tokens.index_select(0, chosen.to(subject.device)), chosen


def shares(tokens: int, passes: int) -> list[int]:
    """Return the tokens of each pass, as even as can be."""
    return [len(part) for part in np.array_split(np.arange(tokens), passes)]


def agreement(subject: Subject, tokens: torch.Tensor, num_kept: int) -> dict[str, Any]:
    """
    Return how far our logits are from transformers' forward over prompt and answer.

    Twelve answer tokens in blocks of 1, 3 and 8; the largest difference over the spread of the
    candidates' logits. In bf16 both round on their own way.
    """
    import torch

    answer = np.arange(200, 212)
    rows = subject.rows(tokens[:num_kept], torch.arange(num_kept))
    ours = [subject.language.prefill(rows, subject.candidates)[None]]
    for block in np.split(answer, (1, 4)):
        ours.append(subject.language.extend(block, subject.candidates))
    given = hf_inputs(subject.hf, rows, subject.device)
    more = torch.arange(len(answer), device=subject.device)
    text = torch.stack([len(rows.token_ids) + more, *[rows.next_position + more] * 3])
    ids = torch.from_numpy(answer).to(subject.device)
    with torch.inference_mode():
        embeds = torch.cat([given['inputs_embeds'],
                            subject.hf.get_input_embeddings()(ids)[None]], dim=1)
        hidden = subject.hf.model.language_model(
            inputs_embeds=embeds, use_cache=False,
            position_ids=torch.cat([given['position_ids'], text[:, None]], dim=2)
        ).last_hidden_state[0, -1 - len(answer):]
        head = subject.hf.lm_head.weight[torch.from_numpy(subject.candidates).to(ids.device)]
        theirs = (hidden @ head.T).float().cpu().numpy()
    difference = np.abs(np.concatenate(ours) - theirs).max()
    return {'largest_difference': float(difference), 'logit_std': float(theirs.std()),
            'relative': float(difference / theirs.std())}


def _next(subject: Subject, logits: np.ndarray, length: int) -> np.ndarray:
    """Read the likeliest candidate and fixed text after it; return the last token's logits."""
    tokens = np.full(length, subject.candidates[0])
    tokens[0] = subject.candidates[logits.argmax()]
    return subject.language.extend(tokens, subject.candidates)[-1]
