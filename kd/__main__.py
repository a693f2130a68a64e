"""Entry point of the command ``kd`` and of ``python -m kd``."""

import sys

from kd.storage.stopping import exit_on_stop_signals


def main() -> int:
    """Run the command ``kd`` with the process's arguments and return its exit status."""
    exit_on_stop_signals()  # before the imports of the command, which take seconds
    from kd.cli import main as run_command

    return run_command()


if __name__ == "__main__":
    sys.exit(main())
