# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings to a ready Pipeline: load and verify the bundle, choose the backend, join the parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from fastdrive_ros.config import bundle_path
from fastdrive_ros.config import camera_topics
from fastdrive_ros.config import check_required_cameras
from fastdrive_ros.config import gate_limits
from fastdrive_ros.config import pruning_method
from fastdrive_ros.config import sync_config
from fastdrive_ros.core.ego import EgoBuffer
from fastdrive_ros.core.ego import EgoConfig
from fastdrive_ros.core.latency import StageTimer
from fastdrive_ros.core.preprocess import Preprocessor
from fastdrive_ros.core.pruning import num_kept
from fastdrive_ros.core.sync import FrameSynchronizer
from fastdrive_ros.core.types import CameraBatch
from fastdrive_ros.core.types import EgoState
from fastdrive_ros.perception import JOINED
from fastdrive_ros.perception import Perception
from fastdrive_ros.perception import perception_graphs
from fastdrive_ros.pipeline import Pipeline
from fastdrive_ros.pipeline import PipelineSettings
from fastdrive_ros.planners import LANGUAGE
from fastdrive_ros.planners import Planner
from fastdrive_ros.planners import make_planner
from fastdrive_ros.planners import planner_graphs
from fastdrive_ros.planners.language import read_golden
from fastdrive_ros.pruners import INSIDE
from fastdrive_ros.pruners import METHODS
from fastdrive_ros.runtime.bundle import Bundle
from fastdrive_ros.runtime.bundle import BundleError
from fastdrive_ros.runtime.bundle import load_bundle
from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.golden import language_report
from fastdrive_ros.runtime.golden import require_passed
from fastdrive_ros.runtime.golden_inputs import golden_history
from fastdrive_ros.runtime.golden_inputs import golden_images
from fastdrive_ros.runtime.load import LoadedEngines
from fastdrive_ros.runtime.load import load_engines
from fastdrive_ros.runtime.trt_graphs import RUNS_TO_REPLAY

if TYPE_CHECKING:
    from fastdrive_ros.planners.torch_language import TorchLanguageModel


@dataclass(frozen=True)
class Assembly:
    """What driving needs, loaded and checked."""

    bundle: Bundle
    loaded: LoadedEngines
    method: str
    """The pruning method."""
    pipeline: Pipeline
    synchronizer: FrameSynchronizer
    ego: EgoBuffer


def pipeline_settings(settings: Mapping[str, Any]) -> PipelineSettings:
    """Return the part of the settings that may change from cycle to cycle."""
    sync = sync_config(settings)
    return PipelineSettings(
        keep_ratio=settings['keep_ratio'],
        camera_floor=settings['camera_floor'],
        max_frame_age_ms=settings['max_frame_age_ms'],
        max_missing_cameras=sync.max_missing_cameras,
        required_cameras=sync.required_cameras,
        limits=gate_limits(settings))


def ego_config(settings: Mapping[str, Any], bundle: Bundle) -> EgoConfig:
    """Return the odometry buffer's settings: age from the vehicle, history from the model."""
    return EgoConfig(
        max_age_ms=settings['max_odometry_age_ms'],
        history_steps=bundle.planner['history_steps'],
        history_dt_s=bundle.planner['history_dt_s'])


def method_graphs(bundle: Bundle, method: str, fused: bool = False) -> tuple[str, ...]:
    """
    Return the graphs that planning with a pruning method runs, ``fused`` with the joined one.

    Raises BundleError naming those that the bundle lacks.
    """
    available = bundle.manifest['graphs']
    if LANGUAGE in available and method in INSIDE:
        raise BundleError(f"pruner '{method}' cuts inside the language model of a waypoint head; "
                          'a text planner takes methods before it: '
                          f'{", ".join(m for m in METHODS if m not in INSIDE)}')
    before = (JOINED,) if fused else perception_graphs(method)
    graphs = (*before, *planner_graphs(method, available))
    if lacking := [graph for graph in graphs if graph not in available]:
        raise BundleError(
            f"pruner '{method}' needs the graphs {', '.join(lacking)}, {bundle.path} has "
            f"{', '.join(available)}: export the bundle again with `fastdrive export "
            f"{'--plan-pruner FILE' if 'plan_pruner' in lacking else '--rivals'}`, or choose "
            'another pruner')
    return graphs


def early_pruning_note(bundle: Bundle, keep_ratio: float) -> str:
    """Return what an early-pruned encoder means for the budget; empty for a whole encoder."""
    early, whole = bundle.manifest.get('early_pruning'), bundle.tokens_per_camera
    if not early:
        return ''
    left = bundle.encoded_per_camera
    note = (f"early pruning after vision block {early['after_block']} leaves {left} of {whole} "
            'tokens of each camera')
    if num_kept(keep_ratio, whole) > left:
        note += (f': keep_ratio {keep_ratio:g} is of all {whole}, so that all {left} are kept '
                 f'({left / whole:.0%})')
    return note


