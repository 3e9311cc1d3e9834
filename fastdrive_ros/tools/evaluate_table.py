# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The summary of an evaluation -> a table on the terminal, and a page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from fastdrive_ros.metrics.protocols import FIGURES
from fastdrive_ros.tools.tables import print_table

_Entry = Mapping[str, Any]

PROTOCOLS = {
    'mean_box': 'mean_box (as Impromptu-VLA, after SparseDrive)',
    'any_cell': 'any_cell (as OmniDrive, after ST-P3)',
}
_MAIN = (('L2 avg m', 'l2_mean_avg', 3), ('collision mean_box %', 'collision_mean_box_avg', 2),
         ('collision any_cell %', 'collision_any_cell_avg', 2),
         ('boundary any_cell %', 'boundary_any_cell_avg', 2))
_TOKENS = (('foreground recall %', 'foreground_recall'),
           ('recall where it fits %', 'foreground_recall_fits'), ('frames that fit %', 'fits'),
           ('token recall %', 'foreground_token_recall'),
           ('kept that is foreground %', 'kept_foreground_share'), ('miss rate %', 'miss_rate'))
_HORIZONS = ('1s', '2s', '3s', 'avg')
_BY_HORIZON = (('l2_mean', 3), ('l2_at', 3), ('collision_mean_box', 2), ('collision_any_cell', 2),
               ('boundary_any_cell', 2))


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the main table, a planner after the other."""
    for planner, entries in _by_planner(summary['rows']).items():
        print_table(_title(planner), _main_columns(), [_main_row(entry) for entry in entries])
        print()


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the page."""
    parts = ['# Open-loop evaluation', _facts(summary)]
    for planner, entries in _by_planner(summary['rows']).items():
        pruned = [entry for entry in entries if entry['planner']]
        parts += [
            f'## {_title(planner)}', _markdown_table(_main_columns(), map(_main_row, entries)),
            *_tokens(summary, pruned),
            '### Each horizon', _markdown_table(
                ('', *(f'{name} {horizon}' for name, _ in _BY_HORIZON for horizon in _HORIZONS)),
                ((_label(entry), *(
                    _value(entry, f'{name}_{horizon}', digits)
                    for name, digits in _BY_HORIZON for horizon in _HORIZONS))
                 for entry in entries))]
    parts += ['## What the figures are', '\n'.join(
        f'- `{figure.name}` ({figure.unit}, {PROTOCOLS.get(figure.protocol, figure.protocol)}): '
        f'{figure.meaning}' for figure in FIGURES), '## Rules', *summary['rules'].values()]
    return '\n\n'.join(parts) + '\n'


def _tokens(summary: Mapping[str, Any], pruned: Sequence[_Entry]) -> list[str]:
    if not summary['frames']['with_masks']:
        return ['No frame has class masks for all its cameras, so nothing is known of the '
                'foreground (`fastdrive data label` makes masks for real pictures).']
    shown = [entry for entry in pruned if not entry['control']]
    return ['### Foreground', _markdown_table(
        ('', 'K', *(title for title, _ in _TOKENS)),
        ((_label(entry), _count(entry['num_kept']),
          *(_value(entry, name, 1) for _, name in _TOKENS)) for entry in shown))]


def _by_planner(rows: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Return baselines, unpruned, then ratio after ratio, then controls, for each planner."""
    baselines = [entry for entry in rows if not entry['planner']]
    return {planner: [*baselines, *sorted(
        (entry for entry in rows if entry['planner'] == planner),
        key=lambda entry: (bool(entry['control']), -entry['keep_ratio']))]
        for planner in dict.fromkeys(entry['planner'] for entry in rows) if planner}


def _title(planner: str) -> str:
    return f'planner {planner}: averages of 1, 2 and 3 s, 95 % intervals over scenes'


def _main_columns() -> tuple[str, ...]:
    return ('', 'K', 'GMAC', *(title for title, _, _ in _MAIN), 'L2 to unpruned %')


def _main_row(entry: _Entry) -> tuple[str, ...]:
    macs = entry['macs']
    against = entry['against_none']['l2_mean_avg']['relative_percent']
    return (_label(entry), _count(entry['num_kept']) if entry['planner'] else '-',
            '-' if macs is None else f'{macs / 1e9:.2f}',
            *(_with_interval(entry['figures'][name], digits) for _, name, digits in _MAIN),
            _with_interval(against, 1, sign='+'))


def _label(entry: _Entry) -> str:
    ratio = entry['keep_ratio']
    pruned = ratio is not None and ratio < 1.0
    return f"{entry['label']} {100 * ratio:g} %" if pruned else entry['label']


def _value(entry: _Entry, name: str, digits: int) -> str:
    value = entry['figures'][name]['value']
    return '-' if value is None else f'{value:.{digits}f}'


def _with_interval(interval: Mapping[str, float | None], digits: int, sign: str = '') -> str:
    value, low, high = (interval[name] for name in ('value', 'low', 'high'))
    if value is None:
        return '-'
    text = f'{value:{sign}.{digits}f}'
    if low is None or high is None:
        return text
    return f'{text} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]'


def _count(number: float) -> str:
    return f'{number:.0f}' if number == round(number) else f'{number:.1f}'


def _facts(summary: Mapping[str, Any]) -> str:
    frames, dataset = summary['frames'], summary['dataset']
    lines = [
        f"{dataset['name']} ({dataset['source']}), split {dataset['split']}: {frames['scenes']} "
        f"scenes, {frames['frames']} frames, of which {frames['way_known']} count for L2, "
        f"{frames['way_and_others_known']} for collisions, {frames['way_and_road_known']} for the "
        f"boundary, {frames['with_masks']} for the foreground; {frames['left_out']} could not be "
        'planned on (no usable picture, or no odometry).',
        *(f"Planner {each['name']}: {each['training']} N = {each['tokens']} tokens of "
          f"{each['cameras']} cameras, {each['precision']}, manifest {each['sha256'][:12]}."
          for each in summary['planners']),
        f"Backend {summary['backend']} on {summary['device']}; {summary['hardware']}. "
        f"fastdrive_ros {summary['version']}, commit {summary['commit'] or 'not known'}.",
        f"Camera floor {summary['camera_floor']:g}."]
    return '\n'.join(f'- {line}' for line in lines)


def _markdown_table(columns: Sequence[str], rows: Any) -> str:
    return '\n'.join(f"| {' | '.join(cells)} |" for cells in (
        columns, ('---', *('---:' for _ in columns[1:])), *rows))
