# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What gets installed: versions agree, every shared file is listed, entry points exist."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import fastdrive_ros

ROOT = Path(__file__).resolve().parent.parent
SHARE = 'share/fastdrive_ros'


@pytest.fixture(scope='module')
def setup_arguments() -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    code = ('import json, setuptools; seen = {}; setuptools.setup = lambda **given: '
            'seen.update(given); exec(compile(open("setup.py").read(), "setup.py", "exec"), '
            '{"__file__": "setup.py", "__name__": "__main__"}); print(json.dumps(seen))')
    run = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True,
                         text=True)
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def test_versions_agree(setup_arguments: dict, package_xml: ElementTree.Element):
    assert setup_arguments['version'] == fastdrive_ros.__version__
    assert package_xml.findtext('version') == fastdrive_ros.__version__
    assert package_xml.findtext('name') == setup_arguments['name'] == 'fastdrive_ros'
    assert package_xml.findtext('license') == setup_arguments['license'] == 'Apache-2.0'


def test_every_shared_file_of_the_checkout_is_installed(setup_arguments: dict):
    installed = {f'{place}/{Path(name).name}': name
                 for place, names in setup_arguments['data_files'] for name in names}
    for folder in ('launch', 'config', 'engines/nano'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and path.suffix != '.pyc':
                relative = path.relative_to(ROOT).as_posix()
                assert installed[f'{SHARE}/{relative}'] == relative
    assert installed[f'{SHARE}/package.xml'] == 'package.xml'
    assert 'share/ament_index/resource_index/packages/fastdrive_ros' in installed
    for node in ('planner_node', 'sim_node'):
        assert installed[f'lib/fastdrive_ros/{node}'] == f'resource/{node}'
    assert all((ROOT / name).is_file() for name in installed.values())


def test_every_package_folder_is_installed(setup_arguments: dict):
    folders = {'.'.join(path.parent.relative_to(ROOT).parts)
               for path in (ROOT / 'fastdrive_ros').rglob('__init__.py')}
    assert set(setup_arguments['packages']) == folders


def test_entry_points_name_functions(setup_arguments: dict):
    lines = setup_arguments['entry_points']['console_scripts']
    scripts = dict(line.split(' = ') for line in lines)
    assert set(scripts) == {'fastdrive', 'planner_node', 'sim_node'}
    for target in scripts.values():
        module, function = target.split(':')
        tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_python_dash_m_is_the_command():
    run = subprocess.run([sys.executable, '-m', 'fastdrive_ros', '--version'], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    assert run.stdout.split() == ['fastdrive_ros', fastdrive_ros.__version__]


def test_the_node_starts_from_the_ros_libexec_folder(tmp_path: Path):
    """`ros2 run` and launch start lib/<package>/planner_node, in whatever Python is sourced."""
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    script = tmp_path / 'lib' / 'fastdrive_ros' / 'planner_node'
    script.parent.mkdir(parents=True)
    script.write_bytes((ROOT / 'resource' / 'planner_node').read_bytes())
    script.chmod(0o755)
    assert os.access(ROOT / 'resource' / 'planner_node', os.X_OK)
    folders = [str(Path(sys.executable).parent), os.environ['PATH']]
    run = subprocess.run(
        [script, '--ros-args', '-p', 'keep_ration:=0.5'], cwd=ROOT, capture_output=True,
        text=True, timeout=60, check=False,
        env={**os.environ, 'PATH': os.pathsep.join(folders), 'PYTHONPATH': os.pathsep.join(
            [str(ROOT), os.environ.get('PYTHONPATH', '')])})
    assert run.returncode != 0
    assert "did you mean 'keep_ratio'?" in run.stderr


def test_the_node_needs_no_torch(setup_arguments: dict):
    needed = {re.match(r'[\w-]+', line)[0] for line in setup_arguments['install_requires']}
    assert not needed & {'torch', 'transformers', 'tensorrt', 'matplotlib'}
    code = ('import sys; from fastdrive_ros.assemble import build_pipeline; '
            'sys.exit("torch" in sys.modules or "transformers" in sys.modules)')
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_every_requirement_has_a_pinned_version(setup_arguments: dict):
    lines = (ROOT / 'requirements' / 'constraints.txt').read_text().splitlines()
    pinned = {line.split('==')[0] for line in lines if '==' in line}
    extras = setup_arguments['extras_require']
    wanted = [*setup_arguments['install_requires'],
              *(line for extra, lines in extras.items() if extra != 'gpu' for line in lines)]
    names = {re.match(r'[\w-]+', line)[0].lower() for line in wanted}
    # torch is pinned in the Makefile: its build for CPUs has a version of its own.
    assert names - pinned - {'torch'} == set()


def test_package_xml_names_the_ros_packages_that_are_imported(package_xml: ElementTree.Element):
    depends = {node.text for node in package_xml if node.tag.endswith('depend')}
    named = set()
    for path in [*(ROOT / 'fastdrive_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        named |= set(re.findall(r'\b([a-z_]+)/msg/', path.read_text()))
        named |= set(re.findall(r'^\s*(?:from|import) ([a-z_]+_msgs|rclpy|launch\w*)\b',
                                path.read_text(), re.MULTILINE))
    optional = {name for name in named if name.startswith('autoware_')}
    assert named - optional <= depends


@pytest.mark.parametrize('module', ['fastdrive_ros.config', 'fastdrive_ros.pipeline',
                                    'fastdrive_ros.assemble', 'fastdrive_ros.tools.cli'])
def test_imports_without_ros(module: str):
    code = (f'import sys; sys.modules["rclpy"] = None; import importlib; '
            f'importlib.import_module("{module}")')
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
    assert importlib.import_module(module).__doc__
