# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Shapes -> multiplications of each stage, by the counting rule of runtime/onnx_cost.py.

One MAC for each product of a matrix product or convolution, weights and attention alike, at the
shapes that are run; causal attention counts in full, elementwise work and sorting not at all.
One MAC is two FLOPs. ``counted_flops`` asks torch's own counter, which has the same rule.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from fastdrive_ros.tools.bench_model_setup import TEXT_TOKENS
from fastdrive_ros.tools.bench_model_setup import text_weights

if TYPE_CHECKING:
    from fastdrive_ros.learn.vision import FixedGridVision
    from fastdrive_ros.planners.language_memory import LanguageShape
    from fastdrive_ros.tools.bench_model_setup import Subject

COUNTING_RULE = (
    'TFLOP: 2e12 multiply-accumulates of all matrix products and convolutions, attention in full '
    '(causal not halved); norms, softmax, rotary positions, sorting and what rivals compute in '
    'numpy do not count')


def layer_macs(shape: LanguageShape, rows: int, seen: int, wanted: int) -> int:
    """
    Return the MACs of one decoder layer: ``rows`` new rows, which see ``seen`` rows.

    ``wanted``: rows that the layer's output is wanted of; the others give keys and values only.
    """
    wide, kv = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    products = 2 * wide * wide + 3 * wide * shape.intermediate_size
    return rows * wide * 2 * kv + wanted * products + 2 * wanted * seen * wide


def language_macs(shape: LanguageShape, rows: int, before: int, wanted: int,
                  head_rows: int) -> int:
    """
    Return the MACs of reading ``rows`` rows after ``before`` cached ones.

    ``wanted``: rows that the last layer's output is wanted of; ``head_rows``: logits computed.
    """
    seen = before + rows
    return ((shape.num_layers - 1) * layer_macs(shape, rows, seen, rows)
            + layer_macs(shape, rows, seen, wanted) + head_rows * shape.hidden_size)


def cut_macs(shape: LanguageShape, rows_of_layer: list[int], head_rows: int) -> int:
    """Return the MACs of a prefill that has fewer rows from some layer on."""
    *rows_before, last = rows_of_layer
    return (sum(layer_macs(shape, rows, rows, rows) for rows in rows_before)
            + layer_macs(shape, last, last, 1) + head_rows * shape.hidden_size)


def vision_macs(vision: FixedGridVision, config: Any) -> int:
    """Return the MACs of all images; ``config`` is transformers' vision config."""
    wide, merge = config.hidden_size, config.spatial_merge_size**2
    tokens = vision.grid_height * vision.grid_width
    patches = tokens * merge
    embed = patches * wide * 3 * config.patch_size**2
    products = patches * (4 * wide * wide + 3 * wide * config.intermediate_size)
    windowed = sum(group.count * group.length**2 for group in vision.windows)
    attention = sum(2 * wide * (patches**2 if index in vision.full_attention else windowed)
                    for index in range(config.depth))
    merger = tokens * (wide * merge) * (wide * merge + config.out_hidden_size)
    return vision.num_images * (embed + config.depth * products + attention + merger)


def pruner_macs(shape: LanguageShape, num_tokens: int) -> int:
    """Return ReconPruner's MACs: one layer over query and tokens, and the scorer."""
    rows = num_tokens + 1
    return layer_macs(shape, rows, rows, rows) + num_tokens * shape.hidden_size


def cost_table(subject: Subject, kept: Sequence[int], answer_tokens: int) -> dict[str, Any]:
    """
    Return MACs by stage for every K of interest, first N, and torch's counts beside ours.

    ``answer`` is T tokens one by one with logits of the candidates alone.
    """
    shape, every = subject.shape, subject.num_tokens
    encode = vision_macs(subject.vision, subject.hf.config.vision_config)
    prune = pruner_macs(shape, every)
    rows = []
    for count in (every, *(each for each in kept if each < every)):
        prompt = count + TEXT_TOKENS
        candidates = len(subject.candidates)
        rows.append({
            'kept': count, 'encode': encode,
            'prune': prune if count < every else 0,
            'prefill': language_macs(shape, prompt, 0, 1, candidates),
            'answer': sum(language_macs(shape, 1, prompt + number, 1, candidates)
                          for number in range(answer_tokens))})
    ours = {'encode': encode, 'prune': prune,
            'prefill': language_macs(shape, every + TEXT_TOKENS, 0, 1, 0)}
    return {'rule': COUNTING_RULE, 'macs': rows, 'flops_at_every_token': {
        stage: {'ours': 2 * ours[stage], 'torch': flops}
        for stage, flops in torch_counts(subject).items()}}


def torch_counts(subject: Subject) -> dict[str, int]:
    """
    Return torch's FLOPs of encode, prune and a prefill of N, counted without computing.

    The prefill without logits.
    """
    import torch

    from fastdrive_ros.planners.torch_decoder import Decoder

    meta = torch.device('meta')
    every, shape = subject.num_tokens, subject.shape
    rows = every + TEXT_TOKENS
    vision = copy.deepcopy(subject.vision).to(meta)
    pruner = copy.deepcopy(subject.pruner).to(meta)
    weight = text_weights(subject.hf)
    decoder = Decoder(shape, lambda name: weight(name).to(meta))
    tokens = torch.empty(1, every, shape.hidden_size, dtype=subject.dtype, device=meta)
    present = torch.ones(1, subject.grid[0], dtype=torch.bool, device=meta)
    hidden = torch.empty(rows, shape.hidden_size, dtype=subject.dtype, device=meta)
    positions = torch.zeros(3, rows, dtype=torch.int64, device=meta)
    last = torch.zeros(1, dtype=torch.int64, device=meta)
    works = {'encode': lambda: vision(subject.images.to(meta)),
             'prune': lambda: pruner.scores(tokens, present),
             'prefill': lambda: decoder.read_prompt(hidden, positions, None, last)}
    return {stage: counted_flops(work) for stage, work in works.items()}


def counted_flops(work: Callable[[], object]) -> int:
    """Return torch's count of a call; give it tensors on 'meta' and nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
