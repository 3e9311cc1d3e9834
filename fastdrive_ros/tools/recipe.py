# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A recipe, YAML of plain `name: value`, and --set on top of it -> the settings of a training.

Every name is a field of a dataclass, whose type and explanation count; an unknown one is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import get_type_hints

import yaml

from fastdrive_ros.config import ConfigError
from fastdrive_ros.config import share_dir


def recipe_names() -> list[str]:
    """Return the recipes that come with the package."""
    return sorted(path.stem for path in (share_dir() / 'config' / 'train').glob('*.yaml'))


def read_recipe(recipe: str, overrides: Sequence[str], *kinds: type) -> tuple[Any, ...]:
    """
    Return one instance of each dataclass in ``kinds``.

    ``recipe`` is a name of recipe_names() or a YAML file, ``overrides`` are 'name=value'. Raises
    ConfigError for a name that no dataclass has, and for a value of another type.
    """
    given = {**_read(recipe), **dict(map(_override, overrides))}
    fields = {name: kind for kind in kinds for name in get_type_hints(kind)}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise ConfigError(f'{recipe}: no setting {", ".join(unknown)}; there are '
                          f'{", ".join(sorted(fields))}')
    return tuple(_build(kind, given, recipe) for kind in kinds)


def _read(recipe: str) -> dict[str, Any]:
    path = Path(recipe).expanduser()
    if recipe in recipe_names():
        path = share_dir() / 'config' / 'train' / f'{recipe}.yaml'
    elif not path.is_file():
        raise ConfigError(f"no recipe '{recipe}': give a YAML file, or one of "
                          f'{", ".join(recipe_names())}')
    try:
        settings = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f'expected YAML in {path}, found {error}') from error
    if not isinstance(settings, dict):
        raise ConfigError(f'expected lines of `name: value` in {path}, found {settings!r}')
    return settings


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition('=')
    if not equals:
        raise ConfigError(f"--set takes name=value, found '{text}'")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {name}: expected a value, found '{value}'") from error


def _build(kind: type, given: Mapping[str, Any], recipe: str) -> Any:
    hints = get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        if field.name in given:
            values[field.name] = _typed(field.name, given[field.name], hints[field.name])
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f'{recipe} must say {field.name}: add a line, or --set '
                              f'{field.name}=...')
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f'{recipe}: {error}') from error


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, str):
        try:
            value = float(value)  # YAML takes 1e-3 for a word: it wants 1.0e-3
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"setting '{name}' must be a {kind.__name__}, found {value!r}")
    return value
