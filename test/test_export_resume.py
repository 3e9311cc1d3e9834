# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""An export that is killed, altered, doubled or too large: what goes on, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from test_export import request_for  # noqa: E402
from tiny_checkpoint import write_checkpoint  # noqa: E402

from fastdrive_ros.learn import export  # noqa: E402
from fastdrive_ros.learn.export import export_bundle  # noqa: E402
from fastdrive_ros.learn.export import require_memory  # noqa: E402
from fastdrive_ros.learn.export_journal import Journal  # noqa: E402
from fastdrive_ros.learn.export_journal import only_export  # noqa: E402
from fastdrive_ros.learn.graphs import ExportError  # noqa: E402
from fastdrive_ros.runtime.bundle import load_bundle  # noqa: E402
from fastdrive_ros.runtime.bundle_writing import WORK_FOLDER  # noqa: E402
from fastdrive_ros.runtime.engine import EngineError  # noqa: E402
from fastdrive_ros.runtime.trt_build import require_build_memory  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


# An export of two steps, to kill: argv = checkpoint, out.
_EXPORT = """
import sys
from pathlib import Path
from types import SimpleNamespace
from test_export import request_for
from test_export_resume import only_first_steps
from fastdrive_ros.learn.export import export_bundle
only_first_steps()
export_bundle(request_for(Path(sys.argv[1]), Path(sys.argv[2])), lambda s: print(s, flush=True))
"""


def only_first_steps() -> None:
    """Leave out the planner, which takes as long as both others and is resumed like them."""
    export.STEPS = {name: export.STEPS[name] for name in ('vision_encoder', 'recon_pruner')}


