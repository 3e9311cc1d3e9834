# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A model bundle: folder -> verified Bundle (bundle_writing.py is the way back).

The manifest owns everything about the model (cameras and their order, image size, token grid,
horizon, precision, how it was trained, sha256 of every file). A bundle that differs from its
manifest in one byte is refused here, before any engine is built from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import NamedTuple

from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import TensorSpec
from fastdrive_ros.runtime.onnx_file import external_data_files
from fastdrive_ros.runtime.onnx_file import onnx_specs

FORMAT = 'fastdrive-bundle'
FORMAT_VERSION = 1
MANIFEST = 'manifest.json'

K_AS_VALUE = 'num_kept_tokens'
"""The input whose value, not size, is K."""
# A block of an answer is a few dozen rows at most; its candidates are digits and their separators.
_MOST_LOGIT_ROWS, _USUAL_CANDIDATES = 64, 24

# Dotted key -> type of what must be there; everything else in a manifest is for people.
_REQUIRED = {
    'name': str,
    'cameras': list,
    'image.height': int,
    'image.width': int,
    'tokens.grid_height': int,
    'tokens.grid_width': int,
    'tokens.per_camera': int,
    'tokens.total': int,
    'tokens.hidden_size': int,
    'precision': str,
    'pruner.method': str,
    'pruner.trained': bool,
    'planner.trained': bool,
    'planner.head': str,
    'planner.num_waypoints': int,
    'planner.dt_s': float,
    'planner.history_steps': int,
    'planner.history_dt_s': float,
    'graphs': dict,
    'golden.file': str,
    'golden.num_kept_tokens': int,
    'golden.tolerance.relative_l2': float,
    'golden.tolerance.kept_overlap': float,
    'files': dict,
}


class FreeSize(NamedTuple):
    """What a free dimension may be."""

    least: int
    usual: int
    """What an engine is tuned for."""
    most: int


