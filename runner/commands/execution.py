"""One execution of a manifest: what each part of it works with, and what each part may ask and tell.

Planned, carried out or only repeated: that is decided in `run`. Nothing here brings along what a run needs
that has something to do, because most runs have nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.commands.clock import SteadyClock
from runner.commands.finishing import finished_run
from runner.commands.interrupts import StopFlag
from runner.commands.moments import Finished, Reporter, Started, Trouble
from runner.commands.notifying import Notifier
from runner.commands.options import RunOptions
from runner.commands.totals import Totals
from runner.commands.under_way import at_own_server, under_way
from runner.commands.workplace import Workplace
from runner.core.model import Manifest
from runner.core.states import ShardState, Submission
from runner.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run came to. `finished` is None where the work goes on without us (`--detach`). `run` is its
    uid. `was_answered`: left to go on, it had a reply of the server."""

    finished: Finished | None
    exit_code: int
    run: str
    was_answered: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """`uid` is the run's, `manifest_id` the ledger's own id of the manifest. In Unix seconds: `started_s`,
    when this process began; `began_s`, when the run did. `began_after` is the last event of the ledger before
    somebody asked for the run: what is wished later counts against it."""

    workplace: Workplace
    ledger: Ledger
    options: RunOptions
    reporter: Reporter
    stop: StopFlag
    notifier: Notifier
    uid: str
    manifest_id: int
    clock: SteadyClock
    started_s: float
    began_s: float
    began_after: int

    @property
    def manifest(self) -> Manifest:
        """The manifest, as this run asks it."""
        return self.workplace.manifest

    @property
    def folder(self) -> Path:
        """Where the ledger and all that belongs to it lies."""
        return self.workplace.place.folder

    def under_way(self) -> list[Submission]:
        """Open shards that this run can move."""
        return under_way(self.workplace, self.ledger, self.manifest_id)

    def held(self) -> list[Submission]:
        """Shards that only a person, or another look, can set free."""
        held = [
            self.ledger.submission(record.shard_id)
            for record in self.ledger.shards(self.manifest_id)
            if record.state is ShardState.HELD
        ]
        return at_own_server(self.workplace, held)

    def held_elsewhere(self) -> dict[str, list[Submission]]:
        """Held shards of other manifests that rows wait for, by the path of the manifest as it would be typed
        here."""
        found: dict[str, list[Submission]] = {}
        for path, submission in self.ledger.held_elsewhere(self.manifest_id):
            typed = self.workplace.as_typed(path, self.options.manifest)
            found.setdefault(typed, []).append(submission)
        return found

    def tell_begin(self) -> None:
        """What this run is, and what it leaves alone."""
        ours = self.under_way()
        self.reporter.tell(
            Started(
                manifest=self.manifest.name,
                run=self.uid,
                provider=self.workplace.provider.name,
                model=self.manifest.model.name,
                is_resumed=bool(ours),
            )
        )
        left = len(self.ledger.open_submissions(self.manifest_id)) - len(ours)
        if left:
            what = (
                f"{left} batches are on their way at another server; they are left to finish, "
                "and collected when the manifest names that server again"
            )
            self.reporter.tell(Trouble(what=what))

    def finished(self, totals: Totals, paid: tuple[int, int], ended: Sequence[Submission] = ()) -> Finished:
        """How it ended. `ended` are the shards that came to their end, `paid` the tokens of all attempts."""
        return finished_run(
            self.manifest,
            totals,
            paid,
            run=self.uid,
            ended=ended,
            duration_s=self.clock() - self.started_s,
        )
