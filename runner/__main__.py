"""`python -m runner`, and the console command `run`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        from runner.cli.app import main as run_command_line
    except KeyboardInterrupt:
        sys.exit(130)  # before the command line could say it better: nothing was begun
    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
