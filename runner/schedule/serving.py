"""`run schedule serve`: the tick in a loop, until somebody stops it.

    serve
      tick        of all targets; or of those alone whose batch a webhook told of
      log, count  what it did
      wait        until the next due time (and its jitter), for `every_s` at most; a webhook or a stop ends it

The loop decides nothing: everything that lasts is in the ledger, and a loop that is killed at any moment is
gone on with by the next one, or by any other `tick`. So an error that one tick has is logged, and the next
tick tries again. A webhook is a hint: it makes the loop look earlier, and the server's answer decides.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from runner.commands import carrying_out, committing, going_on
from runner.commands.moments import Reporter
from runner.commands.options import AS_WRITTEN, ManifestOptions
from runner.errors import InputError, InterruptedRunError, RunnerError
from runner.ledger import Ledger, locate
from runner.provider import Client
from runner.schedule.health import Health
from runner.schedule.metrics import Metrics
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick as real_tick
from runner.schedule.webhooks import BatchEvent

WHOLE_PROGRAM = (carrying_out, committing, going_on, Client)
"""Imported at the start: what is imported at the first due time, weeks later, may be of another version."""
USUAL_EVERY_S = 60.0
_SHORTEST_WAIT_S = 0.5
_LONGEST_NAP_S = 60.0
"""Of a longer wait. Only the clock on the wall goes on while the machine sleeps, so it is looked at again."""

Log = Callable[[str, Mapping[str, Any]], None]
"""Takes an event's name and its fields, of JSON's types."""


class Tick(Protocol):
    """What the loop calls; `ticking.tick`."""

    def __call__(
        self,
        targets: Sequence[Path],
        *,
        environ: Mapping[str, str],
        reporter: Reporter,
        bent: ManifestOptions = ...,
        clock: Callable[[], float] = ...,
    ) -> TickReport: ...


class Wakeups:
    """What ends a wait early. Any thread may call; a signal's thread may, too."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[BatchEvent | None] = queue.SimpleQueue()
        self.is_stopping = False

    def stop(self) -> None:
        """No further tick. The one that runs ends in its own way."""
        self.is_stopping = True
        self._events.put(None)

    def tell(self, event: BatchEvent) -> None:
        """A webhook came."""
        self._events.put(event)

    def wait(self, timeout_s: float) -> list[BatchEvent]:
        """Until something comes, or for so long; then everything that came."""
        found = []
        try:
            found.append(self._events.get(timeout=max(timeout_s, 0.0)))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return [event for event in found if event is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """`targets` and `bent`: as for a tick. `every_s`: how long the loop waits at most."""

    targets: Sequence[Path]
    environ: Mapping[str, str]
    every_s: float = USUAL_EVERY_S
    bent: ManifestOptions = AS_WRITTEN


class Server:
    """The loop and what it tells of itself."""

    def __init__(
        self,
        options: ServeOptions,
        *,
        reporter: Reporter,
        log: Log,
        wakeups: Wakeups,
        tick: Tick = real_tick,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.health = Health()
        self.metrics = Metrics()
        self._options = options
        self._reporter = reporter
        self._log = log
        self._wakeups = wakeups
        self._tick = tick
        self._clock = clock
        self._next_whole_s = time.monotonic()
        self._next_start_s: float | None = None
        self._is_first = True

    def run(self) -> None:
        """Until `wakeups.stop`. A signal that a run takes itself ends the loop as well.

        Raises InputError where the first tick finds that a target is not there.
        """
        targets = self._options.targets
        while not self._wakeups.is_stopping:
            try:
                self._tick_once(targets)
            except (InterruptedRunError, KeyboardInterrupt):
                break
            targets = self._wait()
        self._log("stopped", {})

    def _wait(self) -> Sequence[Path]:
        """Wait for the next tick; gives what to look at in it. Webhooks never put off the tick of all."""
        while not self._wakeups.is_stopping:
            left_s = self._left_s()
            if left_s <= 0:
                break
            told_of = self._told_of(self._wakeups.wait(min(left_s, _LONGEST_NAP_S)))
            if told_of:
                return told_of
        return self._options.targets

    def _plan_next(self, next_start_at: datetime | None) -> None:
        self._next_whole_s = time.monotonic() + self._options.every_s
        self._next_start_s = None
        if next_start_at is not None:
            self._next_start_s = max(next_start_at.timestamp(), self._clock() + _SHORTEST_WAIT_S)

    def _left_s(self) -> float:
        left_s = self._next_whole_s - time.monotonic()
        return left_s if self._next_start_s is None else min(left_s, self._next_start_s - self._clock())

    # ------------------------------------------------------------ one tick

    def _tick_once(self, targets: Sequence[Path]) -> None:
        began_s = time.monotonic()
        is_whole = targets is self._options.targets
        try:
            report = self._tick(
                targets,
                environ=self._options.environ,
                reporter=self._reporter,
                bent=self._options.bent,
                clock=self._clock,
            )
        except InterruptedRunError:
            raise
        except InputError as error:
            if self._is_first:
                raise
            self._failed(began_s, error.what, error.next_step, is_whole=is_whole)
        except RunnerError as error:
            self._failed(began_s, error.what, error.next_step, is_whole=is_whole)
        except (
            Exception
        ) as error:  # a fault of this program must not end the loop: the next tick may do better
            what = f"internal error: {type(error).__name__}: {error}"
            self._failed(began_s, what, "please report it", is_whole=is_whole)
        else:
            took_s = time.monotonic() - began_s
            self.metrics.tick_done(report, ended_s=self._clock(), took_s=took_s, is_whole=is_whole)
            if is_whole:
                self.health.tick_done(report, self._clock())
                self._plan_next(report.next_start_at)
            for event, fields in told(report):
                self._log(event, fields)
            self._log("tick", summary(report, took_s))

        finally:
            self._is_first = False

    def _failed(self, began_s: float, what: str, next_step: str, *, is_whole: bool) -> None:
        took_s = time.monotonic() - began_s
        self.metrics.tick_failed(ended_s=self._clock(), took_s=took_s)
        self.health.tick_failed(self._clock())
        if is_whole:
            self._plan_next(None)
        self._log("tick_failed", {"what": what, "next_step": next_step, "took_s": round(took_s, 3)})

    # ------------------------------------------------------------ webhooks

    def _told_of(self, events: Sequence[BatchEvent]) -> list[Path]:
        """The manifests whose batches these events name. What is nobody's here is logged, and left."""
        manifests: dict[Path, None] = {}
        for event in {event.batch_ids: event for event in events}.values():
            owners = self._owners(event)
            manifests |= dict.fromkeys(owners)
            about = {"type": event.type, "batch_id": event.batch_ids[0], "manifests": list(map(str, owners))}
            self._log("webhook", about)
        return list(manifests)

    def _owners(self, event: BatchEvent) -> list[Path]:
        try:
            return owners_of_batch(event.batch_ids, self._options.targets, self._options.environ)
        except RunnerError as error:
            self._log("webhook_failed", {"what": error.what, "next_step": error.next_step})
            return []


def owners_of_batch(
    batch_ids: Sequence[str], targets: Sequence[Path], environ: Mapping[str, str]
) -> list[Path]:
    """Those of the targets' manifests that have had a batch of one of these ids. Raises RunnerError."""
    owners: set[Path] = set()
    for target in targets:
        whole = target.absolute()
        is_folder = whole.is_dir()
        place = locate(str(whole / "manifest.yaml" if is_folder else whole), environ)
        ledger = Ledger.open_reading(place)
        if ledger is None:
            continue
        try:
            paths = {path for batch_id in batch_ids for path in ledger.owners_of_batch(batch_id)}
        finally:
            ledger.close()
        if is_folder:
            found = {place.project / path for path in paths}
            owners |= {path for path in found if path.parent.resolve() == whole.resolve() and path.exists()}
        elif place.relative(whole) in paths:
            owners.add(target)
    return sorted(owners)


# ---------------------------------------------------------------- reports as log events

_EVENTS = (
    ("due_started", "started"),
    ("run_advanced", "advanced"),
    ("due_skipped", "skipped"),
    ("due_missed", "missed"),
    ("manifest_failed", "failed"),
)


def told(report: TickReport) -> Iterator[tuple[str, dict[str, Any]]]:
    """One event for each thing that a tick did; a run that was only looked at, and trouble that was told
    before, are left to the summary."""
    for event, name in _EVENTS:
        for one in getattr(report, name):
            is_old = event == "manifest_failed" and not one.is_new
            is_only_looked_at = event == "run_advanced" and one.finished is None
            if not is_old and not is_only_looked_at:
                yield event, _plain(asdict(one))


def summary(report: TickReport, took_s: float) -> dict[str, Any]:
    """The tick in one line."""
    counts = {name: len(getattr(report, name)) for _, name in _EVENTS}
    next_due_at = report.next_due_at.isoformat() if report.next_due_at is not None else None
    return {
        **counts,
        "open_runs": report.open_runs,
        "next_due_at": next_due_at,
        "took_s": round(took_s, 3),
    }


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()
    }
