# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as an Engine: one ONNX file -> named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import TensorSpec
from fastdrive_ros.runtime.feeds import check_feeds

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}


class OnnxEngine:
    """One graph in ONNX Runtime, on the CPU or on a CUDA device."""

    def __init__(
        self,
        path: Path,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        *,
        num_threads: int = 0,
        device: str = 'cpu',
    ) -> None:
        """
        Load the graph; ``specs`` are (inputs, outputs) as the bundle declares them.

        ``num_threads`` 0 leaves the choice to ONNX Runtime (one a physical core). ``device`` is
        'cpu' or 'cuda'; EngineError when that device is not there, never the other one instead.
        """
        self._name = path.stem
        self.input_specs, self.output_specs = specs
        provider = _PROVIDERS[device]
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise EngineError(
                f'expected {provider} in ONNX Runtime {onnxruntime.__version__}, found '
                f'{available}. Install onnxruntime-gpu, or choose another backend.'
            )
        try:
            session = onnxruntime.InferenceSession(
                path, _session_options(num_threads), providers=[provider]
            )
        except Exception as error:  # onnxruntime's exceptions share no other base class
            raise EngineError(f'ONNX Runtime cannot load {path}: {error}') from error
        if provider not in session.get_providers():  # CUDA libraries missing: a silent fallback
            raise EngineError(
                f'expected {path.name} on {provider}, found it on {session.get_providers()}: ONNX '
                'Runtime could not start CUDA. Install its CUDA and cuDNN libraries, or choose '
                'another backend.'
            )
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [spec.name for spec in self.output_specs]

    def memory(self, name: str) -> None:
        """Return nothing: inputs and outputs are host arrays."""

    def run(self, feeds: Mapping[str, np.ndarray],
            into: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Run once on host arrays; return every output by name, those of ``into`` copied."""
        if self._session is None:
            raise EngineError(f'{self._name} was closed; load it again before running it.')
        check_feeds(self._name, self.input_specs, feeds)
        try:
            arrays = self._session.run(self._outputs, dict(feeds))
        except Exception as error:  # onnxruntime's exceptions share no other base class
            raise EngineError(f'{self._name} failed in ONNX Runtime: {error}') from error
        outputs = dict(zip(self._outputs, arrays, strict=True))
        for name, target in (into or {}).items():
            np.copyto(target, outputs[name])
            outputs[name] = target
        return outputs

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _session_options(num_threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors only; they come back as exceptions too
    # Multiply int8 and int4 weights out once, at loading: by itself ONNX Runtime rounds what they
    # are multiplied with to int8, too (1 % off in one layer), or multiplies them out in each run.
    options.add_session_config_entry('session.disable_quant_qdq', '1')
    # Idle workers would spin on the cores that decode the next frames: on two cores spinning took
    # 1.7 times the CPU time of a 30 ms graph and made it no faster.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    return options
