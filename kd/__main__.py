"""``python -m kd`` is the command ``kd``."""

import sys

from kd.cli import main

if __name__ == "__main__":
    sys.exit(main())
