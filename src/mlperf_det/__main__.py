"""``python -m mlperf_det`` is the same as ``mlperf-det``."""

import sys

from mlperf_det.cli import main

# Spawned helper processes import this module again, under another name, and must not run the command again.
if __name__ == '__main__':
    sys.exit(main())
