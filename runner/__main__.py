"""`python -m runner`, and the console command `run`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    _fill_descriptors()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, until the command line listens
    try:
        from runner.cli.app import main as run_command_line
    except KeyboardInterrupt:
        # Before the command line could say it better. Where the signal came in the middle of an `exec`,
        # Python itself would leave as one that SIGINT has killed.
        os.write(2, b"interrupted; nothing was begun\n")
        os._exit(130)
    sys.exit(run_command_line())


def _fill_descriptors() -> None:
    """Where a standard stream is closed, no file of ours may come to have its number."""
    try:
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    except OSError:
        pass  # a system without it, or one that gives no more: whoever needs a file says so


if __name__ == "__main__":
    main()
