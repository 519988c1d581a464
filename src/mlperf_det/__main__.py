"""``python -m mlperf_det`` is the same as ``mlperf-det``."""

import sys

from mlperf_det.cli import main

sys.exit(main())
