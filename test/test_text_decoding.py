# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Blocks and guesses change how often the model is asked, never what it answers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('tokenizers')
pytest.importorskip('torch')

from tiny_text import FORM  # noqa: E402
from tiny_text import encode  # noqa: E402
from tiny_text import encode_plain  # noqa: E402

from fastdrive_ros.core.types import EgoState  # noqa: E402
from fastdrive_ros.planners.language import PromptRows  # noqa: E402
from fastdrive_ros.planners.text_answer import AnswerGrammar  # noqa: E402
from fastdrive_ros.planners.text_decoding import Writer  # noqa: E402
from fastdrive_ros.planners.text_draft import Draft  # noqa: E402
from fastdrive_ros.planners.text_draft import LastPlan  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402

NUMBERS = ('4.01', '0.0', '8.02', '-0.11', '12.0', '-0.3', '16.05', '-0.52', '20.1', '-0.75',
           '24.12', '-1.04')


class Reciting:
    """A named stand-in for a LanguageModel: it writes one answer by heart."""

    def __init__(self, answer: tuple[int, ...], prompt_rows: int) -> None:
        self.answer, self.first = answer, prompt_rows
        self.num_rows, self.rows_read = 0, []

    def prefill(self, prompt: PromptRows, candidates: np.ndarray) -> np.ndarray:
        self.num_rows = self.first
        return self._logits(self.num_rows, candidates)

    def extend(self, token_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        rows = [self._logits(self.num_rows + i + 1, candidates) for i in range(len(token_ids))]
        self.num_rows += len(token_ids)
        self.rows_read.append(len(token_ids))
        return np.stack(rows)

    def forget(self, num_rows: int) -> None:
        assert num_rows <= self.num_rows
        self.num_rows = num_rows

    def _logits(self, rows: int, candidates: np.ndarray) -> np.ndarray:
        place = rows - self.first + self.start
        token = self.answer[place] if place < len(self.answer) else -1
        return np.where(candidates == token, 5.0, 0.0).astype(np.float32)


@pytest.fixture(scope='module', params=[encode, encode_plain], ids=['qwen', 'plain'])
def grammar(request: pytest.FixtureRequest) -> AnswerGrammar:
    return AnswerGrammar(FORM, request.param)


def recite(grammar: AnswerGrammar, numbers: tuple[str, ...]) -> tuple[Writer, Reciting]:
    writer = Writer(grammar)
    model = Reciting(tuple(grammar.encode(FORM.text(numbers))), 50)
    model.start = len(writer.begin.tokens)
    return writer, model


def ego_at(stamp_s: float, x_m: float, yaw_rad: float = 0.0) -> EgoState:
    half = yaw_rad / 2.0
    return EgoState(int(stamp_s * 1e9), 'map', (x_m, 3.0, 0.0),
                    (0.0, 0.0, float(np.sin(half)), float(np.cos(half))), yaw_rad, 8.0, 0.0, 0.0,
                    np.zeros((7, 7), np.float32))


def test_fixed_text_takes_no_pass_of_its_own(grammar: AnswerGrammar) -> None:
    writer, model = recite(grammar, NUMBERS)
    answer = writer.write(model, model.prefill(None, grammar.candidates))
    assert answer.numbers == NUMBERS
    # A pass stands for a place where something else could have been written.
    whole = len(grammar.encode(FORM.text(NUMBERS)))
    assert answer.num_passes < 0.75 * whole
    writer_again, again = recite(grammar, NUMBERS)
    singly = writer_again.write_singly(again, again.prefill(None, grammar.candidates))
    assert singly.numbers == NUMBERS
    assert singly.tokens == answer.tokens[:len(singly.tokens)]
    assert answer.num_passes < singly.num_passes == sum(again.rows_read)


def test_a_right_draft_is_confirmed_in_one_pass(grammar: AnswerGrammar) -> None:
    writer, model = recite(grammar, NUMBERS)
    points = np.array(NUMBERS, float).reshape(6, 2)
    answer = writer.write(model, model.prefill(None, grammar.candidates),
                          Draft(grammar, points).tokens, 200)
    assert answer.numbers == NUMBERS
    assert answer.num_passes == 1


@pytest.mark.parametrize('num_guessed', [1, 3, 8, 24, 200])
@pytest.mark.parametrize('error_m', [0.02, 0.4, 50.0, -50.0])
def test_a_wrong_draft_costs_passes_and_changes_nothing(
        grammar: AnswerGrammar, num_guessed: int, error_m: float) -> None:
    writer, model = recite(grammar, NUMBERS)
    points = np.array(NUMBERS, float).reshape(6, 2) + error_m
    logits = model.prefill(None, grammar.candidates)
    answer = writer.write(model, logits, Draft(grammar, points).tokens, num_guessed)
    assert answer.numbers == NUMBERS
    assert answer.num_read == sum(model.rows_read)


def test_a_small_shift_is_followed_after_the_first_points(grammar: AnswerGrammar) -> None:
    truth = np.array(NUMBERS, float).reshape(6, 2)
    slower = truth * 0.9                                     # the error grows with time
    passes = {}
    for name, guess in (('none', None), ('draft', Draft(grammar, slower).tokens)):
        writer, model = recite(grammar, NUMBERS)
        logits = model.prefill(None, grammar.candidates)
        answer = (writer.write(model, logits, guess, 24) if guess
                  else writer.write(model, logits))
        assert answer.numbers == NUMBERS
        passes[name] = answer.num_passes
    assert passes['draft'] < 0.6 * passes['none']


def test_logits_that_are_not_finite_are_an_error(grammar: AnswerGrammar) -> None:
    writer, model = recite(grammar, NUMBERS)
    with pytest.raises(EngineError, match='not finite'):
        writer.write(model, np.full(len(grammar.candidates), np.nan, np.float32))


def test_the_last_plan_is_seen_from_where_the_vehicle_is_now() -> None:
    last = LastPlan(0.5)
    last.remember(ego_at(10.0, 100.0), np.stack([4.0 * np.arange(1, 7), np.zeros(6)], axis=1))
    found = last.expected(ego_at(10.5, 104.0), 6)
    np.testing.assert_allclose(found, np.stack([4.0 * np.arange(1, 7), np.zeros(6)], axis=1),
                               atol=1e-9)
    turned = last.expected(ego_at(10.5, 104.0, np.pi / 2), 6)   # now looking to the left
    np.testing.assert_allclose(turned, np.stack([np.zeros(6), -4.0 * np.arange(1, 7)], axis=1),
                               atol=1e-9)


def test_an_old_plan_or_another_frame_is_no_draft() -> None:
    last = LastPlan(0.5)
    last.remember(ego_at(10.0, 100.0), np.full((6, 2), 77.0))
    np.testing.assert_allclose(last.expected(ego_at(12.0, 0.0), 2), [[4.0, 0.0], [8.0, 0.0]])
    np.testing.assert_allclose(last.expected(ego_at(9.0, 0.0), 2), [[4.0, 0.0], [8.0, 0.0]])