def test_a_killed_export_goes_on_with_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the second step; the same request then keeps the first, and only that."""
    checkpoint, out = write_checkpoint(tmp_path / 'checkpoint'), tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, '-c', _EXPORT, checkpoint, out], stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "test"}',
             'OMP_NUM_THREADS': '1'},
    )
    assert process.stdout is not None
    assert any(line.startswith('step 2 of 2: recon_pruner') for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    partial = tmp_path / 'out.partial'
    (partial / 'recon_pruner.onnx').write_bytes(b'half')     # as a kill at another moment leaves
    before = (partial / 'vision_encoder.onnx').stat().st_mtime_ns
    monkeypatch.setattr(export, 'STEPS', export.STEPS)
    only_first_steps()
    monkeypatch.setattr(export, 'TOPK_LIMIT', 10)
    with monkeypatch.context() as full, pytest.raises(ExportError, match='MB of free space'):
        full.setattr(export.shutil, 'disk_usage', lambda path: SimpleNamespace(free=0))
        export_bundle(request_for(checkpoint, out), lambda line: None)
    lines: list[str] = []
    bundle = export_bundle(request_for(checkpoint, out), lines.append)
    assert f'going on in {partial}: finished and unaltered are vision_encoder' in lines
    assert not [line for line in lines if line.endswith('export vision_encoder')]
    assert [line for line in lines if line.endswith('export recon_pruner')]
    assert (bundle.path / 'vision_encoder.onnx').stat().st_mtime_ns == before
    note = 'only ONNX Runtime will run this bundle: TensorRT selects at most 3840 .*--height'
    assert any(re.search(note, line) for line in lines)
    load_bundle(out)
    assert not (out / WORK_FOLDER).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['checkpoint', 'out']


def begun(folder: Path, depends_on: dict[str, object]) -> Journal:
    """Return a journal with two finished steps of a file each."""
    journal = Journal(folder, depends_on)
    journal.take_up(['one', 'two', 'three'], lambda line: None)
    for step in ('one', 'two'):
        (folder / f'{step}.onnx').write_text(step)
        journal.finish(step, {'of': step})
    return journal


def taken_up(folder: Path, depends_on: dict[str, object]) -> tuple[list[str], list[str]]:
    """Return which steps a new export finds finished, and what it says."""
    journal, said = Journal(folder, depends_on), []
    journal.take_up(['one', 'two', 'three'], said.append)
    return [step for step in ('one', 'two', 'three') if journal.facts(step)], said


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_finished_steps_are_kept_and_leftovers_removed(tmp_path: Path) -> None:
    begun(tmp_path / 'p', {'checkpoint': 'a'})
    (tmp_path / 'p' / 'three.onnx.data').write_text('begun, not finished')
    kept, said = taken_up(tmp_path / 'p', {'checkpoint': 'a'})
    assert kept == ['one', 'two']
    assert said == [f'going on in {tmp_path / "p"}: finished and unaltered are one, two']
    assert files(tmp_path / 'p') == ['one.onnx', 'two.onnx']


@pytest.mark.parametrize('harm', ['alter', 'remove'])
def test_a_file_that_is_not_what_was_written_is_made_again(tmp_path: Path, harm: str) -> None:
    """And all that came after it."""
    begun(tmp_path / 'p', {'checkpoint': 'a'})
    first = tmp_path / 'p' / 'one.onnx'
    first.write_text('eno') if harm == 'alter' else first.unlink()
    assert taken_up(tmp_path / 'p', {'checkpoint': 'a'}) == ([], [])
    assert files(tmp_path / 'p') == []


def test_another_checkpoint_or_option_starts_anew_and_says_so(tmp_path: Path) -> None:
    begun(tmp_path / 'p', {'checkpoint': 'a', 'precision': 'bf16'})
    kept, said = taken_up(tmp_path / 'p', {'checkpoint': 'b', 'precision': 'fp32'})
    assert kept == []
    assert said == [f'{tmp_path / "p"} was begun with another checkpoint, precision: starting '
                    'anew']
    assert files(tmp_path / 'p') == []


def test_a_folder_without_a_journal_starts_anew(tmp_path: Path) -> None:
    begun(tmp_path / 'p', {})
    (tmp_path / 'p' / WORK_FOLDER / 'journal.json').write_text('{')
    kept, said = taken_up(tmp_path / 'p', {})
    assert kept == []
    assert 'has no journal of an export that could go on: starting anew' in said[0]


def test_what_an_export_depends_on(tmp_path: Path) -> None:
    """Weights, settings and every option that a graph follows from change it; names do not."""
    checkpoint = write_checkpoint(tmp_path / 'checkpoint')
    request = request_for(checkpoint, tmp_path / 'out')
    first = export._depends_on(request)

    def changed(**options: object) -> set[str]:
        found = export._depends_on(dataclasses.replace(request, **options))
        return {name for name, value in found.items() if first[name] != value}

    assert changed(name='other', out=tmp_path / 'x', force=True) == set()
    assert changed(precision='bf16', height=28) == {'precision', 'picture size'}
    assert changed(plan_pruner=request.pruner) == {'plan pruner'}
    config = json.loads((checkpoint / 'config.json').read_text())
    (checkpoint / 'config.json').write_text(json.dumps({**config, 'image_token_id': 5}))
    assert changed() == {'checkpoint', 'tokenizer or settings'}


def test_two_exports_to_one_place(tmp_path: Path) -> None:
    request = request_for(write_checkpoint(tmp_path / 'checkpoint'), tmp_path / 'out')
    with only_export(tmp_path / 'out.partial'):
        (tmp_path / 'out.partial').mkdir()
        with pytest.raises(ExportError, match='another export writes to .*out.partial right now'):
            export_bundle(request, lambda line: None)
        assert (tmp_path / 'out.partial').exists()
    assert not (tmp_path / 'out.partial.lock').exists()


def test_too_little_memory_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an export and for a build, in gigabytes."""
    require_memory(10**9, 10**9)
    with pytest.raises(ExportError, match=r'expected 9.0 GB of free memory, found 1.5 .*bf16'):
        require_memory(9 * 10**9, 15 * 10**8)
    request = request_for(write_checkpoint(tmp_path / 'checkpoint'), tmp_path / 'out')
    monkeypatch.setattr(export, 'available_bytes', lambda: 10**9)
    monkeypatch.setattr(export.ModelParts, 'parameters',
                        lambda self, text_planner=False: {
                            'vision': 10**9, 'pruner': 10**7, 'llm': 3 * 10**9})
    monkeypatch.setattr(export.ModelParts, 'stored_dtype', lambda self, part: torch.bfloat16)
    monkeypatch.setattr(export, 'require_space', lambda folder, needed: None)
    lines: list[str] = []
    with pytest.raises(ExportError, match=r'expected 16.9 GB of free memory, found 1.0 GB'):
        export_bundle(request, lines.append)
    assert any('needs 16.4 GB of disk, 16.9 GB of memory' in line for line in lines)
    with (tmp_path / 'planner.onnx').open('wb') as file:
        file.truncate(1 << 30)
    monkeypatch.setattr('fastdrive_ros.runtime.trt_build.external_data_files', lambda path: [])
    with pytest.raises(EngineError, match=r'building planner needs 3.3 GB .*found 2.0 GB'):
        require_build_memory(tmp_path / 'planner.onnx', 2 * 10**9)


def test_rivals_are_fp32_only(tmp_path: Path) -> None:
    request = request_for(write_checkpoint(tmp_path / 'checkpoint'), tmp_path / 'out')
    with pytest.raises(ExportError, match='--rivals .*--precision fp32'):
        export_bundle(dataclasses.replace(request, rivals=True, precision='bf16'), print)
