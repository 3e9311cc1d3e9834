# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What a text planner will probably write: the last plan, moved on to now.

A draft costs nothing when it is wrong (text_decoding.py asks the model about every token of it),
so it is simple: the last plan's points at the new times, in the new base_link; without one,
constant speed and turn rate. Where the model wrote something else, the rest is moved along.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastdrive_ros.core.trajectory import extrapolate
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.planners.text_answer import AnswerGrammar
from fastdrive_ros.planners.text_answer import Node
from fastdrive_ros.planners.text_decoding import Cursor

_MAX_AGE_S = 1.0
_MAX_PIECE = 8


class Draft:
    """The expected answer of one cycle; ``tokens`` is a Guess."""

    def __init__(self, grammar: AnswerGrammar, points_m: np.ndarray) -> None:
        """``points_m`` float (T, 2), as the answer's numbers are."""
        self._grammar = grammar
        self._expected = points_m.ravel()                       # (2 T,)

    def tokens(self, cursor: Cursor, count: int) -> Sequence[int]:
        """Return up to ``count`` tokens along the expected answer."""
        found: list[int] = []
        while len(found) < count and not cursor.node.is_end:
            further = self._further(cursor)
            if not further:
                break
            for token in further:
                cursor = cursor.after(token, self._grammar.characters)
            found += further
        return found[:count]

    def _further(self, cursor: Cursor) -> list[int]:
        """Return the next token, or the piece of fixed text that leads to the next number."""
        edges = cursor.node.edges
        if len(edges) == 1:
            return list(edges)
        last = len(cursor.numbers) - 1
        if cursor.in_number:
            text = self._text(cursor, last)
            if len(text) > len(cursor.numbers[last]):
                wanted = text[len(cursor.numbers[last])]
                if wanted == '-':
                    return _way_to(cursor.node, (last, '-'), self._grammar.characters)
                return [t for t in edges if self._grammar.characters.get(t) == wanted][:1]
        if last + 1 == len(self._expected):
            return [t for t in edges if edges[t].is_end][:1]
        sign = '-' if self._text(cursor, last + 1).startswith('-') else ''
        return _way_to(cursor.node, (last + 1, sign), self._grammar.characters)

    def _text(self, cursor: Cursor, number: int) -> str:
        """Return the expected text of a number, beginning as far as it is written."""
        value = self._expected[number]
        if number >= 2:
            # Where the model went on from the point before, the rest probably goes on too; what
            # it added grows with time.
            before, step = number - 2, number // 2
            written = float(cursor.numbers[before])
            value += (written - self._expected[before]) * (step + 1) / step
        text = self._grammar.form.number(value)
        partial = cursor.numbers[number] if number < len(cursor.numbers) else ''
        return text if text.startswith(partial) else self._nearest(partial, value)

    def _nearest(self, partial: str, value: float) -> str:
        """Return the number nearest to a value among those that begin like ``partial``."""
        form = self._grammar.form
        whole = partial if partial.lstrip('-') else partial + '0'
        whole = whole if '.' in whole else whole + '.'
        missing = form.max_decimals - len(whole.partition('.')[2])
        return whole + ('9' if abs(value) > abs(float(whole + '0')) else '0') * missing


class LastPlan:
    """Remembers the last answer, in the odometry's frame."""

    def __init__(self, dt_s: float) -> None:
        self._dt_s = dt_s
        self._ego: EgoState | None = None
        self._points_m = np.zeros((0, 2))

    def remember(self, ego: EgoState, points_m: np.ndarray) -> None:
        """Keep float (T, 2), in base_link at ``ego``."""
        self._ego, self._points_m = ego, points_m

    def expected(self, ego: EgoState, num_waypoints: int) -> np.ndarray:
        """Return float64 (T, 2): where the last plan would be at the times of the next one."""
        last = self._ego
        age_s = (ego.stamp_ns - last.stamp_ns) / 1e9 if last else -1.0
        if last is None or not 0.0 <= age_s <= _MAX_AGE_S or last.frame_id != ego.frame_id:
            return extrapolate(ego, num_waypoints, self._dt_s)[:, :2]
        way = np.vstack((np.zeros(2), self._points_m))          # (T + 1, 2)
        way = np.vstack((way, 2.0 * way[-1] - way[-2], 3.0 * way[-1] - 2.0 * way[-2]))
        times_s = age_s + self._dt_s * np.arange(1, num_waypoints + 1)
        known_s = self._dt_s * np.arange(len(way))
        there = np.stack([np.interp(times_s, known_s, way[:, axis]) for axis in (0, 1)], axis=1)
        in_frame = there @ _rotation(last.yaw_rad).T + last.position_m[:2]
        return (in_frame - ego.position_m[:2]) @ _rotation(ego.yaw_rad)


def _rotation(yaw_rad: float) -> np.ndarray:
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin], [sin, cos]])


def _way_to(node: Node, number: tuple[int, str], characters: dict[int, str]) -> list[int]:
    """Return the fixed text from a node to where a number begins."""
    ways: list[tuple[list[int], Node]] = [([], node)]
    while ways:
        way, here = ways.pop(0)
        for token, there in here.edges.items():
            if token in characters or len(way) == _MAX_PIECE:
                continue
            if there.begins == number:
                return [*way, token]
            ways.append(([*way, token], there))
    return []
