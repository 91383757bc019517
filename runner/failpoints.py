"""Named places where a test kills this process: before and after everything that lasts.

Theory. "Nothing is paid twice and nothing is lost, whenever the process dies" is a claim about every
moment between two effects: a call on the wire, a commit, a rename, an fsync. Each such moment has a name
here, and the code says `failpoint("name")` at it. Unarmed, that is one look at a module's variable. Armed
by the environment, the process ends (or stops) there as it would by a power cut or the out-of-memory
killer: by a signal that no code of ours sees, so no `finally` and no flush runs.

    RUNNER_FAILPOINT=create.answered          SIGKILL at the first time this point is reached
    RUNNER_FAILPOINT=create.answered:3        at the third time
    RUNNER_FAILPOINT=create.answered@stop     SIGSTOP instead: the process waits for a SIGCONT
    RUNNER_FAILPOINT=*:57                     at the 57th point of any name: a moment, chosen by a number
    RUNNER_FAILPOINT_LOG=FILE                 append the name of every point that is reached

A name that is not in `POINTS` is an error where one is armed, and a test looks through the source for
the rest. Reached by several threads at once; counts are exact.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final

VARIABLE: Final = "RUNNER_FAILPOINT"
LOG_VARIABLE: Final = "RUNNER_FAILPOINT_LOG"

POINTS: Final[Mapping[str, str]] = {
    # ------------------------------------------------------------ the ledger is opened and closed
    "ledger.made": "the empty database file is there; no table in it",
    "ledger.migrating": "every table is made; the migration's transaction is open",
    "ledger.migrated": "the database has its shape; nothing is opened for work",
    "ledger.closing": "all is done; the write-ahead log is not folded in",
    "ledger.folded": "the log is folded into the file; the connections are open",
    # ------------------------------------------------------------ what an earlier run never sent
    "discard.begins": "an unpaid shard of an earlier run is locked; it is to be discarded",
    "discard.committed": "it is discarded and its requests are free; its file is there",
    "discard.file_removed": "its file is gone too",
    # ------------------------------------------------------------ a run that was cut off goes on
    "resume.recorded": "the ledger says that the run is under way again; nothing else is done",
    # ------------------------------------------------------------ planning
    "plan.snapshot": "the dataset is copied; nothing is rendered",
    "plan.rendered": "the rows are rendered and compared; the last shard is not closed",
    "plan.ready": "the shards are sealed; the gate is not passed",
    "plan.passed": "the gate is passed; nothing is recorded",
    "shard.line": "some lines are written to an input file that is not whole yet",
    "shard.written": "an input file is whole; not synced",
    "shard.synced": "an input file is durable under its scratch name",
    "shard.renamed": "an input file has its name; the folder is not synced",
    "shard.sealed": "all input files are durable under their names",
    # ------------------------------------------------------------ the plan becomes a fact
    "commit.begins": "the snapshot is still in scratch",
    "commit.snapshot_renamed": "the snapshot has its name; the folder is not synced",
    "commit.snapshot_synced": "the snapshot is durable; the run is not recorded",
    "commit.run_started": "the run is recorded; the plan is not",
    "commit.shards_added": "shards are written; the transaction is open, no request placed",
    "commit.requests_placed": "requests and attempts are written; the transaction is open, no row replaced",
    "commit.rows_replaced": "a slice of rows is written; the transaction is open",
    "commit.before": "the whole plan is written; the transaction is open",
    "commit.done": "the plan is a fact; older snapshots are there",
    "commit.snapshots_forgotten": "older snapshots are gone; nothing is sent",
    # ------------------------------------------------------------ every move of a shard
    "save.rows_written": "the move is written; the transaction is open, the journal does not know",
    "save.journal_written": "the journal's line is written; not synced",
    "save.journal_synced": "the journal's line is durable; the transaction is open",
    "save.committed": "the move is durable in ledger and journal",
    # ------------------------------------------------------------ upload
    "upload.begins": "the shard is taken; no intent",
    "upload.intended": "the intent is durable; no call",
    "upload.sending": "in the thread of the call; not a byte is sent",
    "upload.piece_sent": "a piece of the body is handed to the connection",
    "upload.answered": "in the thread of the call; the reply is in memory",
    "upload.landed": "the reply is with the engine; not recorded",
    "upload.recorded": "the file's id is durable",
    # ------------------------------------------------------------ create
    "create.begins": "the file is uploaded; no intent",
    "create.intended": "the intent is durable; no call",
    "create.sending": "in the thread of the call; not a byte is sent",
    "create.answered": "in the thread of the call; the reply is in memory",
    "create.landed": "the reply is with the engine; not recorded",
    "create.recorded": "the batch's id is durable",
    "create.unknown_recorded": "it is durable that nobody knows whether the batch exists",
    # ------------------------------------------------------------ an unknown create
    "scan.begins": "settled; in the thread of the call, nothing is listed",
    "scan.listed": "the listings are read; the input file is not looked for",
    "scan.answered": "the scan is in memory",
    "scan.landed": "the scan is with the engine; nothing is concluded",
    "scan.recorded": "what the scans prove is durable",
    "adopt.recorded": "a batch that was found is durable as this attempt",
    "fence.sending": "in the thread of the call; the input file is not deleted",
    "fence.answered": "the delete's reply is in memory",
    "fence.landed": "the delete's reply is with the engine; not recorded",
    "fence.recorded": "it is durable that the fence is drawn",
    "canary.sending": "in the thread of the scan after a fence; its canary is not uploaded",
    "canary.answered": "the canary's reply is in memory",
    # ------------------------------------------------------------ watching a batch
    "poll.sending": "in the thread of the call; the batch is not asked for",
    "poll.answered": "the batch is in memory; no file is read",
    "poll.landed": "batch and downloads are with the engine; nothing is recorded",
    "seen.recorded": "what the batch says is durable, with the ids of its files",
    "download.begins": "the reply's head is there; the scratch file is not made",
    "download.piece": "a piece of the body is in the scratch file",
    "download.received": "the whole body is in the scratch file; not synced",
    "download.synced": "the scratch file is durable; nobody read it",
    # ------------------------------------------------------------ collecting
    "collect.begins": "the raw file's row is in the ledger; the download is in scratch",
    "raw.renamed": "the download is the raw file; the folder is not synced",
    "raw.in_place": "the raw file is durable; no line of it is in the ledger",
    "raw.line_appended": "a line is appended to a raw file; not flushed",
    "raw.appended": "new lines are flushed to a raw file; not synced",
    "raw.synced": "every line to be stored is durable; the ledger does not know",
    "outcomes.answers_written": "attempts have usual answers; the transaction is open, requests don't",
    "outcomes.attempts_written": "attempts have outcomes; the transaction is open, requests don't",
    "outcomes.before": "outcomes are written; the transaction is open",
    "outcomes.committed": "outcomes are durable",
    "quarantine.committed": "lines that match nothing are durable",
    "collect.part_removed": "the lines are stored; the scratch file is gone",
    "collect.counted": "the raw file's counts are durable",
    "finish.begins": "every request has an outcome; the shard is not done",
    "finish.before": "the shard is done; the transaction is open",
    "finish.committed": "it is durable that the shard is done",
    # ------------------------------------------------------------ another attempt
    "retry.begins": "all shards are over; nothing is looked through",
    "retry.copied": "lines worth repeating are copied; the last shard is not closed",
    "retry.sealed": "the new shards are durable; the ledger does not know them",
    "retry.before": "new shards and attempts are written; the transaction is open",
    "retry.committed": "the new shards are a fact; not driven",
    # ------------------------------------------------------------ a shard that is too large is cut
    "cut.begins": "the server found a shard too large; nothing is written",
    "cut.sealed": "the smaller files are durable; the ledger does not know them",
    "cut.before": "the old shard is given up and the new ones are placed; the transaction is open",
    "cut.committed": "the smaller shards are a fact; the old file is there",
    # ------------------------------------------------------------ larger token limits
    "raise.begins": "answers may have been cut; nothing is rendered",
    "raise.sealed": "shards with larger limits are durable; the ledger does not know them",
    "raise.committed": "the larger requests are a fact; not driven",
    # ------------------------------------------------------------ the table
    "publish.begins": "nothing is open any more; no draft",
    "publish.drafted": "empty drafts are there",
    "publish.lineage_written": "the records are in scratch",
    "publish.joined": "records and rows are joined; nothing is written",
    "publish.table_written": "a draft is whole; not synced",
    "publish.synced": "a draft is durable; not read again",
    "publish.sealed": "all drafts are durable; none is placed",
    "publish.renamed": "a draft is its target; the folder is not synced",
    "publish.placed": "a table is in place; perhaps others are not",
    "publish.all_placed": "all tables are in place; the drafts' locks are held",
    "publish.unrecorded": "all tables are in place; the ledger does not know",
    "publish.history_kept": "the table is kept as the run's history; the ledger does not know",
    "publish.recorded": "what was published is durable",
    "publish.shard_removed": "an input file that nobody needs is gone",
    "end.begins": "the run has its result; its end is not recorded",
    "end.recorded": "the run's end is durable; the ledger is open",
    "repeat.started": "nothing moved: the run is recorded, not its table",
    "repeat.noted": "the run that did nothing has its table; it is not ended",
    # ------------------------------------------------------------ schedules
    "due.before": "a due time is claimed; the transaction is open",
    "due.claimed": "the claim is durable; nothing is begun",
    "due.begun": "it is durable when it was first tried; nothing is planned",
    "due.started": "it is durable which run is its run, and on its way",
    "due.ended": "it is durable what became of it",
    # ------------------------------------------------------------ held shards, cancelling, cleaning
    "held.reexamined": "a held shard is to be looked at again",
    "cancel.begins": "nothing is recorded of the wish",
    "cancel.requested": "the wish is durable; the server does not know",
    "cancel.sent": "the server has answered; the next batch is not told",
    "gc.begins": "what is left over is found; this one is not removed",
    "gc.forgot": "the ledger has forgotten it; the file is there",
    "gc.removed": "the file is gone",
    "gc.remote_sending": "an input file on the server is to be deleted",
    "gc.remote_deleted": "it is deleted; the ledger does not know",
    "gc.remote_noted": "the ledger knows",
}
"""Every point, and what is true at it."""

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class _Armed:
    """What the environment asked for."""

    def __init__(self, wanted: str, log: str) -> None:
        place, _, action = wanted.partition("@")
        self._name, _, count = place.partition(":")
        self._nth = int(count or 1)
        self._signal = _SIGNALS[action or "kill"]
        self._log = log
        self._hits: Counter[str] = Counter()
        self._lock = threading.Lock()
        if self._name not in ("", "*") and self._name not in POINTS:
            raise ValueError(f"{VARIABLE}: there is no point {self._name!r}")

    def reach(self, name: str) -> None:
        if name not in POINTS:
            raise ValueError(f"{name!r} is not among the points of {__name__}")
        with self._lock:
            if self._log:
                self._note(name)
            self._hits.update((name, "*"))
            if self._name in (name, "*") and self._hits[self._name] == self._nth:
                os.kill(os.getpid(), self._signal)

    def _note(self, name: str) -> None:
        descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{name}\n".encode())
        os.close(descriptor)


_armed: _Armed | None = None


def arm(environ: Mapping[str, str]) -> None:
    """Do as the environment asks. Called at import; again only where a process is given another one."""
    global _armed
    wanted, log = environ.get(VARIABLE, ""), environ.get(LOG_VARIABLE, "")
    _armed = _Armed(wanted, log) if wanted or log else None


def failpoint(name: str) -> None:
    """The process is at this point. Nothing happens unless the environment asked for it."""
    if _armed is not None:
        _armed.reach(name)


arm(os.environ)
