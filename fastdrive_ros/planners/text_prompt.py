# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Ego history -> the prompt of this cycle, and kept tokens -> its rows.

The words are the manifest's: a checkpoint understands the sentences that it was trained with. A
kept token keeps the M-RoPE ids that it has in the full prompt (FastDriveVLA 3.4, Qwen2-VL eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.core.types import KeptTokens
from fastdrive_ros.planners.language import PromptRows

Encode = Callable[[str], Sequence[int]]
"""Text -> token ids, special tokens by their names, nothing added."""

IMAGE = '<|vision_start|><|image_pad|><|vision_end|>'


@dataclass(frozen=True)
class TextPrompt:
    """What is said to the model, as `config/prompts/*.yaml` and the manifest have it."""

    system: str
    """Empty: no system turn."""
    user: str
    """With {CAM_FRONT} ... where pictures go, {history} and {history_s}."""
    history_entry: str
    """With any of {age_s}, {x_m}, {y_m}, {yaw_rad}, {speed_mps}, {yaw_rate_radps}."""
    history_separator: str = ', '

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> TextPrompt:
        """Take the manifest's ``prompt``; its own keys and no others."""
        return cls(**section)

    def cameras(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return the cameras of ``known`` that the prompt shows, in the order of the text."""
        places = {name: self.user.find('{' + name + '}') for name in known}
        return tuple(sorted((n for n in known if places[n] >= 0), key=places.__getitem__))

    def text(self, cameras: Sequence[str], history: np.ndarray, history_dt_s: float) -> str:
        """Return Qwen's chat turns up to where the answer begins; rows as EGO_FEATURES."""
        known = history[history[:, EGO_FEATURES.index('valid')] > 0.5]
        ages_s = history_dt_s * np.arange(len(known) - 1, -1, -1.0)
        entries = [_entry(self.history_entry, row, age_s) for row, age_s in zip(known, ages_s)]
        user = self.user.format(
            **dict.fromkeys(cameras, IMAGE), history=self.history_separator.join(entries),
            history_s=f'{max(ages_s, default=0.0):.1f}')
        system = f'<|im_start|>system\n{self.system}<|im_end|>\n' if self.system else ''
        return (f'{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n')


def _entry(template: str, row: np.ndarray, age_s: float) -> str:
    values = dict(zip(EGO_FEATURES, row.tolist(), strict=True))
    values['yaw_rad'] = float(np.arctan2(values.pop('sin_yaw'), values.pop('cos_yaw')))
    # Adding zero makes -0.0 plain; rounding first makes -0.001 plain, too, with two decimals.
    plain = {name: round(value, 2) + 0.0 for name, value in values.items()}
    return template.format(age_s=age_s, **plain)


def longest_history(history_steps: int) -> np.ndarray:
    """Return float32 (history_steps, F) whose numbers are as long in a prompt as they get."""
    history = np.full((history_steps, len(EGO_FEATURES)), -888.88, np.float32)
    history[:, EGO_FEATURES.index('valid')] = 1.0
    return history


class PromptBuilder:
    """One bundle's prompt: tokenised every cycle, because the history is part of the text."""

    def __init__(self, prompt: TextPrompt, encode: Encode, cameras: Sequence[str],
                 grid: tuple[int, int], history_dt_s: float) -> None:
        """``cameras`` in the bundle's order, ``grid`` rows and columns of tokens in each."""
        self._prompt, self._encode, self._history_dt_s = prompt, encode, history_dt_s
        self._shown = prompt.cameras(cameras)
        self._camera_index = [cameras.index(name) for name in self._shown]
        self._grid, self._num_cameras = grid, len(cameras)
        (self._image_token,) = encode('<|image_pad|>')

    @property
    def num_tokens(self) -> int:
        """N of all cameras, shown or not."""
        return self._num_cameras * self._grid[0] * self._grid[1]

    def rows(self, kept: KeptTokens, history: np.ndarray, answer_ids: Sequence[int]) -> PromptRows:
        """
        Return the prompt and the beginning of its answer, ``answer_ids``, without dropped tokens.

        ``history`` float32 (history_steps, F) is an EgoState's.
        """
        text = self._prompt.text(self._shown, history, self._history_dt_s)
        ids = np.array([*self._encode(text), *answer_ids], np.int64)
        is_image = ids == self._image_token
        if is_image.sum() != len(self._shown):
            raise ValueError(f'expected {len(self._shown)} pictures in the prompt, found '
                             f'{is_image.sum()}: the tokenizer does not know <|image_pad|>')
        height, width = self._grid
        tokens = height * width
        positions, next_position = mrope_positions(ids, self._image_token, self._grid)
        # Each placeholder becomes one row a token; then only those of kept tokens stay.
        token_ids = np.repeat(ids, np.where(is_image, tokens, 1))
        places = np.full(len(token_ids), -1)                    # (L,): index among all N, or text
        places[token_ids == self._image_token] = np.concatenate(
            [camera * tokens + np.arange(tokens) for camera in self._camera_index])
        row_of = np.full(kept.num_tokens, -1)
        row_of[kept.indices] = np.arange(len(kept.indices))
        visual_rows = np.where(places >= 0, row_of[places], -1)
        stays = (places < 0) | (visual_rows >= 0)
        return PromptRows(token_ids[stays], visual_rows[stays], kept.tokens,
                          positions[:, stays], next_position)


def mrope_positions(token_ids: np.ndarray, image_token: int,
                    grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """
    Return M-RoPE ids int64 (3, L) of a prompt, each placeholder expanded, and the next one.

    Text counts up in all three; a picture stands still in time and counts rows and columns from
    where it begins; what follows goes on after the largest id so far (Qwen2-VL, 2.1).
    """
    height, width = grid
    row, column = (axis.ravel() for axis in np.mgrid[:height, :width])
    picture = np.stack([np.zeros_like(row), row, column])       # (3, height * width)
    parts, position = [], 0
    for token in token_ids:
        if token == image_token:
            parts.append(position + picture)
            position += max(height, width)
        else:
            parts.append(np.full((3, 1), position))
            position += 1
    return np.concatenate(parts, axis=1), position
