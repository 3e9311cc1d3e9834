# Copyright 2026 fastdrive_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""`python -m fastdrive_ros` is the command `fastdrive`."""

import sys

from fastdrive_ros.tools.cli import main

if __name__ == '__main__':
    sys.exit(main())
