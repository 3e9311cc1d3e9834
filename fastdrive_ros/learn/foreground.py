# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What to look for in a picture, and how the finds become one mask: config/foreground.yaml.

    boxes with classes, masks bool (H, W) each  ->  class ids uint8 (H, W) of core/classes.py
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fastdrive_ros.core.classes import CLASSES
from fastdrive_ros.data.records import DataError

BACKGROUND = CLASSES.index('UNLABELED')
# Grounding DINO separates phrases at these characters.
_SEPARATORS = '.?'
_OF_A_CLASS = ('class', 'prompts', 'box_threshold', 'text_threshold')


@dataclass(frozen=True)
class Sought:
    """One class, the words for it, and how sure the detector must be."""

    name: str
    """A name of core.classes.CLASSES."""
    prompts: tuple[str, ...]
    box_threshold: float
    """The best word of a phrase reaches it."""
    text_threshold: float
    """The words of a phrase reach it on average."""


@dataclass(frozen=True)
class Box:
    """One find of the detector."""

    name: str
    """A name of core.classes.CLASSES."""
    score: float
    """Mean of the phrase's tokens, 0..1."""
    corners_px: tuple[float, float, float, float]
    """x0, y0, x1, y1 within the picture."""


@dataclass(frozen=True)
class ForegroundConfig:
    """The whole file; the fields' meaning is written beside them there."""

    box_threshold: float
    text_threshold: float
    duplicate_iou: float
    pictures_per_batch: int
    boxes_per_batch: int
    classes: tuple[Sought, ...]
    """In the order they are painted."""

    def phrases(self) -> list[tuple[str, Sought]]:
        """Return (phrase, its class) in the order the detector reads them."""
        return [(phrase, sought) for sought in self.classes for phrase in sought.prompts]

    def text(self) -> str:
        """Return what the detector reads: phrases in lower case, a dot after each."""
        return ' '.join(f'{phrase}.' for phrase, _ in self.phrases())

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, all that changes a label; batch sizes do not."""
        return {'duplicate_iou': self.duplicate_iou,
                'painted': [sought.name for sought in self.classes],
                **{sought.name: {'prompts': list(sought.prompts),
                                 'box_threshold': sought.box_threshold,
                                 'text_threshold': sought.text_threshold}
                   for sought in self.classes}}


def read_foreground(file: Path) -> ForegroundConfig:
    """Read and check the file; DataError says which field is wrong, and why."""
    try:
        tree = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f'cannot read the foreground config {file}: {error}') from error
    try:
        return _config(tree)
    except DataError as error:
        raise DataError(f'{file}: {error}') from error


def distinct(boxes: np.ndarray, scores: np.ndarray, duplicate_iou: float) -> np.ndarray:
    """
    Return the indices of boxes that repeat no better-scoring one, best first.

    boxes float (N, 4) as x0, y0, x1, y1; scores float (N,), ties to the lower index.
    """
    kept: list[int] = []
    for index in np.argsort(-scores, kind='stable'):
        if not kept or _iou(boxes[index], boxes[kept]).max() <= duplicate_iou:
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def paint(height: int, width: int, order: Sequence[str],
          areas: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """
    Return uint8 (height, width) class ids: areas of classes named later in ``order`` on top.

    areas: (class, bool (height, width)) in any order; a class that ``order`` lacks is an error.
    """
    mask = np.full((height, width), BACKGROUND, dtype=np.uint8)
    for name, area in sorted(areas, key=lambda named: order.index(named[0])):
        if area.shape != mask.shape:
            raise ValueError(f'the picture is {width}x{height}, a mask of {name} is '
                             f'{area.shape[1]}x{area.shape[0]}')
        mask[area] = CLASSES.index(name)
    return mask


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (N,) intersections over unions of one box (4,) with others (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0.0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return shared / np.maximum(union, 1e-9)


def _config(tree: Any) -> ForegroundConfig:
    names = tuple(field.name for field in fields(ForegroundConfig))
    _check_keys(tree, names, 'the file')
    missing = [name for name in names if name not in tree]
    if missing:
        raise DataError(f"{', '.join(missing)} missing: start from config/foreground.yaml of "
                        'fastdrive_ros, which has every field')
    box, text = _share(tree, 'box_threshold'), _share(tree, 'text_threshold')
    if not isinstance(tree['classes'], list) or not tree['classes']:
        raise DataError('classes must be a list with at least one class')
    classes = tuple(_sought(entry, {'box_threshold': box, 'text_threshold': text})
                    for entry in tree['classes'])
    _check_once('class', [sought.name for sought in classes])
    _check_once('prompt', [prompt for sought in classes for prompt in sought.prompts])
    return ForegroundConfig(box, text, _share(tree, 'duplicate_iou'),
                            _count(tree, 'pictures_per_batch'), _count(tree, 'boxes_per_batch'),
                            classes)


def _sought(entry: Any, usual: Mapping[str, float]) -> Sought:
    _check_keys(entry, _OF_A_CLASS, 'an entry of classes')
    name = entry.get('class')
    known = [known for known in CLASSES if known != 'UNLABELED']
    if name not in known:
        raise DataError(f"unknown class {name!r}, there are {', '.join(known)}")
    prompts = entry.get('prompts')
    if not isinstance(prompts, list) or not prompts:
        raise DataError(f'class {name} needs a list of prompts, found {prompts!r}: nothing can '
                        'be looked for without words')
    for prompt in prompts:
        _check_prompt(name, prompt)
    thresholds = {field: _share({**usual, **entry}, field, f' of class {name}')
                  for field in usual}
    if thresholds['text_threshold'] > thresholds['box_threshold']:
        raise DataError(f'class {name}: text_threshold {thresholds["text_threshold"]:g} is above '
                        f'box_threshold {thresholds["box_threshold"]:g}; it must not be, the '
                        "average of a phrase's words is never above its best word")
    return Sought(name, tuple(prompts), **thresholds)


def _check_prompt(name: str, prompt: Any) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f'class {name} has an empty prompt: {prompt!r}')
    if prompt != ' '.join(prompt.lower().split()) or set(_SEPARATORS) & set(prompt):
        raise DataError(f"class {name}: prompt {prompt!r} must be in lower case, words one space "
                        "apart, without '.' and '?', which separate prompts")


def _check_keys(tree: Any, known: Sequence[str], what: str) -> None:
    if not isinstance(tree, Mapping):
        raise DataError(f"{what} must be fields ({', '.join(known)}), found "
                        f'{type(tree).__name__}')
    unknown = [str(key) for key in tree if key not in known]
    if unknown:
        raise DataError(f"unknown field {', '.join(unknown)} in {what}, there are "
                        f"{', '.join(known)}")


def _check_once(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{what} {', '.join(twice)} is there more than once: once is enough")


def _share(tree: Mapping[str, Any], field: str, where: str = '') -> float:
    value = tree[field]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise DataError(f'{field}{where} must be above 0 and at most 1, found {value!r}')
    return float(value)


def _count(tree: Mapping[str, Any], field: str) -> int:
    value = tree[field]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f'{field} must be a whole number from 1, found {value!r}')
    return value
