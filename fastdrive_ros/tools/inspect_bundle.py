# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`fastdrive inspect BUNDLE`: what a model is, how it was trained, and what memory it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdrive_ros.assemble import early_pruning_note
from fastdrive_ros.assemble import method_graphs
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.device_memory import device_memory
from fastdrive_ros.tools.tables import print_table


def inspect_bundle(path: Path) -> dict[str, Any]:
    """Verify a bundle and return what there is to say; BundleError where it is damaged."""
    bundle = load_bundle(path)
    graphs = method_graphs(bundle, bundle.pruner_method)
    memory = device_memory(bundle, graphs)
    return {
        'bundle': str(path), 'name': bundle.name, 'precision': bundle.arithmetic,
        'trained': bundle.trained, 'untrained': bundle.untrained,
        'training': bundle.manifest['training'],
        'cameras': list(bundle.cameras),
        'image': [bundle.image_height, bundle.image_width],
        'tokens_per_camera': bundle.tokens_per_camera, 'num_tokens': bundle.num_tokens,
        'early_pruning': early_pruning_note(bundle, 0.0), 'pruner': bundle.pruner_method,
        'planner': _planner(bundle), 'graphs': _graphs(bundle),
        'source': bundle.manifest['source'],
        'device_memory': {'graphs': list(graphs), 'words': str(memory), 'bytes': memory.total},
    }


def print_bundle(report: dict[str, Any]) -> None:
    """Print it for people."""
    height, width = report['image']
    facts = [
        ('cameras', ', '.join(report['cameras'])),
        ('pictures', f'{height} x {width} pixels'),
        ('visual tokens', f"{report['num_tokens']}, {report['tokens_per_camera']} a camera"),
        ('early pruning', report['early_pruning'] or 'none'),
        ('pruner', report['pruner']),
        ('planner', report['planner']),
        ('trained', f"no: {report['untrained']}" if report['untrained'] else 'yes'),
        ('made from', f"checkpoint {report['source']['checkpoint_sha256'][:12]}, fastdrive_ros "
                      f"{report['source']['fastdrive_ros']}"),
    ]
    print(f"{report['name']} ({report['precision']}), every file verified")
    for name, words in facts:
        print(f'  {name:14} {words}')
    print_table('graphs', ('graph', 'MB', 'differs from torch by', 'rounding'), [
        (name, f"{row['bytes'] / 1e6:.1f}", f"{row['relative_l2']:.1e}",
         '' if row['rounding'] is None else f"{row['rounding']:.2%}")
        for name, row in report['graphs'].items()])
    for name, row in report['graphs'].items():
        if row['weights']:
            print(f"{name}: {row['weights']['relative_l2']:.2%} of the outputs lost to "
                  f"{row['weights']['kind']} weights on the golden inputs")
    print(report['training'])
    print(f"On a GPU {', '.join(report['device_memory']['graphs'])} take at least "
          f"{report['device_memory']['words']}; TensorRT's workspace comes on top.")


def _planner(bundle: Bundle) -> str:
    planner = bundle.planner
    words = (f"{planner['num_waypoints']} waypoints, {planner['dt_s']:g} s apart, head "
             f"{planner['head']}")
    if 'cache' in planner:
        words += f", at most {planner['cache']['max_rows']} rows of prompt and answer"
    return words


def _graphs(bundle: Bundle) -> dict[str, dict[str, Any]]:
    return {name: {
        'bytes': device_memory(bundle, [name]).weights,
        'relative_l2': section['export_check']['relative_l2'],
        'rounding': section.get('rounding', {}).get('relative_l2'),
        'weights': section.get('weights'),
    } for name, section in bundle.manifest['graphs'].items()}
