# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
An answer, written with as few passes of the language model as its form allows.

Plain greedy decoding spends a pass on every token. Here

- fixed text is not asked for: it goes into the block of the next pass (jump-forward);
- guesses of the coming numbers go in behind it, and one pass says how many of them the model
  would have written itself (speculative decoding: greedy, so the answer stays the same);
- writing stops when the last number is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdrive_ros.planners.language import LanguageModel
from fastdrive_ros.planners.language import PromptRows
from fastdrive_ros.planners.text_answer import AnswerGrammar
from fastdrive_ros.planners.text_answer import Node
from fastdrive_ros.runtime.engine import EngineError


@dataclass(frozen=True)
class Cursor:
    """How far an answer has come."""

    node: Node
    tokens: tuple[int, ...] = ()
    numbers: tuple[str, ...] = ()
    """Text of every number begun so far."""
    in_number: bool = False

    def after(self, token: int, characters: dict[int, str]) -> Cursor:
        """Return the cursor one token further; ``characters`` are the grammar's."""
        node, numbers = self.node.edges[token], self.numbers
        in_number = self.in_number and token in characters
        if in_number:
            numbers = (*numbers[:-1], numbers[-1] + characters[token])
        if node.begins is not None:
            # Again for the same number where the tokenizer has the minus as a token of its own.
            number, sign = node.begins
            numbers, in_number = (*numbers[:number], sign), True
        return Cursor(node, (*self.tokens, token), numbers, in_number)


Guess = Callable[[Cursor, int], Sequence[int]]
"""Cursor, how many -> at most that many tokens that may follow it, each along the grammar."""


def no_guess(cursor: Cursor, count: int) -> Sequence[int]:
    """Guess nothing: blocks of fixed text only."""
    return ()


@dataclass(frozen=True)
class Answer:
    """What was written, and what it cost."""

    tokens: tuple[int, ...]
    numbers: tuple[str, ...]
    num_passes: int
    """Passes after the prefill."""
    num_read: int
    """Tokens that those passes read."""


class Writer:
    """Writes answers of one grammar."""

    def __init__(self, grammar: AnswerGrammar) -> None:
        self._grammar = grammar
        self.begin = self._forced(Cursor(grammar.root))
        """Where the first choice is; its tokens belong to the prompt."""

    def prefill(self, model: LanguageModel, prompt: PromptRows) -> np.ndarray:
        """Read a prompt that ends with ``begin.tokens``; return the logits after it, (C,)."""
        return model.prefill(prompt, self._grammar.candidates)

    def write(self, model: LanguageModel, logits: np.ndarray, guess: Guess = no_guess,
              num_guessed: int = 0) -> Answer:
        """Write the whole answer behind a prefill; EngineError where logits are not finite."""
        cursor, num_passes, num_read = self.begin, 0, 0
        while True:
            told = len(cursor.tokens)
            cursor = self._forced(self._step(cursor, self._best(cursor, logits)))
            if cursor.node.is_end:
                return Answer(cursor.tokens, cursor.numbers, num_passes, num_read)
            known = cursor.tokens[told:]
            guessed = tuple(guess(cursor, num_guessed)) if num_guessed else ()
            table = model.extend(np.array(known + guessed, np.int64), self._grammar.candidates)
            num_passes, num_read = num_passes + 1, num_read + len(known) + len(guessed)
            cursor, right = self._confirm(cursor, guessed, table[len(known) - 1:])
            if cursor.node.is_end:
                return Answer(cursor.tokens, cursor.numbers, num_passes, num_read)
            model.forget(model.num_rows - (len(guessed) - right))
            logits = table[len(known) - 1 + right]

    def write_singly(self, model: LanguageModel, logits: np.ndarray) -> Answer:
        """Write the same answer with one pass a token, for comparison."""
        cursor = Cursor(self._grammar.root)
        for token in self.begin.tokens:
            cursor = self._step(cursor, token)
        while not cursor.node.is_end:
            token = self._best(cursor, logits)
            cursor = self._step(cursor, token)
            if not cursor.node.is_end:
                logits = model.extend(np.array([token], np.int64), self._grammar.candidates)[0]
        passes = len(cursor.tokens) - len(self.begin.tokens) - 1
        return Answer(cursor.tokens, cursor.numbers, passes, passes)

    def _step(self, cursor: Cursor, token: int) -> Cursor:
        return cursor.after(token, self._grammar.characters)

    def _forced(self, cursor: Cursor) -> Cursor:
        """Go on over every token that alone may follow."""
        while len(cursor.node.edges) == 1 and not cursor.node.is_end:
            cursor = self._step(cursor, next(iter(cursor.node.edges)))
        return cursor

    def _best(self, cursor: Cursor, logits: np.ndarray) -> int:
        """Return the allowed token with the highest logit; ties to the lower id."""
        allowed = np.array(sorted(cursor.node.edges))
        found = logits[np.searchsorted(self._grammar.candidates, allowed)]
        if not np.isfinite(found).all():
            raise EngineError('the language model gave logits that are not finite: another '
                              'precision or backend, `fastdrive build` compares them')
        return int(allowed[np.argmax(found)])

    def _confirm(self, cursor: Cursor, guessed: Sequence[int],
                 table: np.ndarray) -> tuple[Cursor, int]:
        """Go on over the guesses that the model agrees with; return how many those are."""
        for right, token in enumerate(guessed):
            if cursor.node.is_end or self._best(cursor, table[right]) != token:
                return cursor, right
            cursor = self._step(cursor, token)
        return cursor, len(guessed)
