"""``python -m toy_models``: train, phase, geometry, recognise, bench."""

import os
import sys

# Before NumPy loads: blocks of instances run side by side, and BLAS's own threads would only get in their way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from toy_models.cli import main

if __name__ == "__main__":
    sys.exit(main())
