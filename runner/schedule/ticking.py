"""`run schedule tick`: one step of every schedule, safe to repeat and to be killed in."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runner.commands.moments import Reporter
from runner.schedule.reports import TickReport


def tick(
    targets: Sequence[Path],
    *,
    environ: Mapping[str, str],
    reporter: Reporter,
    clock: Callable[[], float] = time.time,
) -> TickReport:
    """Advance every open run of the targets' manifests and start what is due by `clock` (Unix seconds).

    `targets`: manifests, or folders whose `*.yaml` and `*.yml` files with a `schedule` block are meant. One
    manifest's trouble is reported and stops no other. Raises InterruptedRunError, and RunnerError where a
    ledger can't be opened at all.
    """
    raise NotImplementedError
