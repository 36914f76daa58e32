"""``python -m minisae`` is ``minisae``."""

import sys

from minisae.cli import main

sys.exit(main())
