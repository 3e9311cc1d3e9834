# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A prompt file (config/prompts/*.yaml) -> what a text planner is asked and how it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import TypeVar

import numpy as np
import yaml

from fastdrive_ros.core.types import EGO_FEATURES
from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.planners.text_answer import AnswerForm
from fastdrive_ros.planners.text_prompt import TextPrompt

Section = TypeVar('Section', TextPrompt, AnswerForm)
_TIMES = {'dt_s': float, 'history_steps': int, 'history_dt_s': float}


@dataclass(frozen=True)
class TextHead:
    """All that a bundle says of its text planner but the model's own sizes."""

    prompt: TextPrompt
    answer: AnswerForm
    dt_s: float
    """Between waypoints."""
    history_steps: int
    history_dt_s: float

    def section(self) -> dict[str, Any]:
        """Return its part of the manifest's ``planner``."""
        return {'head': 'text', 'num_waypoints': self.answer.num_waypoints,
                **dataclasses.asdict(self)}


def read_prompt_file(path: Path, cameras: Sequence[str]) -> TextHead:
    """Read and check a file; ExportError names what is missing, unknown or of another type."""
    try:
        raw = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError) as error:
        raise ExportError(f'expected a prompt file at {path}, cannot read it: {error}. '
                          'config/prompts/ has examples') from error
    if not isinstance(raw, dict):
        raise ExportError(f'expected a prompt file with the keys prompt and answer at {path}, '
                          f'found {type(raw).__name__}. config/prompts/ has examples')
    if odd := set(raw) ^ {'prompt', 'answer', *_TIMES}:
        raise ExportError(f'expected exactly the keys prompt, answer, {", ".join(_TIMES)} in '
                          f'{path}, missing or unknown: {", ".join(sorted(map(str, odd)))}')
    times = {name: _number(path, name, raw[name], kind) for name, kind in _TIMES.items()}
    head = TextHead(_section(path, TextPrompt, raw['prompt']),
                    _section(path, AnswerForm, raw['answer']), **times)
    if set(shown := head.prompt.cameras(cameras)) != set(cameras):
        raise ExportError(f'expected the cameras {", ".join(cameras)} in braces in the user text '
                          f'of {path}, found {", ".join(shown) or "none"}: write {{CAM_FRONT}} '
                          'where its picture goes, or choose others with --cameras')
    try:
        head.prompt.text(cameras, np.zeros((1, len(EGO_FEATURES))), head.history_dt_s)
    except (KeyError, IndexError, ValueError) as error:
        raise ExportError(f'expected {{camera}}, {{history}}, {{history_s}} in the user text and '
                          f'fields of the ego state in history_entry of {path}, found something '
                          f'else in braces: {error!r}') from error
    return head


def shown_cameras(path: Path, known: Sequence[str]) -> tuple[str, ...]:
    """Return which of ``known`` a prompt file shows, in the order of ``known``."""
    try:
        text = path.read_text(encoding='utf-8')
    except OSError as error:
        raise ExportError(f'expected a prompt file at {path}, cannot read it: {error}. '
                          'config/prompts/ has examples') from error
    return tuple(name for name in known if '{' + name + '}' in text)


def _number(path: Path, name: str, value: object, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value > 0:
        raise ExportError(f'expected {name} above 0 in {path}, found {value!r}')
    return kind(value)


def _section(path: Path, kind: type[Section], raw: object) -> Section:
    """Make ``kind`` of a mapping with its fields."""
    name = 'prompt' if kind is TextPrompt else 'answer'
    if not isinstance(raw, Mapping):
        raise ExportError(f'expected a mapping under {name} in {path}, found {raw!r}')
    known = {field.name: field for field in dataclasses.fields(kind)}
    needed = {n for n, field in known.items() if field.default is dataclasses.MISSING}
    if odd := (set(raw) - set(known)) | (needed - set(raw)):
        raise ExportError(f'expected {", ".join(known)} under {name} in {path}, missing or '
                          f'unknown: {", ".join(sorted(map(str, odd)))}')
    types = {'str': str, 'int': int, 'float': (int, float)}
    for key, value in raw.items():
        wanted = types[str(known[key].type)]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ExportError(f'expected {known[key].type} at {name}.{key} in {path}, found '
                              f'{value!r}')
    return kind.of(raw)
