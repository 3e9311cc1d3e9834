# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
`fastdrive bench text`: one text planner writes every plan of a bag in every way.

The same prefill, the same cache; only how the answer is written differs. One token a pass over
the whole vocabulary is what transformers' greedy `generate` does, without its Python; with the
checkpoint at hand, `generate` itself answers the same prompts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from fastdrive_ros.assemble import Assembly
from fastdrive_ros.assemble import build_pipeline
from fastdrive_ros.bags import Bag
from fastdrive_ros.bags import choose_preset
from fastdrive_ros.config import check_settings
from fastdrive_ros.config import read_preset
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners import PlannerOutput
from fastdrive_ros.planners.text import TextPlanner
from fastdrive_ros.planners.text_answer import AnswerError
from fastdrive_ros.planners.text_decoding import Answer
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.tools.hf_generate import HfWriter
from fastdrive_ros.tools.offline import OfflineDrive
from fastdrive_ros.tools.tables import print_table

GENERATE, PLAIN = "transformers' generate", 'greedy, whole vocabulary'
SINGLY, BLOCKS = 'grammar, one token a pass', 'blocks'
DRAFTS = (2, 4, 8, 16, 32)
END = '<|im_end|>'
_MAX_PLAIN_TOKENS = 200


@dataclass
class _Way:
    """How one way of writing did, plan by plan."""

    passes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    decode_ms: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)


class Comparison:
    """A planner that writes each answer in every way, a clock around each."""

    def __init__(self, planner: TextPlanner, vocabulary_size: int, tokenizer: Tokenizer,
                 reference: HfWriter | None) -> None:
        self.num_waypoints, self.dt_s = planner.num_waypoints, planner.dt_s
        self.ways: dict[str, _Way] = {}
        self.prefill_ms: list[float] = []
        self.reference_prefill_ms: list[float] = []
        self._reference = reference
        self._planner = planner
        self._tokenizer = tokenizer
        self._everything = np.arange(vocabulary_size)
        self._end = tokenizer.token_to_id(END)

    def plan(self, kept: KeptTokens, ego: EgoState, num_kept: int) -> PlannerOutput:
        """Write the plan in every way; return the one of blocks."""
        planner, model, writer = self._planner, self._planner.model, self._planner.writer
        start = time.perf_counter()
        logits = planner.prefill(kept, ego)
        self.prefill_ms.append(1e3 * (time.perf_counter() - start))
        rows, guess = model.num_rows, planner.draft(ego).tokens
        answer = self._timed(SINGLY, rows, lambda: writer.write_singly(model, logits), None)
        if self._reference:
            self._generate(self._reference, kept, ego, answer)
        self._timed(PLAIN, rows, self._greedy, answer)
        self._timed(BLOCKS, rows, lambda: writer.write(model, logits), answer)
        for count in DRAFTS:
            self._timed(f'blocks, {count} guessed', rows,
                        lambda: writer.write(model, logits, guess, count), answer)  # noqa: B023
        return planner.output(ego, answer, {})

    def _timed(self, name: str, rows: int, write: Callable[[], Answer],
               expected: Answer | None) -> Answer:
        self._planner.model.forget(rows)
        start = time.perf_counter()
        answer = write()
        self._note(name, 1e3 * (time.perf_counter() - start), answer, expected)
        return answer

    def _note(self, name: str, decode_ms: float, answer: Answer, expected: Answer | None) -> None:
        way = self.ways.setdefault(name, _Way())
        way.decode_ms.append(decode_ms)
        way.passes.append(answer.num_passes)
        way.tokens.append(answer.num_read)
        way.same.append(expected is None or answer.numbers == expected.numbers)

    def _generate(self, reference: HfWriter, kept: KeptTokens, ego: EgoState,
                  expected: Answer) -> None:
        """Let transformers answer; its first token belongs to the prefill."""
        tokens, prefill_ms, decode_ms = reference.write(self._planner.prompt(kept, ego))
        self.reference_prefill_ms.append(prefill_ms)
        passes = len(tokens) - 1
        self._note(GENERATE, decode_ms, Answer(tuple(tokens), self._numbers(tokens), passes,
                                               passes), expected)

    def _greedy(self) -> Answer:
        """Write whatever the model likes best, from behind the answer's beginning to its end."""
        model, writer = self._planner.model, self._planner.writer
        # The prefill's logits were of the grammar's tokens only: its last row once more.
        model.forget(model.num_rows - 1)
        tokens = [writer.begin.tokens[-1]]
        while len(tokens) <= _MAX_PLAIN_TOKENS and tokens[-1] != self._end:
            logits = model.extend(np.array(tokens[-1:]), self._everything)
            tokens.append(int(logits[0].argmax()))
        return Answer(tuple(tokens), self._numbers(tokens[1:]), len(tokens) - 1, len(tokens) - 1)

    def _numbers(self, tokens: list[int]) -> tuple[str, ...]:
        """Return the numbers of an answer without its beginning; none where it has no form."""
        text = self._tokenizer.decode([*self._planner.writer.begin.tokens, *tokens],
                                      skip_special_tokens=False)
        form = self._planner.grammar.form
        try:
            return tuple(map(form.number, form.points(text).ravel().tolist()))
        except AnswerError:
            return ()


