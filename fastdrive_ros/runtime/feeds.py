# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Host arrays against a graph's input specs: the check every engine makes before it runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fastdrive_ros.runtime.engine import EngineError
from fastdrive_ros.runtime.engine import TensorSpec


def check_feeds(
    graph: str, specs: tuple[TensorSpec, ...], feeds: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """
    Refuse feeds that the graph does not take; return the size of each dynamic dimension.

    A dynamic dimension must have one size wherever its name stands: kept_tokens ('K', 16) and
    kept_indices ('K',) must agree. None may be empty but 'P', the rows of a cache.
    """
    expected = {spec.name for spec in specs}
    if set(feeds) != expected:
        raise EngineError(f'{graph} expected inputs {sorted(expected)}, found {sorted(feeds)}.')
    sizes: dict[str, int] = {}
    for spec in specs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise EngineError(
                f'{graph} expected {spec.name} as {spec.dtype}, found {array.dtype}.'
            )
        fits = len(array.shape) == len(spec.shape) and all(
            size >= (dim != 'P') and size == sizes.setdefault(dim, size) if isinstance(dim, str)
            else size == dim
            for dim, size in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            known = ', '.join(f'{dim}={size}' for dim, size in sizes.items())
            raise EngineError(
                f'{graph} expected {spec.name} of shape {_words(spec.shape)}, found '
                f'{_words(array.shape)}' + (f' where {known}.' if known else '.')
            )
    return sizes


def _words(shape: tuple[int | str, ...]) -> str:
    return '[' + ', '.join(map(str, shape)) + ']'
