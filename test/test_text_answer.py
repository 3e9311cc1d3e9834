# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Answers of text planners: read, written, and their form as a graph of tokens."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

pytest.importorskip('tokenizers')
pytest.importorskip('torch')

from tiny_text import FORM  # noqa: E402
from tiny_text import encode  # noqa: E402
from tiny_text import encode_plain  # noqa: E402

from fastdrive_ros.planners.text import waypoints_of  # noqa: E402
from fastdrive_ros.planners.text_answer import AnswerError  # noqa: E402
from fastdrive_ros.planners.text_answer import AnswerForm  # noqa: E402
from fastdrive_ros.planners.text_answer import AnswerGrammar  # noqa: E402
from fastdrive_ros.planners.text_decoding import Cursor  # noqa: E402


@pytest.fixture(scope='module', params=[encode, encode_plain], ids=['qwen', 'plain'])
def grammar(request: pytest.FixtureRequest) -> AnswerGrammar:
    return AnswerGrammar(FORM, request.param)


@pytest.mark.parametrize(('value', 'text'), [
    (1.5, '1.5'), (2.0, '2.0'), (-0.001, '0.0'), (-0.25, '-0.25'), (12.346, '12.35'),
    (0.1, '0.1'), (100.0, '100.0')])
def test_a_number_is_written_as_python_prints_a_rounded_one(value: float, text: str) -> None:
    assert FORM.number(value) == text


def test_an_answer_is_read_back() -> None:
    numbers = ('4.0', '0.0', '8.01', '-0.12', '12.0', '-0.3', '16.0', '-0.5', '20.0', '-0.75',
               '24.1', '-1.0')
    points = FORM.points(FORM.text(numbers))
    assert points.shape == (6, 2)
    assert points.ravel().tolist() == [float(number) for number in numbers]


def test_a_format_hint_and_more_points_than_asked_for_are_passed_over() -> None:
    text = '<PLANNING>in the form [x, y]: ' + ', '.join(f'[{i}.0, 0.0]' for i in range(9))
    assert FORM.points(text)[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(('text', 'message'), [
    ('<PLANNING>[1.0, 2.0]</PLANNING>', 'expected 6 waypoints, found 1'),
    ('I see a red light.', 'expected 6 waypoints, found 0'),
    ('[1.0, left]', 'expected pairs of numbers'),
    ('[1.0, 2.0, 3.0]', 'expected pairs of numbers'),
    (', '.join(['[nan, 1.0]'] * 6), 'expected finite waypoints')])
def test_what_is_no_answer_is_refused_and_never_zeros(text: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        FORM.points(text)


def test_every_answer_of_the_form_is_a_way_through_the_grammar(grammar: AnswerGrammar) -> None:
    generator = random.Random(0)
    for _ in range(300):
        numbers = tuple(FORM.number(generator.choice((0.05, 1.0, 30.0, 300.0))
                                    * generator.uniform(-1.0, 1.0)) for _ in range(12))
        cursor = Cursor(grammar.root)
        for token in grammar.encode(FORM.text(numbers)):
            if cursor.node.is_end:
                break
            assert token in cursor.node.edges, FORM.text(numbers)
            cursor = cursor.after(token, grammar.characters)
        assert cursor.node.is_end
        assert cursor.numbers == numbers


def test_every_way_through_the_grammar_is_an_answer_in_the_tokenizers_own_cut(
        grammar: AnswerGrammar) -> None:
    generator = random.Random(1)
    for _ in range(300):
        cursor = Cursor(grammar.root)
        while not cursor.node.is_end:
            cursor = cursor.after(generator.choice(list(cursor.node.edges)), grammar.characters)
        text = FORM.text(cursor.numbers)
        assert FORM.points(text).shape == (6, 2)
        assert cursor.tokens == tuple(grammar.encode(text))[:len(cursor.tokens)]
        assert set(cursor.tokens) <= set(grammar.candidates.tolist())
        assert all(len(n.lstrip('-').split('.')[0]) <= 3 for n in cursor.numbers)


def test_a_tokenizer_that_joins_digits_is_refused() -> None:
    with pytest.raises(AnswerError, match='keeps digits apart'):
        AnswerGrammar(FORM, lambda text: [hash(text) % 1000])
    words = {'[': 0, ' 3': 1, '5': 2, '3': 3, ',': 4}         # a blank joins one digit of ten

    def encode_joining(text: str) -> list[int]:
        return [words.get(part, 9) for part in re.findall(r' 3|.', text)]

    with pytest.raises(AnswerError, match='keeps digits apart'):
        AnswerGrammar(FORM, encode_joining)


def test_waypoints_look_along_the_way_and_keep_their_direction_at_a_stop() -> None:
    angle = np.linspace(0.0, 0.6, 7)[1:]
    circle = np.stack([20.0 * np.sin(angle), 20.0 * (1.0 - np.cos(angle))], axis=1)
    found = waypoints_of(circle, 0.0)
    np.testing.assert_allclose(found[:5, 2], angle[:5], atol=1e-9)     # chords round the middle
    stopped = waypoints_of(np.array([[2.0, 0.2], [3.0, 0.3], [3.0, 0.3], [3.01, 0.2]]), 0.0)
    assert stopped[3, 2] == stopped[2, 2] == stopped[1, 2] != 0.0
    assert waypoints_of(np.zeros((6, 2)), 0.0)[:, 2].tolist() == [0.0] * 6


def test_points_of_a_sensor_ahead_become_those_of_base_link() -> None:
    # base_link drives a quarter circle; a sensor 1 m ahead of it is what the answer tells of.
    yaw = np.linspace(0.0, np.pi / 2, 301)[1:]
    base = np.stack([10.0 * np.sin(yaw), 10.0 * (1.0 - np.cos(yaw))], axis=1)
    sensor = base + np.stack([np.cos(yaw) - 1.0, np.sin(yaw)], axis=1)
    found = waypoints_of(sensor[9::10], 1.0)[:-1]
    np.testing.assert_allclose(found[:, :2], base[9::10][:-1], atol=0.11)
    assert AnswerForm(before='', after='', num_waypoints=1).reference_x_m == 0.0