def bench(path: Path, bundle: str, max_sets: int, text_backend: str = 'engine',
          checkpoint: Path | None = None) -> dict[str, Any]:
    """Drive over a bag; return the figures of every way."""
    with Bag(path) as bag:
        settings = check_settings({**read_preset(choose_preset(bag).preset), 'bundle': bundle,
                                   'text_backend': text_backend})
        assembly = build_pipeline(settings)
        try:
            return _bench(bag, assembly, settings, max_sets, checkpoint)
        finally:
            assembly.pipeline.close()


def _bench(bag: Bag, assembly: Assembly, settings: dict[str, Any], max_sets: int,
           checkpoint: Path | None) -> dict[str, Any]:
    planner = assembly.pipeline.planner
    if not isinstance(planner, TextPlanner):
        raise EngineError(f'expected a bundle whose planner writes text, found head '
                          f"'{assembly.bundle.planner['head']}' in {assembly.bundle.path}: export "
                          'one with --prompt')
    tokenizer = Tokenizer.from_file(str(assembly.bundle.path / 'tokenizer' / 'tokenizer.json'))
    reference = checkpoint and HfWriter(checkpoint, assembly.bundle, tokenizer.token_to_id(END),
                                        _MAX_PLAIN_TOKENS)
    comparison = Comparison(planner, assembly.bundle.planner['vocabulary_size'], tokenizer,
                            reference)
    assembly.pipeline.planner = comparison
    for _ in islice(OfflineDrive(bag, assembly, settings).cycles(), max_sets):
        pass
    if not comparison.prefill_ms:
        raise EngineError(f'no frame set of {bag.path} could be planned on: `fastdrive run` says '
                          'why')
    return {
        'bundle': assembly.bundle.name, 'backend': assembly.loaded.backend,
        'device': assembly.loaded.device, 'precision': assembly.bundle.arithmetic,
        'plans': len(comparison.prefill_ms), 'num_tokens': assembly.bundle.num_tokens,
        'keep_ratio': settings['keep_ratio'],
        'text_backend': settings['text_backend'], 'threads': settings['num_threads'],
        'prefill_ms': _spread(comparison.prefill_ms),
        'transformers': reference and {'on': reference.words, 'prefill_ms': _spread(
            comparison.reference_prefill_ms)},
        'ways': {name: {
            'passes': float(np.mean(way.passes)), 'tokens_read': float(np.mean(way.tokens)),
            'decode_ms': _spread(way.decode_ms), 'same_plans': int(sum(way.same)),
        } for name, way in comparison.ways.items()},
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {f'p{q}': float(np.percentile(values, q)) for q in (50, 95, 99)}


def print_report(result: dict[str, Any]) -> None:
    """Print the table; ratios are to plain decoding in the same run, transformers' if it ran."""
    theirs, ours = result['transformers'], result['prefill_ms']['p50']
    prefill = f'prefill p50 {ours:.1f} ms'
    if theirs:
        prefill += f", transformers' {theirs['prefill_ms']['p50']:.1f} ({theirs['on']})"
    plain = result['ways'][GENERATE if theirs else PLAIN]
    print_table(
        f'{result["bundle"]}: {result["plans"]} plans, N = {result["num_tokens"]}, keep '
        f'{result["keep_ratio"]:g}, {result["precision"]}, {result["backend"]} on '
        f'{result["device"]}, text_backend {result["text_backend"]}; {prefill}',
        ('answer written', 'passes', 'tokens read', 'p50 ms', 'p95 ms', 'faster', 'same plans'),
        [(name, f'{way["passes"]:.1f}', f'{way["tokens_read"]:.1f}',
          f'{way["decode_ms"]["p50"]:.1f}', f'{way["decode_ms"]["p95"]:.1f}',
          f'{plain["decode_ms"]["p50"] / way["decode_ms"]["p50"]:.2f} x',
          f'{way["same_plans"]} of {result["plans"]}')
         for name, way in result['ways'].items()])