class BundleError(EngineError):
    """A bundle cannot be used as it is: what was expected, what was found, what mends it."""


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are what its manifest says; made by ``load_bundle``."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model, for example 'nano'."""
        return self.manifest['name']

    @property
    def cameras(self) -> tuple[str, ...]:
        """Channel names (CAM_FRONT ...), in the order of the encoder's first axis."""
        return tuple(self.manifest['cameras'])

    @property
    def image_height(self) -> int:
        """Rows of the encoder's input."""
        return self.manifest['image']['height']

    @property
    def image_width(self) -> int:
        """Columns of the encoder's input."""
        return self.manifest['image']['width']

    @property
    def grid_height(self) -> int:
        """Token rows of one camera."""
        return self.manifest['tokens']['grid_height']

    @property
    def grid_width(self) -> int:
        """Token columns of one camera."""
        return self.manifest['tokens']['grid_width']

    @property
    def tokens_per_camera(self) -> int:
        """grid_height * grid_width."""
        return self.manifest['tokens']['per_camera']

    @property
    def encoded_per_camera(self) -> int:
        """How many tokens of a camera the encoder leaves; fewer with early pruning."""
        early = self.manifest.get('early_pruning')
        return early['tokens_per_camera'] if early else self.tokens_per_camera

    @property
    def num_tokens(self) -> int:
        """N: visual tokens of all cameras."""
        return self.manifest['tokens']['total']

    @property
    def hidden_size(self) -> int:
        """D: channels of one token."""
        return self.manifest['tokens']['hidden_size']

    @property
    def precision(self) -> str:
        """'fp32', 'fp16' or 'bf16': the type the graphs were exported in."""
        return self.manifest['precision']

    @property
    def arithmetic(self) -> str:
        """The precision for people, for example 'fp32', or 'fp32, int4 weights'."""
        kinds = {section['weights']['kind'] for section in self.manifest['graphs'].values()
                 if 'weights' in section}
        return ', '.join([self.precision, *(f'{kind} weights' for kind in sorted(kinds))])

    @property
    def planner(self) -> Mapping[str, Any]:
        """The manifest's planner section: head, horizon, history, prompt."""
        return self.manifest['planner']

    @property
    def pruner_method(self) -> str:
        """Pruning method that the bundle was made for, for example 'recon'."""
        return self.manifest['pruner']['method']

    @property
    def trained(self) -> bool:
        """Whether pruner and planner were both trained; False means waypoints say nothing."""
        return not self.untrained

    @property
    def untrained(self) -> str:
        """What follows from what was not trained, in words; empty when all was."""
        plans = ('the plan is not in the words of its training'
                 if self.planner['head'] == 'text' else 'the plan is kinematic extrapolation')
        kept = 'the kept tokens are arbitrary'
        return ', '.join(words for words, section in ((plans, 'planner'), (kept, 'pruner'))
                         if not self.manifest[section]['trained'])

    def graph_path(self, graph: str) -> Path:
        """Return the ONNX file of a graph, for example 'vision_encoder'."""
        return self.path / self._graph(graph)['file']

    def graph_specs(self, graph: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Return (inputs, outputs) of a graph as the manifest declares them."""
        section = self._graph(graph)
        return _specs(section['inputs']), _specs(section['outputs'])

    def free_sizes(self, graph: str) -> dict[str, FreeSize]:
        """
        Return what each free dimension of a graph may be.

        K kept tokens; S rows of a sequence; of a text planner P cached rows, R rows whose logits
        are wanted and C candidates (planners/language.py).
        """
        inputs, outputs = self.graph_specs(graph)
        names = {dim for spec in (*inputs, *outputs) for dim in spec.shape if isinstance(dim, str)}
        rows = self.planner['num_rows'] if names & {'S', 'P'} else 0
        known = {
            'K': FreeSize(1, max(1, self.num_tokens // 2), self.num_tokens),
            'S': FreeSize(1, max(1, rows // 2), rows),
            'P': FreeSize(0, rows // 2, rows),
            'R': FreeSize(1, 1, _MOST_LOGIT_ROWS),
            'C': FreeSize(1, _USUAL_CANDIDATES, self.planner.get('vocabulary_size', 1)),
        }
        return {name: known[name] for name in sorted(names | {'K'})}

    def profile(self, graph: str) -> dict[str, list[list[int]]]:
        """
        Return each input's least, usual and largest shape, of those with free dimensions.

        num_kept_tokens has values in the place of sizes: TensorRT takes K as a shape.
        """
        sizes = self.free_sizes(graph)
        profile = {}
        for spec in self.graph_specs(graph)[0]:
            shapes = [[sizes[d][i] if isinstance(d, str) else d for d in spec.shape]
                      for i in range(3)]
            if spec.name == K_AS_VALUE:
                shapes = [[size] for size in sizes['K']]
            elif not any(isinstance(dim, str) for dim in spec.shape):
                continue
            profile[spec.name] = shapes
        return profile

    def graph_sha256(self, graph: str) -> str:
        """Return one sha256 over a graph's ONNX file and the data files that it references."""
        path = self.graph_path(graph)
        names = [path.name, *external_data_files(path)]
        files = self.manifest['files']
        digests = '\n'.join(files[name]['sha256'] for name in names)
        return hashlib.sha256(digests.encode()).hexdigest()

    def _graph(self, graph: str) -> Mapping[str, Any]:
        try:
            return self.manifest['graphs'][graph]
        except KeyError:
            raise BundleError(
                f'{self.path} has no graph {graph!r}; it has {sorted(self.manifest["graphs"])}. '
                + mend(self.path)
            ) from None


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """
    Read and verify a bundle: format, version, every file's sha256, every graph's inputs/outputs.

    Raises BundleError on the first difference.
    """
    path = Path(path).expanduser()
    manifest = _read_manifest(path)
    _check_sections(path, manifest)
    bundle = Bundle(path, manifest)
    try:
        for name, entry in manifest['files'].items():
            _check_file(path, name, entry)
        _require_listed(bundle, manifest['golden']['file'], 'the manifest')
        for graph in manifest['graphs']:
            _check_graph(bundle, graph)
        _check_early_pruning(bundle)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f'expected whole entries of graphs and files in {path / MANIFEST}, found one where '
            f'{error} is missing or of another type. ' + mend(path)
        ) from error
    return bundle


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open('rb') as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def mend(path: Path) -> str:
    """Return what to do about a bundle that is not right."""
    return (
        f'Make it again with `fastdrive export --checkpoint CHECKPOINT --out {path}`, or copy it '
        'again whole.'
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise BundleError(
            f'expected a model bundle at {path}, found no such folder. ' + mend(path)
        )
    file = path / MANIFEST
    if not file.is_file():
        found = sorted(entry.name for entry in entries(path)) or 'an empty folder'
        raise BundleError(f'expected {MANIFEST} in {path}, found {found}. ' + mend(path))
    try:
        manifest = json.loads(file.read_text(encoding='utf-8'))
    except ValueError as error:
        raise BundleError(f'expected JSON in {file}, found {error}. ' + mend(path)) from error
    found = manifest.get('format') if isinstance(manifest, dict) else type(manifest).__name__
    if found != FORMAT:
        raise BundleError(f'expected format {FORMAT!r} in {file}, found {found!r}. ' + mend(path))
    version = manifest.get('format_version')
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        raise BundleError(
            f'expected format_version {FORMAT_VERSION} in {file}, found {version!r}. '
            + ('The bundle is newer than this fastdrive_ros: update that. ' if newer else '')
            + mend(path)
        )
    return manifest


def _check_sections(path: Path, manifest: Mapping[str, Any]) -> None:
    for dotted, kind in _REQUIRED.items():
        value: Any = manifest
        for key in dotted.split('.'):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, (int, float) if kind is float else kind):
            raise BundleError(
                f'expected {kind.__name__} at {dotted!r} in {path / MANIFEST}, found {value!r}. '
                + mend(path)
            )
    tokens = manifest['tokens']
    per_camera = tokens['grid_height'] * tokens['grid_width']
    total = per_camera * len(manifest['cameras'])
    if (tokens['per_camera'], tokens['total']) != (per_camera, total):
        raise BundleError(
            f'expected {per_camera} tokens per camera and {total} in all from the grid and the '
            f'cameras of {path / MANIFEST}, found {tokens["per_camera"]} and {tokens["total"]}. '
            + mend(path)
        )


