"""A process beside this one that prepares downloaded files while the engine stores others.

It is there while files wait, and only where there are enough of them: it takes half a second of a processor
to start. A file that it can't prepare, or that it died over, is left to the engine: nothing depends on it.
What it knows is the place of a ledger that is a file; a database's URL may hold a password, so with a server
there is no such process. `prepare` is called by the threads in which files are fetched, all else by the
engine's.
"""

from __future__ import annotations

import subprocess
import threading
from collections import deque

from runner.commands.preparing import Prepared, PrepareWork
from runner.commands.work import GoneError, Kind, Message, Order, receive, unpacked
from runner.commands.worker_pool import processors
from runner.commands.worker_process import WorkerProcess
from runner.core.model import Download
from runner.ledger import LedgerPlace

WORTH_LINES = 120_000
"""So many lines that wait are worth a process."""
LEAST_LINES = 5_000
"""A file of fewer is read at once by whoever takes it in."""
_MOST_READY_LINES = 200_000
"""Files of so many lines together may be ready, or one, however large: a line takes some hundred bytes."""
_MOST_DEATHS = 3


class _FaultError(Exception):
    """A fault of this program, in the process."""


class Ahead:
    """At most one process, between `begin` and `close`; it is started where it is worth it."""

    def __init__(self, place: LedgerPlace) -> None:
        self._work = PrepareWork(place)
        self._has_room = processors() > 1 and place.url.startswith("sqlite:")
        self._one_file = threading.Lock()
        self._changing = threading.Condition()
        self._waiting_lines = 0
        self._ready: dict[str, int] = {}
        self._is_over = True
        self._worker: WorkerProcess | None = None
        self._deaths = 0
        self._notes: deque[str] = deque()

    # ------------------------------------------------------------ where files are fetched

    def prepare(self, shard_id: int, download: Download) -> Message | None:
        """Have a file prepared that has just come; None where it isn't. Waits for earlier ones, and for those
        to be taken in: so nobody who waits here may hold back another file that is ready."""
        with self._changing:
            self._waiting_lines += download.lines
        if not self._is_worth_it(download):
            return None
        with self._one_file:
            try:
                self._await_room(download.lines)
                worker = self._started()
                worker.order(Order(0, download.size_bytes, f"{shard_id} {download.path}"))
                message = self._piece(worker)
            except (GoneError, OSError, subprocess.SubprocessError, _FaultError) as error:
                self._died(error)
                return None
            if message is not None:
                with self._changing:
                    self._ready[download.path] = download.lines
            return message

    def _is_worth_it(self, download: Download) -> bool:
        is_whole_file = download.skip == 0 and download.lines >= LEAST_LINES
        with self._changing:
            is_there = self._worker is not None or self._waiting_lines >= WORTH_LINES
            return self._has_room and self._deaths < _MOST_DEATHS and is_whole_file and is_there

    def _await_room(self, lines: int) -> None:
        """Until a file of so many lines may be ready beside those that are."""
        with self._changing:
            self._changing.wait_for(lambda: self._is_over or self._has_room_for(lines))

    def _has_room_for(self, lines: int) -> bool:
        return not self._ready or sum(self._ready.values()) + lines <= _MOST_READY_LINES

    def _started(self) -> WorkerProcess:
        """The process, ready. Raises GoneError, OSError."""
        with self._changing:
            if self._is_over:
                raise GoneError
            worker, is_new = self._worker, self._worker is None
            if worker is None:
                worker = self._worker = WorkerProcess()
        if is_new:
            worker.introduce(self._work)
        return worker

    def _piece(self, worker: WorkerProcess) -> Message | None:
        """What it made of a file. Raises GoneError, OSError."""
        found = None
        while (message := receive(worker.channel)).kind is Kind.PIECE:
            found = message
        if message.kind is Kind.FAULT:
            raise _FaultError(f"failed: {message.text.strip().splitlines()[-1]}")
        return found

    def _died(self, error: Exception) -> None:
        """Told, unless it was ended by `close`; the next file may have another one."""
        with self._changing:
            worker, self._worker = self._worker, None
            if self._is_over:
                return
            self._deaths += 1
        ending = str(error)
        if worker is not None:
            ending = ending if isinstance(error, _FaultError) else worker.ending()
            worker.close()
        with self._changing:
            self._notes.append(f"a process that reads result files {ending}; the file is read without it")

    # ------------------------------------------------------------ where they are taken in

    def unpacked(self, message: Message) -> Prepared:
        """A file as it was prepared."""
        return unpacked(self._work, message)

    def taken_in(self, download: Download) -> None:
        """One file less waits; with the last one the process ends."""
        with self._changing:
            self._waiting_lines -= download.lines
            self._ready.pop(download.path, None)
            self._changing.notify_all()
            is_last = self._waiting_lines <= 0
        if is_last:
            self._end()

    def told(self) -> list[str]:
        """What became of processes, once."""
        with self._changing:
            notes = list(self._notes)
            self._notes.clear()
            return notes

    def begin(self) -> None:
        """Files are fetched from here on, until `close`."""
        with self._changing:
            self._is_over, self._waiting_lines = False, 0
            self._ready.clear()

    def close(self) -> None:
        """End the process for good. What it was at is left to the engine, which does not ask for it."""
        with self._changing:
            self._is_over = True
            self._changing.notify_all()
        self._end()

    def _end(self) -> None:
        with self._changing:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            with self._one_file:  # whoever waits for it sees that it is gone
                worker.close()
