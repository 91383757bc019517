"""`python -m tests.kills.hurried ARGUMENTS`: the program with short waits. What the harness kills.

Forked from the process that has imported it (`tests.warm_zygote` says why that is the same program). It
sets the waits and, where a test says so, the clock of schedules, calls the program's own `main` and ends with
`os._exit`. That leaves out the interpreter's teardown and nothing else: what the program must do before it
ends, it has done when `main` returns.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from runner.__main__ import main as run_program
from runner.schedule import ticking
from tests.kills.short_waits import shorten_waits
from tests.kills.weaknesses import VARIABLE, WEAKNESSES

CLOCK_VARIABLE = "TEST_CLOCK_S"
"""What time it is for schedules, in Unix seconds; unset: what it is."""


def main() -> None:
    """Never returns."""
    code = 1
    try:
        shorten_waits()
        if clock_s := os.environ.get(CLOCK_VARIABLE):
            ticking.wall_clock = lambda: float(clock_s)
        if weakness := os.environ.get(VARIABLE):
            WEAKNESSES[weakness]()
        run_program()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
