# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What an export has finished so far, in ``<out>.partial``, so that a killed one goes on.

A step counts only when the journal says so, with the sha256 of every file of it, and the files are
still those. All else in the folder is removed. The journal names what the export depends on; one
of another checkpoint, option or version is no use, and its files are removed, too.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastdrive_ros.learn.graphs import ExportError
from fastdrive_ros.runtime.bundle import file_sha256
from fastdrive_ros.runtime.bundle_writing import WORK_FOLDER

_JOURNAL = 'journal.json'


class Journal:
    """The finished steps in a folder, each with its files and its facts (JSON)."""

    def __init__(self, folder: Path, depends_on: Mapping[str, Any]) -> None:
        """Name the folder and what its content depends on; ``take_up`` reads what is there."""
        self.folder = folder
        self._depends_on = json.loads(json.dumps(depends_on))
        self._path = folder / WORK_FOLDER / _JOURNAL
        self._steps: dict[str, dict[str, Any]] = {}

    def take_up(self, steps: list[str], report: Callable[[str], None]) -> None:
        """
        Keep what is finished of ``steps``, up to the first that is not, and remove all else.

        ``report`` is told what is kept, or why nothing is.
        """
        found = self._read(report) if self.folder.exists() else {}
        for step in steps:
            if step not in found or not self._unaltered(found[step]['files']):
                break
            self._steps[step] = found[step]
        if self._steps:
            report(f'going on in {self.folder}: finished and unaltered are '
                   + ', '.join(self._steps))
        self._remove_others()
        self._write()

    def facts(self, step: str) -> Mapping[str, Any] | None:
        """Return what a finished step left, None where it is not finished."""
        entry = self._steps.get(step)
        return None if entry is None else entry['facts']

    def finish(self, step: str, facts: Mapping[str, Any]) -> None:
        """Note a step as finished: every file that no step before it had is its own."""
        for path in self._new_files():
            with path.open('rb') as stream:
                os.fsync(stream.fileno())
        files = {self._name(path): file_sha256(path) for path in self._new_files()}
        self._steps[step] = {'files': files, 'facts': dict(facts)}
        self._write()

    def _read(self, report: Callable[[str], None]) -> dict[str, Any]:
        try:
            journal = json.loads(self._path.read_text(encoding='utf-8'))
            depends_on, steps = journal['depends_on'], journal['steps']
        except (OSError, ValueError, KeyError, TypeError):
            report(f'{self.folder} has no journal of an export that could go on: starting anew')
            return {}
        if depends_on != self._depends_on:
            changed = [name for name, value in self._depends_on.items()
                       if depends_on.get(name) != value]
            report(f'{self.folder} was begun with another {", ".join(changed) or "version"}: '
                   'starting anew')
            return {}
        return steps

    def _unaltered(self, files: Mapping[str, str]) -> bool:
        return all((self.folder / name).is_file() and file_sha256(self.folder / name) == digest
                   for name, digest in files.items())

    def _new_files(self) -> list[Path]:
        known = {name for entry in self._steps.values() for name in entry['files']}
        return [path for path in sorted(self.folder.rglob('*'))
                if path.is_file() and path != self._path and self._name(path) not in known]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _remove_others(self) -> None:
        for path in self._new_files():
            path.unlink()
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def _write(self) -> None:
        temporary = self._path.with_suffix('.tmp')
        with temporary.open('w', encoding='utf-8') as stream:
            json.dump({'depends_on': self._depends_on, 'steps': self._steps}, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self._path)


@contextmanager
def only_export(partial: Path) -> Iterator[None]:
    """Refuse a second export to one place; the kernel frees the lock however its holder ends."""
    path = partial.with_name(partial.name + '.lock')
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it removed the file in between: that lock locks nothing any more.
            current = path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino
        except BlockingIOError:
            current = False
        if not current:
            raise ExportError(
                f'another export writes to {partial} right now: wait for it, end it, or choose '
                'another --out'
            )
        try:
            yield
        finally:
            path.unlink()


def remove(partial: Path) -> None:
    """Leave nothing of an export that was refused."""
    shutil.rmtree(partial, ignore_errors=True)
