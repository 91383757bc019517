"""Waiting for another process that has the manifest: how long, and who is told."""

from __future__ import annotations

import time

from runner.commands.interrupts import StopFlag
from runner.commands.moments import Reporter, Trouble
from runner.errors import InterruptedRunError


class Waiting:
    """Waiting for another process to be done with the manifest, as long as `--wait` says."""

    def __init__(self, wait_s: float | None, stop: StopFlag, reporter: Reporter) -> None:
        self._until_s = time.monotonic() + (wait_s or 0.0)
        self._stop = stop
        self._reporter = reporter
        self._told = ""

    def waits(self, holder: str) -> bool:
        """Whether to wait on for `holder`. Tells once who it is."""
        if self._stop.is_set:
            raise InterruptedRunError(f"interrupted while waiting for {holder}; nothing was sent")
        is_waiting = time.monotonic() < self._until_s
        if is_waiting and holder != self._told:
            self._told = holder
            self._reporter.tell(Trouble(what=f"already running: {holder}; waiting for it"))
        return is_waiting
