# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A text planner's step of the export: the graph language_model, proven, with golden logits.

What a checkpoint writes by itself is measured, too: the fixed text of the answer is forced when
driving, so a model that was trained with other words would not be noticed there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.learn.checkpoint import ModelParts
from fastdrive_ros.learn.graphs import Difference
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.learn.graphs import check_outputs
from fastdrive_ros.learn.graphs import cpu_session
from fastdrive_ros.learn.language_graph import INPUTS
from fastdrive_ros.learn.language_graph import OUTPUTS
from fastdrive_ros.learn.language_graph import LanguageGraph
from fastdrive_ros.learn.precision import in_float32
from fastdrive_ros.learn.prompt_file import TextHead
from fastdrive_ros.planners.text_answer import AnswerError
from fastdrive_ros.planners.text_answer import AnswerGrammar
from fastdrive_ros.planners.text_decoding import Writer
from fastdrive_ros.planners.text_prompt import Encode
from fastdrive_ros.planners.text_prompt import PromptBuilder
from fastdrive_ros.planners.text_prompt import longest_history
from fastdrive_ros.runtime.golden import run_language
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.onnx_file import OnnxWeights

TRAINED_AGREEMENT = 0.5
"""Of the answer's fixed text, the part that a model trained with it writes by itself, at least."""
_BLOCK = '1.2'


def golden_feeds(
    parts: ModelParts, head: TextHead, kept_indices: np.ndarray, kept_tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """
    Return one prompt with its answer's beginning, and a block that follows.

    Keys: the graph's inputs token_ids, visual_rows, positions and candidates, and block_ids.
    ExportError where the tokenizer cannot write the answer.
    """
    encode = encode_with(parts)
    kept = KeptTokens(kept_tokens, kept_indices, num_tokens=parts.num_tokens)
    try:
        grammar = AnswerGrammar(head.answer, encode)
        begin = Writer(grammar).begin.tokens
        rows = _builder(parts, head).rows(kept, golden_history(head.history_steps), begin)
    except (AnswerError, ValueError) as error:
        raise ExportError(f'the tokenizer does not fit the prompt file: {error}') from error
    return {'token_ids': rows.token_ids, 'visual_rows': rows.visual_rows,
            'positions': rows.positions, 'candidates': grammar.candidates,
            'block_ids': np.array(encode(_BLOCK), np.int64),
            'num_begin': np.array(len(begin))}


def cache_sizes(parts: ModelParts, head: TextHead, graph: LanguageGraph) -> dict[str, int]:
    """Return the manifest's ``cache``: its shape, with room for the longest of all cycles."""
    history = longest_history(head.history_steps)
    everything = KeptTokens(np.zeros((parts.num_tokens, 1), np.float32),
                            np.arange(parts.num_tokens), num_tokens=parts.num_tokens)
    prompt = _builder(parts, head).rows(everything, history, ())
    longest = '-' + '8' * head.answer.max_digits + '.' + '8' * head.answer.max_decimals
    answer = encode_with(parts)(head.answer.text((longest,) * 2 * head.answer.num_waypoints))
    # And for guesses that go beyond an answer's end.
    rows = len(prompt.token_ids) + 2 * len(answer)
    return {'layers': len(graph.layers), 'kv_heads': graph.num_key_heads,
            'head_size': graph.head_size, 'max_rows': rows}


def encode_with(parts: ModelParts) -> Encode:
    """Return what makes token ids as the vehicle will (planners/text.py, load_encode)."""
    tokenizer = parts.tokenizer.backend_tokenizer
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def _builder(parts: ModelParts, head: TextHead) -> PromptBuilder:
    _, *grid = parts.prompt.grid
    return PromptBuilder(head.prompt, encode_with(parts), parts.cameras, tuple(grid),
                         head.history_dt_s)


def prompt_inputs(
    graph: LanguageGraph, feeds: dict[str, np.ndarray], kept_tokens: np.ndarray,
    logit_rows: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Return the graph's inputs for the prefill of ``golden_feeds``."""
    shape = 0, len(graph.layers), 2, graph.num_key_heads, graph.head_size
    known = {**feeds, 'kept_tokens': kept_tokens, 'logit_rows': logit_rows,
             'cache': np.zeros(shape, np.float32)}
    return {name: torch.from_numpy(np.ascontiguousarray(known[name])) for name in INPUTS}


def block_example(
    graph: LanguageGraph, feeds: dict[str, np.ndarray], kept_tokens: np.ndarray
) -> dict[str, torch.Tensor]:
    """Return inputs to trace with: no size is zero or one, which exporters take for fixed."""
    prompt = prompt_inputs(graph, feeds, kept_tokens, np.array([0, 1]))
    return {**prompt, 'cache': prompt['cache'].new_zeros(7, *prompt['cache'].shape[1:])}


def same_weights(graph: LanguageGraph, path: Path) -> dict[str, str]:
    """
    Return the weights that an exported file lacks, each with the name of an equal one, or ''.

    The exporter keeps equal tensors once, such as norms that were never trained, and drops biases
    that are all zero ('').
    """
    # Tied tables have two names, the file knows one.
    file, weights = OnnxWeights(path), dict(graph.named_parameters(remove_duplicate=False))
    kept = [name for name in weights if name in file]

    def stands_for(name: str) -> str:
        if not weights[name].any():
            return ''
        return next(other for other in kept if torch.equal(weights[name], weights[other]))

    return {name: stands_for(name) for name in weights if name not in file}


def golden_logits(
    graph: LanguageGraph, feeds: dict[str, np.ndarray], kept_tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """Run prompt and block in torch; return prompt_logits (C,) and block_logits (n, C)."""
    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            out = graph(*(torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in INPUTS))
        return {name: value.numpy() for name, value in zip(OUTPUTS, out, strict=True)}

    return _prompt_and_block(run, graph, feeds, kept_tokens)


def frame_agreement(
    graph: LanguageGraph, feeds: dict[str, np.ndarray], kept_tokens: np.ndarray
) -> float:
    """Return which part of the answer's forced beginning the model would write by itself."""
    count, length = int(feeds['num_begin']), len(feeds['token_ids'])
    rows = np.arange(length - count - 1, length - 1)        # the row before each forced token
    everything = {**feeds, 'candidates': np.arange(len(graph.output))}
    with torch.inference_mode():
        logits, _ = graph(*prompt_inputs(graph, everything, kept_tokens, rows).values())
    return float((logits.argmax(1).numpy() == feeds['token_ids'][-count:]).mean())


def check_language(
    graph: LanguageGraph, feeds: dict[str, np.ndarray], path: Path, tolerance: float
) -> Difference:
    """Random tokens in the golden prompt, then a block behind it, which reads the cache."""
    session = cpu_session(path)
    num_kept = int(feeds['visual_rows'].max()) + 1
    kept = np.random.default_rng(5).standard_normal((num_kept, graph.embeddings.shape[1]))
    kept = kept.astype(np.float32)
    with in_float32(graph):
        expected = golden_logits(graph, feeds, kept)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(OUTPUTS, session.run(OUTPUTS, dict(inputs)), strict=True))

    found = _prompt_and_block(run, graph, feeds, kept)
    return check_outputs(path.stem, [(expected, found)], tolerance)


def _prompt_and_block(
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]], graph: LanguageGraph,
    feeds: dict[str, np.ndarray], kept_tokens: np.ndarray,
) -> dict[str, np.ndarray]:
    return run_language(run, {**feeds, 'kept_tokens': kept_tokens},
                        (len(graph.layers), 2, graph.num_key_heads, graph.head_size))
