"""A server that does not work, over the looks of many ticks: from when on somebody is told of it.

One look that fails is nothing to talk about, and the next tick looks again. Where none has worked for
`OUTAGE_AFTER_S`, that is told as a failure of the manifest, until one does. Nothing is concluded from it:
what is on its way stays so. So, unlike in `core.lasting`, two looks that are hours apart will do, and a clock
that was set costs a word too early or too late.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from runner.core.model import Provider
from runner.errors import EXIT_REFUSED, RunnerError
from runner.ledger import Waits

OUTAGE_AFTER_S = 600


class OutageError(RunnerError):
    """No look at the server has worked for a while. What is under way is under way all the same."""

    exit_code = EXIT_REFUSED


class Outage:
    """What the ledger notes of one manifest and its server; `now` is the moment of this look."""

    def __init__(self, waits: Waits, manifest_id: int, provider: Provider, now: datetime) -> None:
        self._waits = waits
        self._manifest_id = manifest_id
        self._provider = provider
        self._now = now

    def look_failed(self) -> None:
        """One more; the first one's moment is noted, and anew where that lies ahead."""
        since = self._waits.outage_since(self._manifest_id, self._provider.server)
        if since is None or since > self._now:
            self._waits.note_outage(self._manifest_id, self._provider.server, self._now)

    def look_worked(self) -> None:
        """That was its end, if there was one; so is it where there is nothing to look for any more."""
        if self._waits.outage_since(self._manifest_id, self._provider.server) is not None:
            self._waits.end_outage(self._manifest_id, self._provider.server)

    def error(self, last: str = "") -> OutageError | None:
        """What to tell of it now; None where it is no news yet. `last` is how the last look failed: it may
        fail otherwise each time, so it is no part of what is told once."""
        since = self._waits.outage_since(self._manifest_id, self._provider.server)
        if since is None or self._now - since < timedelta(seconds=OUTAGE_AFTER_S):
            return None
        what = f"no look at {self._provider.base_url} has worked since {since:%Y-%m-%d %H:%M} UTC"
        check = "check the network, and the server's own state; every tick tries again, nothing is paid twice"
        return OutageError(what, next_step=f"{check} (the last one: {last})" if last else check)
