# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The answer of a text planner: its form as token ids, and its text as waypoints.

    <PLANNING>... [12.34, -0.05], [18.9, -0.12], ... </PLANNING>

Tokenizers of the Qwen family keep every digit apart, so the form is a small graph: digits, and
pieces of fixed text between numbers that depend on the sign only. Where one token alone may
follow, nothing needs to be asked of the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any

import numpy as np

from fastdrive_ros.planners.text_prompt import Encode

_DIGITS = '0123456789'
_SIGNS = '', '-'


class AnswerError(ValueError):
    """An answer that cannot be read: what was expected and what was found."""


@dataclass(frozen=True)
class AnswerForm:
    """How a checkpoint writes its waypoints, as `config/prompts/*.yaml` has it."""

    before: str
    """Up to the first bracket."""
    after: str
    """From the last bracket on."""
    num_waypoints: int
    min_decimals: int = 1
    max_decimals: int = 2
    max_digits: int = 3
    """Before the point."""
    reference_x_m: float = 0.0
    """The point that the waypoints are of, ahead of base_link (nuScenes LIDAR_TOP: 0.94)."""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> AnswerForm:
        """Take the manifest's ``answer``; its own keys and no others."""
        return cls(**section)

    def text(self, numbers: Sequence[str]) -> str:
        """Return a whole answer of 2 T numbers."""
        pairs = (f'[{x}, {y}]' for x, y in zip(numbers[::2], numbers[1::2], strict=True))
        return f'{self.before}{", ".join(pairs)}{self.after}'

    def number(self, value: float) -> str:
        """Write one coordinate as Python prints a rounded float, with the fewest decimals."""
        # Adding zero makes -0.0 plain.
        whole, _, decimals = f'{round(value, self.max_decimals) + 0.0:.9f}'.partition('.')
        decimals = decimals[:self.max_decimals].rstrip('0').ljust(self.min_decimals, '0')
        return f'{whole}.{decimals}'

    def points(self, text: str) -> np.ndarray:
        """
        Read float64 (T, 2); AnswerError where there are fewer, or something else.

        Never fills up and never answers zeros, as the published script does.
        """
        body = text.rpartition(self.before)[2] if self.before in text else text
        pairs = re.findall(r'\[([^\]]+)\]', body)
        numbers = [pair.split(',') for pair in pairs if pair.strip() != 'x, y']
        try:
            points = np.array([[float(x), float(y)] for x, y in numbers[:self.num_waypoints]])
        except ValueError as error:
            raise AnswerError(f'expected pairs of numbers, found {pairs}: {error}') from error
        if len(points) != self.num_waypoints:
            raise AnswerError(f'expected {self.num_waypoints} waypoints, found {len(points)} in '
                              f'{text[-200:]!r}')
        if not np.isfinite(points).all():
            raise AnswerError(f'expected finite waypoints, found {points.tolist()}')
        return points


@dataclass(repr=False, eq=False)
class Node:
    """
    A place in an answer: which tokens may follow, and where each of them leads.

    Without repr and eq of its own: both would walk all ways through the graph, which are many.
    """

    edges: dict[int, Node] = field(default_factory=dict)
    begins: tuple[int, str] | None = None
    """Number (of 2 T) and sign, where the next token is that number's first digit."""
    is_end: bool = False
    """The last number is whole: what follows says nothing more."""


