# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Head text: the model writes its waypoints, as Impromptu-VLA and its kin were trained to.

    ego history -> prompt;  prompt + kept tokens -> prefill;  -> decode -> six points -> waypoints
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners import PlannerOutput
from fastdrive_ros.planners.language import LanguageModel
from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.text_answer import AnswerError
from fastdrive_ros.planners.text_answer import AnswerForm
from fastdrive_ros.planners.text_answer import AnswerGrammar
from fastdrive_ros.planners.text_decoding import Answer
from fastdrive_ros.planners.text_decoding import Writer
from fastdrive_ros.planners.text_draft import Draft
from fastdrive_ros.planners.text_draft import LastPlan
from fastdrive_ros.planners.text_prompt import Encode
from fastdrive_ros.planners.text_prompt import PromptBuilder
from fastdrive_ros.planners.text_prompt import TextPrompt
from fastdrive_ros.planners.text_prompt import longest_history
from fastdrive_ros.runtime.engine import EngineError

# Between points closer than this a direction is noise: the vehicle stands and keeps its own.
_MIN_STEP_M = 0.25
# Tokens guessed ahead in one pass: few passes and little read in vain (docs/text_planner.md).
NUM_GUESSED = 8


class TextPlanner:
    """Prompt, prefill, decode; (T, 3) waypoints."""

    def __init__(self, manifest: Mapping[str, Any], model: LanguageModel, encode: Encode) -> None:
        """Take a bundle's manifest and what reads and writes tokens."""
        section, tokens = manifest['planner'], manifest['tokens']
        self.num_waypoints: int = section['num_waypoints']
        self.dt_s: float = section['dt_s']
        self.model = model
        self.grammar = AnswerGrammar(AnswerForm.of(section['answer']), encode)
        self.writer = Writer(self.grammar)
        self._prompt = PromptBuilder(
            TextPrompt.of(section['prompt']), encode, manifest['cameras'],
            (tokens['grid_height'], tokens['grid_width']), section['history_dt_s'])
        self._last = LastPlan(self.dt_s)

    def plan(self, kept: KeptTokens, ego: EgoState, num_kept: int) -> PlannerOutput:
        """Let the model write its answer and read it."""
        timer = StageTimer()
        with timer('prefill'):
            logits = self.prefill(kept, ego)
        with timer('answer'):
            answer = self.writer.write(self.model, logits, self.draft(ego).tokens, NUM_GUESSED)
        return self.output(ego, answer, timer.stage_ms)

    def prefill(self, kept: KeptTokens, ego: EgoState) -> np.ndarray:
        """Read this cycle's prompt; return the logits after it, (C,)."""
        return self.writer.prefill(self.model, self.prompt(kept, ego))

    def prompt(self, kept: KeptTokens, ego: EgoState) -> PromptRows:
        """Return this cycle's prompt with the beginning of its answer."""
        return self._prompt.rows(kept, ego.history, self.writer.begin.tokens)

    def prompt_rows(self, fewest: int, most: int, history_steps: int) -> tuple[int, int]:
        """Return how many rows the shortest and the longest prompt of such K have."""
        def rows(num_kept: int, history: np.ndarray) -> int:
            kept = KeptTokens(np.zeros((num_kept, 0), np.float32), np.arange(num_kept),
                              num_tokens=self._prompt.num_tokens)
            return len(self._prompt.rows(kept, history, self.writer.begin.tokens).token_ids)

        longest = longest_history(history_steps)
        return rows(fewest, np.zeros_like(longest)), rows(most, longest)

    def draft(self, ego: EgoState) -> Draft:
        """Return what will probably be written."""
        return Draft(self.grammar, self._last.expected(ego, self.num_waypoints))

    def output(self, ego: EgoState, answer: Answer,
               stage_ms: Mapping[str, float]) -> PlannerOutput:
        """Read an answer, and remember it for the next draft."""
        points_m = np.array(answer.numbers, np.float64).reshape(self.num_waypoints, 2)
        self._last.remember(ego, points_m)
        form = self.grammar.form
        return PlannerOutput(waypoints_of(points_m, form.reference_x_m), stage_ms,
                             text=form.text(answer.numbers))


def text_planner(manifest: Mapping[str, Any], folder: Path,
                 language: LanguageModel) -> TextPlanner:
    """Make the planner of a bundle in ``folder`` on its language model."""
    try:
        return TextPlanner(manifest, language, load_encode(folder / 'tokenizer'))
    except AnswerError as error:
        raise EngineError(f'the tokenizer in {folder} does not fit the answer: {error}') from error


def waypoints_of(points_m: np.ndarray, reference_x_m: float) -> np.ndarray:
    """
    Return float64 (T, 3), x_m, y_m, yaw_rad of base_link, of float (T, 2).

    The points are those of a place ``reference_x_m`` ahead of base_link, seen from where it is
    now; the direction is that of the way before and after a point.
    """
    way = np.vstack((np.zeros(2), points_m))                    # (T + 1, 2)
    step = np.vstack((way[2:], way[-1:])) - way[:-1]            # (T, 2): central differences
    heading = np.arctan2(step[:, 1], step[:, 0])
    yaw_rad, last = np.zeros(len(points_m)), 0.0
    for index, length_m in enumerate(np.hypot(*step.T)):
        last = yaw_rad[index] = heading[index] if length_m >= _MIN_STEP_M else last
    yaw_rad = np.unwrap(yaw_rad)
    ahead = reference_x_m * np.stack([1.0 - np.cos(yaw_rad), -np.sin(yaw_rad)], axis=1)
    return np.column_stack([points_m + ahead, yaw_rad])


def load_encode(folder: Path) -> Encode:
    """Return what makes token ids, of a bundle's tokenizer folder; EngineError if it cannot."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EngineError("planner head 'text' needs the package tokenizers: "
                          '`pip install tokenizers`') from error
    file = folder / 'tokenizer.json'
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises plain Exception
        raise EngineError(f'expected a tokenizer in {file}, cannot read it: {error}. Export the '
                          'bundle again.') from error
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
