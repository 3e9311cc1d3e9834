# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
An evaluation's folder: what it is of, and a file of facts a scene, each there whole or not.

    OUT/evaluation.json     all that decides the numbers; another setting is another folder
    OUT/scenes/NAME.npz     'scene/known' ..., 'row/nano/recon@0.5/error_m' ...
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fastdrive_ros.data.records import DataError
from fastdrive_ros.metrics.protocols import RowFacts
from fastdrive_ros.metrics.protocols import SceneFacts

IDENTITY, SCENES = 'evaluation.json', 'scenes'
PLANNERS = 'planners'
_PARTIAL = '.partial'


@dataclass(frozen=True)
class SceneResult:
    """What is known of one scene."""

    name: str
    left_out: int
    """Frames without a usable picture, or that the odometry does not reach."""
    facts: SceneFacts
    rows: Mapping[str, RowFacts] = field(default_factory=dict)


class EvaluationStore:
    """The folder of one evaluation; one process writes it."""

    def __init__(self, root: Path, fixed: Mapping[str, Any],
                 planners: Mapping[str, str]) -> None:
        """
        Begin the folder, or go on with it.

        ``fixed`` decides the numbers of all rows; ``planners`` says by name which bundle is
        meant, and more may join. Raises DataError when the folder was begun for something else.
        """
        self.root = root
        (root / SCENES).mkdir(parents=True, exist_ok=True)
        path = root / IDENTITY
        wanted = json.loads(json.dumps({**fixed, PLANNERS: planners}))
        found = _read_identity(path) if path.exists() else {**wanted, PLANNERS: {}}
        whole = {**wanted, PLANNERS: {**wanted[PLANNERS], **found[PLANNERS]}}
        _refuse_differences(path, {**found, PLANNERS: whole[PLANNERS]},
                            {**wanted, PLANNERS: {**found[PLANNERS], **wanted[PLANNERS]}})
        write_whole(path, (json.dumps(whole, indent=1) + '\n').encode())

    @classmethod
    def opened(cls, root: Path) -> tuple[EvaluationStore, dict[str, Any]]:
        """Open a folder that is there, for what it is of; also return that (evaluation.json)."""
        path = root / IDENTITY
        if not path.is_file():
            raise DataError(f'{root} is no evaluation (no {IDENTITY} in it): `fastdrive evaluate '
                            '--out` makes one')
        identity = _read_identity(path)
        fixed = {name: value for name, value in identity.items() if name != PLANNERS}
        return cls(root, fixed, identity[PLANNERS]), identity

    def results(self) -> Iterator[SceneResult]:
        """Yield every scene that is there, by name."""
        for path in sorted((self.root / SCENES).glob('*.npz')):
            result = self.read(path.stem)
            assert result is not None
            yield result

    def read(self, scene: str) -> SceneResult | None:
        """Return what is there of a scene, if anything; raises DataError for a damaged file."""
        path = self._path(scene)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return _unpacked(scene, dict(arrays))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f'{path} is damaged ({error}): remove it and run the same command, '
                            'the scene is evaluated again') from error

    def add(self, result: SceneResult) -> None:
        """Keep a scene's new rows beside those that are there."""
        before = self.read(result.name)
        rows = {**(before.rows if before else {}), **result.rows}
        whole = SceneResult(result.name, result.left_out, result.facts, rows)
        write_whole(self._path(result.name), lambda stream: np.savez_compressed(
            stream, **_packed(whole)))

    def missing(self, scene: str, rows: Iterable[str]) -> list[str]:
        """Return which rows a scene lacks."""
        there = self.read(scene)
        return [row for row in rows if there is None or row not in there.rows]

    def _path(self, scene: str) -> Path:
        return self.root / SCENES / f'{scene}.npz'


def write_whole(path: Path, content: bytes | Callable[[Any], None]) -> None:
    """Write a file that is there whole or not at all, whenever this process ends."""
    staging = path.with_name(path.name + _PARTIAL)
    try:
        with staging.open('wb') as stream:
            if isinstance(content, bytes):
                stream.write(content)
            else:
                content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def _packed(result: SceneResult) -> dict[str, np.ndarray]:
    arrays = {f'scene/{item.name}': getattr(result.facts, item.name)
              for item in fields(SceneFacts)}
    arrays['left_out'] = np.asarray(result.left_out)
    for name, row in result.rows.items():
        arrays |= {f'row/{name}/{item.name}': getattr(row, item.name) for item in fields(RowFacts)}
    return arrays


def _unpacked(scene: str, arrays: Mapping[str, np.ndarray]) -> SceneResult:
    last = fields(RowFacts)[-1].name
    names = [key.removeprefix('row/').removesuffix(f'/{last}') for key in arrays
             if key.startswith('row/') and key.endswith(f'/{last}')]
    return SceneResult(
        scene, int(arrays['left_out']),
        SceneFacts(**{item.name: arrays[f'scene/{item.name}'] for item in fields(SceneFacts)}),
        {name: RowFacts(**{item.name: arrays[f'row/{name}/{item.name}']
                           for item in fields(RowFacts)}) for name in names})


def _read_identity(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise DataError(f'{path} is not JSON ({error}): choose a new --out') from error
    if not isinstance(found, dict) or not isinstance(found.get(PLANNERS), dict):
        raise DataError(f'{path} is not of an evaluation: choose a new --out')
    return found


def _refuse_differences(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [f'{name}: {json.dumps(found.get(name))}, now {json.dumps(wanted.get(name))}'
                 for name in sorted(found.keys() | wanted.keys())
                 if found.get(name) != wanted.get(name)]
    if different:
        raise DataError(f"{path.parent} is an evaluation of something else "
                        f"({'; '.join(different)}): numbers of both must not be mixed, choose "
                        'another --out, or ask for the same to go on with it')
