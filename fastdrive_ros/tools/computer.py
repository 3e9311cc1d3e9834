# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a figure was measured on: processor, graphics card, clocks, power mode, throttling."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

NOT_AVAILABLE = 'not available'

_NVIDIA_SMI = ('name', 'driver_version', 'pstate', 'clocks.sm', 'clocks.mem', 'clocks.max.sm',
               'clocks.max.mem', 'power.draw', 'power.limit', 'temperature.gpu')
# The newer name first; older drivers know the second one only.
_THROTTLE = 'clocks_event_reasons.active', 'clocks_throttle_reasons.active'


def cpu_name() -> str:
    """Return the processor's name and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return f"{line.partition(':')[2].strip()}, {cores} cores"
    return f'{os.uname().machine}, {cores} cores'


def gpu_state() -> dict[str, str]:
    """
    Return what the driver says of GPU 0 right now, in its own words; never a guess.

    Keys of nvidia-smi's query with 'throttle' (a bit mask, 0 is none), and of a Jetson nvpmodel's
    power mode and a line of tegrastats; a tool that is not there or fails leaves 'not available'.
    """
    values = _nvidia_smi(_NVIDIA_SMI)
    state = dict(zip(_NVIDIA_SMI, values or [NOT_AVAILABLE] * len(_NVIDIA_SMI)))
    throttle = next((found for name in _THROTTLE if (found := _nvidia_smi((name,)))), None)
    state['throttle'] = throttle[0] if throttle else NOT_AVAILABLE
    state['nvpmodel'] = ' '.join(_output('nvpmodel', '-q').split()) or NOT_AVAILABLE
    # It never ends by itself: what it says within a second.
    lines = _output('tegrastats', '--interval', '200', patience_s=1.0).splitlines()
    state['tegrastats'] = lines[0] if lines else NOT_AVAILABLE
    return state


def _nvidia_smi(names: tuple[str, ...]) -> list[str] | None:
    out = _output('nvidia-smi', '--id=0', '--format=csv,noheader',
                  f'--query-gpu={",".join(names)}')
    values = [value.strip() for value in out.strip().split(',')]
    return values if len(values) == len(names) and values[0] else None


def _output(*command: str, patience_s: float = 10.0) -> str:
    """Return what a program prints until it ends or patience does; nothing where it fails."""
    if shutil.which(command[0]) is None:
        return ''
    try:
        done = subprocess.run(command, capture_output=True, timeout=patience_s)
    except OSError:
        return ''
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b'').decode(errors='replace')
    return done.stdout.decode(errors='replace') if done.returncode == 0 else ''
