# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What the README says must be so: its parameter table is the code's, its verbs and files exist.

After changing a parameter: ``python test/test_readme.py`` writes the table again.
"""

from __future__ import annotations

import re
from pathlib import Path

from fastdrive_ros.config import PARAMETERS
from fastdrive_ros.tools.cli import VERBS

README = Path(__file__).resolve().parent.parent / 'README.md'
_TABLE = re.compile(r'(<!-- parameters -->\n).*(<!-- /parameters -->)', re.DOTALL)


def parameter_table() -> str:
    rows = ['| parameter | default | range | live | |', '|---|---|---|---|---|']
    for row in PARAMETERS:
        allowed = ', '.join(row.choices) or (
            f'{row.minimum:g} .. {row.maximum:g}' if row.minimum is not None else '')
        live = 'yes' if row.live else ''
        rows.append(f'| `{row.name}` | `{row.default!r}` | {allowed} | {live} '
                    f'| {row.description} |')
    return '\n'.join(rows) + '\n'


def with_table(text: str) -> str:
    return _TABLE.sub(lambda match: match[1] + parameter_table() + match[2], text)


def test_the_parameter_table_is_the_code_s() -> None:
    text = README.read_text()
    assert text == with_table(text), 'run: python test/test_readme.py'


def test_every_verb_is_in_the_readme() -> None:
    text = README.read_text()
    assert [verb for verb in VERBS if f'fastdrive {verb}' not in text] == []


def test_every_file_the_readme_links_exists() -> None:
    links = re.findall(r'\]\(([^)#]+)\)', README.read_text())
    assert [link for link in links if '://' not in link
            and not (README.parent / link).exists()] == []


if __name__ == '__main__':
    README.write_text(with_table(README.read_text()))
