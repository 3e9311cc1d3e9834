# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Verbs of two words, `fastdrive data sim`: one parser, a file for each second word."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any


def add_words(subparsers: Any, verb: str, summary: str, epilog: str,
              modules: Iterable[Any]) -> None:
    """Add ``verb`` and let each module add its word, whose ``run`` is then ``args.run``."""
    parser = subparsers.add_parser(
        verb, help=summary, description=f'{summary[0].upper()}{summary[1:]}.',
        epilog=f'{epilog}\nHelp on one of them, with an example: fastdrive {verb} WHAT --help',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    words = parser.add_subparsers(dest='word', metavar='WHAT', required=True)
    for module in modules:
        before = set(words.choices)
        module.add_parser(words)
        for word in set(words.choices) - before:
            words.choices[word].set_defaults(run=module.run)
