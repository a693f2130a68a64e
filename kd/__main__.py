"""Entry point of ``python -m kd``, the same as the command ``kd``."""

import sys

from kd.cli import main

if __name__ == "__main__":
    sys.exit(main())