def _check_early_pruning(bundle: Bundle) -> None:
    """Refuse a manifest that says other than its encoder, or an impossible number of tokens."""
    said = 'early_pruning' in bundle.manifest
    _, outputs = bundle.graph_specs('vision_encoder')
    done = any(spec.name == 'token_present' for spec in outputs)
    if said != done or not 1 <= bundle.encoded_per_camera <= bundle.tokens_per_camera:
        raise BundleError(
            f"expected 'early_pruning' with 1 to {bundle.tokens_per_camera} tokens_per_camera in "
            f'{bundle.path / MANIFEST} exactly where vision_encoder has the output token_present, '
            f'found {bundle.manifest.get("early_pruning")} and {_words(outputs)}. '
            + mend(bundle.path)
        )


def _check_file(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    file = path / name
    if not file.is_file():
        raise BundleError(f'expected the file {name} in {path}, found none. ' + mend(path))
    size = file.stat().st_size
    if size != entry['bytes']:
        raise BundleError(
            f'{file} was altered: expected {entry["bytes"]} bytes, found {size}. ' + mend(path)
        )
    digest = file_sha256(file)
    if digest != entry['sha256']:
        raise BundleError(
            f'{file} was altered: expected sha256 {entry["sha256"][:12]}..., found '
            f'{digest[:12]}... ' + mend(path)
        )


def _require_listed(bundle: Bundle, name: str, referrer: str) -> None:
    if name not in bundle.manifest['files']:
        raise BundleError(
            f'{referrer} of {bundle.path} references {name}, expected it among the files of '
            f'{MANIFEST}, found {sorted(bundle.manifest["files"])}. ' + mend(bundle.path)
        )


def _check_graph(bundle: Bundle, graph: str) -> None:
    path = bundle.graph_path(graph)
    _require_listed(bundle, path.name, f'graph {graph}')
    for name in external_data_files(path):
        _require_listed(bundle, name, path.name)
    for side, declared, found in zip(
        ('inputs', 'outputs'), bundle.graph_specs(graph), onnx_specs(path), strict=True
    ):
        if list(map(_fixed, declared)) != list(map(_fixed, found)):
            raise BundleError(
                f'{side} of {path} differ from the manifest: expected {_words(declared)}, found '
                f'{_words(found)}. ' + mend(bundle.path)
            )


def _specs(entries: list[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(e['name'], e['dtype'], tuple(e['shape'])) for e in entries)


def _fixed(spec: TensorSpec) -> tuple[str, str, tuple[int | None, ...]]:
    """Return a spec to compare by: exporters rename dynamic dimensions, so names do not count."""
    return spec.name, spec.dtype, tuple(d if isinstance(d, int) else None for d in spec.shape)


def _words(specs: tuple[TensorSpec, ...]) -> str:
    return ', '.join(f'{s.name} {s.dtype} [{", ".join(map(str, s.shape))}]' for s in specs)


def entries(path: Path) -> list[Path]:
    """Return what lies in a folder, or what lies in its place."""
    return list(path.iterdir()) if path.is_dir() else [path]