def build_pipeline(settings: Mapping[str, Any],
                   on_progress: Callable[[str], None] | None = None) -> Assembly:
    """
    Load everything that ``settings`` (config.check_settings) asks for.

    Raises BundleError, EngineError or ConfigError with what was expected, found, and the mend.
    """
    bundle = load_bundle(bundle_path(settings))
    check_required_cameras(settings, bundle.cameras)
    camera_topics(settings, bundle.cameras)  # refuses a camera without a topic
    method = pruning_method(settings, bundle.pruner_method)
    loaded = _load(bundle, settings, method, on_progress)
    with ExitStack() as opened:  # until all is well
        for engine in loaded.engines.values():
            opened.callback(engine.close)
        language = None
        if settings['text_backend'] == 'torch':
            loaded, language = load_torch_language(bundle, loaded, settings['num_threads'])
            opened.callback(language.close)
        engines = loaded.engines

        def parts() -> tuple[Perception, Planner]:
            return (Perception(engines, method, bundle.grid_height, bundle.grid_width,
                               settings['camera_floor']),
                    make_planner(bundle.manifest, bundle.path, engines, method, language))

        perception, planner = parts()
        fewest, most = _budgets(bundle, settings)
        if language is not None:
            language.warm_up(*planner.prompt_rows(fewest, most, bundle.planner['history_steps']))
        if loaded.backend != 'onnxruntime':
            rehearse(bundle, *parts(), most)    # in parts of its own: some remember past frames
        pipeline = Pipeline(
            Preprocessor(bundle.cameras, bundle.image_height, bundle.image_width,
                         settings['decode_threads']),
            perception, planner, opened.pop_all(), bundle.tokens_per_camera,
            bundle.encoded_per_camera, pipeline_settings(settings))
    return Assembly(bundle, loaded, method, pipeline,
                    FrameSynchronizer(bundle.cameras, sync_config(settings)),
                    EgoBuffer(ego_config(settings, bundle)))


def _load(bundle: Bundle, settings: Mapping[str, Any], method: str,
          on_progress: Callable[[str], None] | None) -> LoadedEngines:
    """Load the engines of a method, without the language model's where torch runs it."""
    graphs = method_graphs(bundle, method, settings['fuse_perception'])
    on_torch = settings['text_backend'] == 'torch'
    if on_torch and LANGUAGE not in graphs:
        raise BundleError(f"text_backend 'torch' is for planners that write text, {bundle.path} "
                          f"has head '{bundle.planner['head']}': leave it at 'engine'")
    cache_dir = settings['engine_cache_dir']
    return load_engines(
        bundle,
        backend=settings['backend'],
        graphs=tuple(graph for graph in graphs if not (on_torch and graph == LANGUAGE)),
        num_threads=settings['num_threads'],
        cache_dir=Path(cache_dir).expanduser() if cache_dir else None,
        on_progress=on_progress)


def _budgets(bundle: Bundle, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return K with as many cameras missing as may be, and with all of them."""
    cameras = len(bundle.cameras)
    return tuple(
        num_kept(settings['keep_ratio'], there * bundle.tokens_per_camera,
                 there * bundle.encoded_per_camera)
        for there in (max(1, cameras - settings['sync.max_missing_cameras']), cameras))


def rehearse(bundle: Bundle, perception: Perception, planner: Planner, budget: int) -> None:
    """
    Plan on the golden pictures as when driving, until TensorRT's recorded runs are replayed.

    So they are recorded and proven at start, and the first cycles need not wait for it.
    """
    batch, ego = golden_batch(bundle), golden_ego(bundle, 0)
    for _ in range(RUNS_TO_REPLAY):
        kept = perception.perceive(batch, 0, budget, StageTimer())
        planner.plan(kept, ego, budget)


def golden_batch(bundle: Bundle) -> CameraBatch:
    """Return the pictures that a bundle is checked with, of all its cameras."""
    cameras = len(bundle.cameras)
    return CameraBatch(golden_images(cameras, bundle.image_height, bundle.image_width),
                       np.ones(cameras, dtype=bool))


def golden_ego(bundle: Bundle, stamp_ns: int) -> EgoState:
    """Return a vehicle that came the way that a bundle is checked with."""
    history = golden_history(bundle.planner['history_steps'])
    return EgoState(stamp_ns, 'map', (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0.0,
                    float(history[-1, 4]), float(history[-1, 5]), 0.0, history)


def load_torch_language(bundle: Bundle, loaded: LoadedEngines,
                        num_threads: int) -> tuple[LoadedEngines, TorchLanguageModel]:
    """
    Load a text bundle's language model on torch, and hold it against the golden logits.

    Returns ``loaded`` with what is now to be said of it. Raises EngineError when torch is missing,
    would sit on another device than the engines, lacks memory, or computes something else.
    """
    try:
        from fastdrive_ros.planners.torch_weights import load_language
    except ImportError as error:
        raise EngineError(f"text_backend 'torch' needs torch, found {error}: `pip install torch`, "
                          "or set text_backend to 'engine'") from error
    language = load_language(bundle.graph_path(LANGUAGE), bundle.planner,
                             needs_gpu=loaded.backend != 'onnxruntime',
                             num_threads=num_threads)
    report = language_report(bundle, partial(read_golden, language))
    require_passed(bundle, report)
    golden = dataclasses.replace(
        loaded.golden, outputs={**loaded.golden.outputs, **report.outputs},
        errors={**loaded.golden.errors, **report.errors})
    reason = f'{loaded.reason} Language model: {language.words}.'
    return dataclasses.replace(loaded, golden=golden, reason=reason), language
