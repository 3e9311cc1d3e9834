# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rooms stay apart: who may import whom, where torch and ROS may be named, file by file."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'fastdrive_ros'
MODULES = sorted(PACKAGE.rglob('*.py'))
SOURCES = sorted([*MODULES, *(ROOT / 'test').glob('*.py'), *(ROOT / 'launch').glob('*.py'),
                  ROOT / 'setup.py'])

HEADER = ('# Copyright 2026 fastdrive_ros contributors\n'
          '# SPDX-License-Identifier: Apache-2.0\n')
MAX_LINES = 450

# Room (folder, or file of the package) -> what of ours it may import, besides itself.
MAY_IMPORT = {
    'core': (),
    'runtime': (),
    'metrics': ('core',),
    'pruners': ('core',),
    'perception': ('pruners', 'core', 'runtime.engine'),
    'planners': ('pruners', 'core', 'runtime.engine', 'runtime.host_memory', 'runtime.onnx_file'),
    'pipeline': ('perception', 'planners', 'core', 'runtime.engine'),
    'intake': ('core',),
    'config': ('pruners', 'core'),
    'bag_trouble': (),
    'bags': ('bag_trouble', 'config'),
    'assemble': ('config', 'pipeline', 'perception', 'planners', 'pruners', 'core', 'runtime'),
    # These two are pure functions over any message classes; no ROS comes with them.
    'data': ('bags', 'bag_trouble', 'config', 'core', 'ros.messages', 'ros.convert'),
    'sim': ('core', 'data'),
    'ros': ('assemble', 'bags', 'config', 'intake', 'pipeline', 'planners', 'core', 'runtime',
            'data.records', 'data.bag_messages', 'sim'),
    # Prompt and answer of a text planner are one thing, in training, export and on the vehicle.
    'learn': ('core', 'data', 'runtime', 'planners'),
    'tools': ('assemble', 'bags', 'config', 'intake', 'pipeline', 'planners', 'core', 'runtime',
              'ros', 'learn', 'data', 'metrics', 'perception', 'pruners', 'sim'),
    '__main__': ('tools',),
    '__init__': (),
}
# Top-level package of others -> the only rooms that may name it.
ONLY_IN = {
    # A text model's decoding loop runs in the vehicle and wants CUDA graphs over its own weights:
    # five planner files that only text_backend 'torch' imports.
    'torch': ('learn', 'tools', 'planners.torch_language', 'planners.torch_decoder',
              'planners.torch_product', 'planners.torch_replay', 'planners.torch_weights'),
    'transformers': ('learn', 'tools'),
    'safetensors': ('learn', 'tools'),
    'tokenizers': ('learn', 'tools', 'planners.text'),
    'onnxscript': ('learn',),
    'accelerate': ('learn',),
    'tensorboard': ('learn',),
    'pytorch_msssim': ('learn',),
    'rclpy': ('ros',),
    'builtin_interfaces': ('ros',),
    'rcl_interfaces': ('ros',),
    'lifecycle_msgs': ('ros',),
    'rosgraph_msgs': ('ros',),
    'sensor_msgs': ('ros',),
    'nav_msgs': ('ros',),
    'std_msgs': ('ros',),
    'geometry_msgs': ('ros',),
    'diagnostic_msgs': ('ros',),
    'visualization_msgs': ('ros',),
    'cv_bridge': ('ros',),
    'rosbags': ('bags', 'bag_trouble', 'data', 'tools'),
    'pyarrow': ('data',),
    'nuscenes': ('data',),
    'pyquaternion': ('data',),
    'ray': ('tools',),
    'metadrive': ('sim',),
    'panda3d': ('sim',),
    'direct': ('sim',),
    'meshoptimizer': ('sim',),
    'onnx': ('runtime.onnx_file', 'runtime.onnx_cost', 'learn'),
    'onnxruntime': ('runtime', 'learn'),
    'tensorrt': ('runtime',),
    'tensorrt_rtx': ('runtime',),
    'matplotlib': ('tools',),
    'rich': ('tools',),
}
# core is arithmetic on arrays; only the files that touch pictures may see more.
CORE_THIRD_PARTY = {'numpy'}
CORE_PICTURE_FILES = {'core.decode', 'core.preprocess', 'core.overlay'}


def dotted(path: Path) -> str:
    """Return a file's place in the package, as 'core.sync'."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' and len(parts) > 1 else parts)


def imports(path: Path) -> set[str]:
    """Return every module the file imports, lazily or for annotations only, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            found.add(node.module)
            found.update(f'{node.module}.{alias.name}' for alias in node.names
                         if node.module == 'fastdrive_ros')
    return found - {'fastdrive_ros', 'fastdrive_ros.__version__'}


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f'{room}.') for room in rooms)


@pytest.mark.parametrize('path', MODULES, ids=dotted)
def test_imports_stay_in_the_direction_of_the_design(path: Path):
    name = dotted(path)
    room = name.split('.')[0]
    assert room in MAY_IMPORT, f'{name}: a new room; say in MAY_IMPORT what it may import'
    for module in imports(path):
        if module.startswith('fastdrive_ros.'):
            ours = module.removeprefix('fastdrive_ros.')
            assert within(ours, (room, *MAY_IMPORT[room])), f'{name} must not import {module}'
        elif (top := module.split('.')[0]) in ONLY_IN:
            assert within(name, ONLY_IN[top]), f'{name} must not import {top}'


@pytest.mark.parametrize('path', sorted((PACKAGE / 'core').glob('*.py')), ids=dotted)
def test_core_needs_numpy_and_nothing_else(path: Path):
    others = {module.split('.')[0] for module in imports(path)} - {'fastdrive_ros'}
    others -= set(sys.stdlib_module_names)
    allowed = CORE_THIRD_PARTY | (
        {'cv2', 'simplejpeg'} if dotted(path) in CORE_PICTURE_FILES else set())
    assert others <= allowed


def test_torch_is_imported_lazily_by_tools():
    for path in (PACKAGE / 'tools').glob('*.py'):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names]
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                assert not any(within(name, ('torch', 'transformers', 'fastdrive_ros.learn'))
                               for name in names), f'{path.name} needs torch for its --help'


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_header_docstring_and_a_length_one_can_read(path: Path):
    text = path.read_text()
    assert text.startswith(HEADER)
    assert ast.get_docstring(ast.parse(text)), 'module docstring: what turns into what'
    assert text.count('\n') <= MAX_LINES
