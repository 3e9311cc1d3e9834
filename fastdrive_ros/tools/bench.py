# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
`fastdrive bench`: tables for people, then one line of JSON.

    preprocess   six 1600x900 JPEGs -> the encoder's input, against the plain way
    node         the live node over DDS on the looped sample bag: stages, overhead, queue, pruning
    memory       resident memory of the live node over minutes
    sim          the simulator: six cameras with masks
    model        the paper's efficiency table: encode, prune, prefill, decode of a checkpoint or
                 shape against transformers; with --bundle of its engines, all methods
    text         a text planner's answers: tokens one by one, in blocks, with guesses
    encoders     vision encoders of several bundles, for example early-pruned ones, side by side
    all          preprocess, node and memory; the others need an extra or a bundle

Every figure names its protocol: frames, tokens, backend, threads and processor are in the JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastdrive_ros import __version__
from fastdrive_ros.config import ConfigError
from fastdrive_ros.tools.bench_model import add_options
from fastdrive_ros.tools.computer import cpu_name

# Options that mean nothing for a bundle's own engines.
_NOT_OF_BUNDLES = ('checkpoint', 'shape', 'dtype', 'grid', 'device', 'answer_tokens', 'passes',
                   'read', 'methods', 'text_backend')
_EPILOG = """\
examples:
  fastdrive bench preprocess
  fastdrive bench node --seconds 60
  fastdrive bench memory --minutes 10
  fastdrive bench model --shape qwen2.5-vl-3b --device cuda
  fastdrive bench model --bundle my_bundle --kept 504 336 168
  fastdrive bench text --bundle my_text_bundle --bag my_bag --checkpoint my_checkpoint
  fastdrive bench encoders --bundles whole early --evaluations evaluation evaluation_early \\
      --picture early.png
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        'bench', help='measure', epilog=_EPILOG,
        description='Measure preprocessing, the live node, its memory, the simulator, a '
        'full-size model, written answers, or encoders. Prints tables and ends with one line of '
        'JSON.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', nargs='?', default='all',
                        choices=('preprocess', 'node', 'memory', 'sim', 'model', 'text',
                                 'encoders', 'all'))
    parser.add_argument('--seconds', type=float, default=44.0,
                        help='length of the node bench (default: %(default)g)')
    parser.add_argument('--minutes', type=float, default=10.0,
                        help='length of the memory bench (default: %(default)g)')
    parser.add_argument('--images', type=Path, metavar='DIR',
                        help='folder of 1600x900 JPEGs (default: synthetic ones)')
    parser.add_argument('--bag', type=Path, help='another bag (default: the sample)')
    parser.add_argument('--bundle', default='',
                        help='another bundle (default: engines/nano); model: measure its engines')
    parser.add_argument('--max-sets', type=int, default=60, metavar='N',
                        help='plans of the text bench (default: %(default)s)')
    parser.add_argument('--text-backend', choices=('engine', 'torch'), default='engine',
                        help="what runs the text bench's language model (default: %(default)s)")
    add_options(parser)
    parser.add_argument('--bundles', nargs='+', type=Path, metavar='BUNDLE', default=[],
                        help='encoders: what to compare, with the first one')
    parser.add_argument('--evaluations', nargs='+', type=Path, metavar='DIR', default=[],
                        help="encoders: each bundle's folder of `fastdrive evaluate`")
    parser.add_argument('--picture', type=Path, metavar='PNG',
                        help='encoders: draw time and quality of early pruning')
    parser.set_defaults(usual=parser.get_default)


def run(args: argparse.Namespace) -> int:
    """Measure what was asked for."""
    wanted = ('preprocess', 'node', 'memory') if args.what == 'all' else (args.what,)
    results: dict[str, Any] = {'fastdrive_ros': __version__, 'cpu': cpu_name()}
    if 'preprocess' in wanted:
        from fastdrive_ros.tools import bench_preprocess

        results['preprocess'] = bench_preprocess.bench(args.images)
        bench_preprocess.print_report(results['preprocess'])
    if 'node' in wanted:
        from fastdrive_ros.tools import bench_node

        results['node'] = bench_node.bench_node(args.bag, args.bundle, args.seconds)
        bench_node.print_node(results['node'])
    if 'memory' in wanted:
        from fastdrive_ros.tools import bench_node

        results['memory'] = bench_node.bench_memory(args.bag, args.bundle, args.minutes)
        bench_node.print_memory(results['memory'])
    if 'sim' in wanted:
        from fastdrive_ros.tools import bench_sim

        results['sim'] = bench_sim.bench()
        bench_sim.print_report(results['sim'])
    if 'model' in wanted:
        results['model'] = _bench_model(args)
    if 'text' in wanted:
        from fastdrive_ros.tools import bench_text
        from fastdrive_ros.tools.demo import sample_bag

        results['text'] = bench_text.bench(args.bag or sample_bag(), args.bundle, args.max_sets,
                                           args.text_backend, args.checkpoint)
        bench_text.print_report(results['text'])
    if 'encoders' in wanted:
        from fastdrive_ros.tools import bench_encoders

        results['encoders'] = bench_encoders.bench(args.bundles, args.evaluations)
        bench_encoders.print_report(results['encoders'])
        if args.picture:
            from fastdrive_ros.tools import early_picture

            early_picture.draw(results['encoders'], args.picture)
    print(json.dumps(results))
    return 0


def _bench_model(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print, write model.json and, with matplotlib, model.png."""
    if args.bundle:
        if others := [name for name in _NOT_OF_BUNDLES
                      if getattr(args, name) != args.usual(name)]:
            raise ConfigError(f"bench model --bundle measures the bundle's own engines: leave out "
                              f"--{', --'.join(others).replace('_', '-')}")
        from fastdrive_ros.tools.bench_bundle import bench
        from fastdrive_ros.tools.bench_bundle import draw_plot
        from fastdrive_ros.tools.bench_bundle import print_report

        result = bench(Path(args.bundle), args.kept or (), args.repeats)
    else:
        from fastdrive_ros.tools.bench_model import bench
        from fastdrive_ros.tools.bench_model_plot import draw_plot
        from fastdrive_ros.tools.bench_model_report import print_report

        result = bench(args)
    print_report(result)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / 'model.json').write_text(json.dumps(result, indent=1) + '\n')
    try:
        print(f"drawn: {draw_plot(result, args.out / 'model.png')}")
    except ModuleNotFoundError as error:
        print(f"no picture, {error.name} is missing: pip install 'fastdrive_ros[viz]'")
    return result