class AnswerGrammar:
    """
    Every answer of one form, as a graph of tokens.

    A number is a sign, digits without a leading zero, a point and decimals. Between numbers stand
    pieces of fixed text, which the tokenizer may cut differently before a minus than before a
    digit; the graph has each in the cut that it has in a whole answer.
    """

    def __init__(self, form: AnswerForm, encode: Encode) -> None:
        """Raise AnswerError where the tokenizer does not keep digits apart."""
        self.form = form
        self.encode = encode
        self._digits = [self._token(digit) for digit in _DIGITS]
        self._point = self._token('.')
        self.characters = {self._point: '.', **dict(zip(self._digits, _DIGITS))}
        """Token -> what it adds to a number."""
        self._nodes: dict[tuple[int, str], Node] = {}
        self.root = Node()
        for sign in _SIGNS:
            head = tuple(encode(f'{form.before}[{sign}5'))[:-1]
            _lead(self.root, head, self._first_digit(0, sign))
        everywhere = [self.root, *self._nodes.values()]
        self.candidates = np.array(sorted(_tokens_from(everywhere)), np.int64)
        """int64 (C,): every token that the model is ever asked about."""

    def _token(self, text: str) -> int:
        ids = self._between_digits(text)
        if len(ids) != 1:
            raise AnswerError(f'expected a tokenizer with one token for {text!r} between digits, '
                              f'found {ids}: it cannot write numbers under a grammar')
        return ids[0]

    def _between_digits(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that stands between two digits."""
        digits = [tuple(self.encode(digit)) for digit in _DIGITS]
        ways = [tuple(self.encode(f'{digit}{text}{digit}')) for digit in _DIGITS]
        inside = {way[1:-1] for way in ways}
        if len(inside) > 1 or any(way != (*digit, *way[1:-1], *digit)
                                  for digit, way in zip(digits, ways, strict=True)):
            raise AnswerError(f"expected a tokenizer that keeps digits apart, found '0{text}0', "
                              f"'1{text}1', ... as tokens {ways}: it cannot write numbers under a "
                              'grammar')
        return inside.pop()

    def _first_digit(self, number: int, sign: str) -> Node:
        """Return where a number's first digit is written."""
        known = self._nodes.get((number, 'first' + sign))
        if known is None:
            known = self._nodes[number, 'first' + sign] = Node(begins=(number, sign))
            zero, *others = self._digits
            _lead(known, (zero, self._point), self._decimal(number, 0))
            for digit in others:
                _lead(known, (digit,), self._digit(number, 1))
        return known

    def _digit(self, number: int, written: int) -> Node:
        """Return where ``written`` digits stand before the point, the first of them no zero."""
        known = self._nodes.get((number, f'digits{written}'))
        if known is None:
            known = self._nodes[number, f'digits{written}'] = Node()
            _lead(known, (self._point,), self._decimal(number, 0))
            if written < self.form.max_digits:
                for digit in self._digits:
                    _lead(known, (digit,), self._digit(number, written + 1))
        return known

    def _decimal(self, number: int, written: int) -> Node:
        """Return where ``written`` decimals stand behind the point."""
        known = self._nodes.get((number, f'decimals{written}'))
        if known is None:
            known = self._nodes[number, f'decimals{written}'] = Node()
            if written < self.form.max_decimals:
                for digit in self._digits:
                    _lead(known, (digit,), self._decimal(number, written + 1))
            if written >= self.form.min_decimals:
                self._close(known, number)
        return known

    def _close(self, node: Node, number: int) -> None:
        """Let the next number follow, or the end."""
        if number + 1 == 2 * self.form.num_waypoints:
            # One digit stands for the text's end: it may not change how the rest is cut.
            closing = self._between_digits(']' + self.form.after)
            _lead(node, closing[:1], Node(is_end=True))
            node.is_end = len(node.edges) == 1
            return
        between = ', ' if number % 2 == 0 else '], ['
        for sign in _SIGNS:
            _lead(node, self._between_digits(between + sign), self._first_digit(number + 1, sign))


def _lead(node: Node, tokens: Sequence[int], target: Node) -> None:
    """Let ``tokens`` lead from a node to another, over nodes that other pieces share."""
    for token in tokens[:-1]:
        node = node.edges.setdefault(token, Node())
    if node.edges.setdefault(tokens[-1], target) is not target:
        raise AnswerError('expected fixed text that tells the numbers apart, found two ways to '
                          'read the same tokens: is there a sign at the end of a fixed piece?')


def _tokens_from(nodes: Sequence[Node]) -> set[int]:
    found, waiting, seen = set(), list(nodes), set()
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            found |= set(node.edges)
            waiting += node.edges.values()
    return found
