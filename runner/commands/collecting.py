"""Result lines to stored answers: by custom_id, never by order, never by the server's counts.

Each line of a download is judged and matched with the request that was sent under its custom_id; the raw
line is durable in `raw/` before the ledger says where the answer stands. Reading the same lines again changes
nothing: a line that is held is skipped, an answer is never replaced by an error, of two answers the first
stays and the other goes to quarantine.

Usual answers (see `judging`) to requests that have no outcome yet are taken in by the thousand; every other
line by itself. Both ways lead to the same ledger, in the order of the lines.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.commands.judging import AnswerRow, JudgedPiece, OtherLine, Run, answer_values, judged_pieces
from runner.commands.preparing import Prepared
from runner.commands.sharding import sync_folder
from runner.core.model import Cause, Download, Outcome, Status
from runner.core.settling import is_better, judge
from runner.core.wire import BadLine, ResultLine, read_result_line
from runner.failpoints import failpoint
from runner.ledger import AnswerValues, Awaited, Expected, Ledger, RawFile, without_collector

_STORE_LINES = 50_000
"""A group is one durable transaction in the order of the shard's lines. The largest file is one group: with
groups of 2,000 the disk took a quarter of the time, and pages split until a tenth of the ledger was empty."""
_STORE_BYTES = 64 << 20
"""So much of long lines is a group too: what is kept of each until then (causes above all) is bounded."""


@dataclass(slots=True)
class Tally:
    """What one reading of one file brought. `stored` counts requests that had no outcome before."""

    lines: int = 0
    stored: int = 0
    repeated: int = 0
    duplicates: int = 0
    unknown: int = 0
    bad: int = 0


class ShardBook:
    """The requests of one shard and what is known of each, while its batch is being collected.

    `blocked`: a failure that the account is to blame for. `retry_after_s`: the longest wait that a line
    asks for. Memory: one entry per request of the shard, which the provider's limit bounds (50,000), from the
    first line that is read until `rest`: what waits for the server holds nothing.
    """

    def __init__(self, ledger: Ledger, shard_id: int) -> None:
        self._ledger = ledger
        self._shard_id = shard_id
        self._awaited: Awaited | None = None
        self._requests = 0
        self._taken: list[tuple[RawFile, Sequence[AnswerRow], Sequence[tuple[int, int]]]] = []
        self._is_held_stale = False
        self.blocked: Outcome | None = None
        self.retry_after_s = 0.0
        self._set_aside: set[bytes] = set()
        self._cause: Cause | None = None

    @property
    def failures(self) -> str:
        """How many requests failed and the first cause that was read, for people; empty for none."""
        if self._cause is None:
            return ""
        failed = sum(entry.status is Status.FAILED for entry in self._known.held.values())
        if not failed:
            return ""
        of_all = f"{failed:,} of {self._requests:,} requests failed"
        return f"{of_all}, the first with {self._cause.error_class}: {self._cause.message}"

    @property
    def outstanding(self) -> list[Expected]:
        """Requests without any outcome yet."""
        return [_unanswered(place) for place in self._known.open.values()]

    @property
    def is_complete(self) -> bool:
        """Whether every request has an outcome. Only counted where the requests are not at hand."""
        if self._awaited is None:
            return self._ledger.unsettled(self._shard_id) == 0
        return not self._awaited.open

    @property
    def lacks_answers(self) -> bool:
        """Whether a request has no outcome yet, or a failure that any answer would replace."""
        known = self._known
        return bool(known.open) or any(
            is_better(Status.REFUSED, entry.status) for entry in known.held.values()
        )

    def rest(self) -> None:
        """Let go of the requests: all that was taken in is in the ledger, and read from there when it is
        needed again."""
        self._awaited = None
        self._taken.clear()
        self._is_held_stale = False

    @property
    def accounted(self) -> int:
        """How many requests have an outcome."""
        known = self._known
        return self._requests - len(known.open)

    @property
    def _known(self) -> Awaited:
        """The requests, as the ledger knows them when they are first asked for."""
        if self._awaited is None:
            self._awaited = self._ledger.awaited(self._shard_id)
            self._requests = len(self._awaited.open) + len(self._awaited.held)
        return self._awaited

    def take_in(
        self, download: Download, raw: RawFile, raw_folder: Path, prepared: Prepared | None = None
    ) -> Tally:
        """Read a downloaded file into the ledger; the download itself is gone afterwards.

        The first download of a file becomes its raw file as it is; of later ones only new lines are
        appended. Either way a line is durable before the ledger says where it stands. `prepared`: what a
        worker made of the file, since this shard was last touched.
        """
        failpoint("collect.begins")
        part = Path(download.path)
        target = raw_folder / Path(raw.path).name
        tally = Tally()
        with ExitStack() as stack:
            if target.exists():
                prepared = None
                lines = stack.enter_context(part.open("rb"))
                kept: BinaryIO | None = stack.enter_context(_appending(target))
            else:
                part.replace(target)
                failpoint("raw.renamed")
                sync_folder(raw_folder)
                failpoint("raw.in_place")
                lines, kept = stack.enter_context(target.open("rb")), None
            held = stack.enter_context(target.open("rb"))
            store = _Store(self._ledger, self._shard_id, raw, lines=lines, kept=kept, held=held)
            self._read(lines, store, tally, prepared)
        part.unlink(missing_ok=True)
        failpoint("collect.part_removed")
        self._count(raw, tally)
        failpoint("collect.counted")
        return tally

    def take_again(self, raw: RawFile, raw_folder: Path) -> Tally:
        """Read a raw file that is there already into a ledger that does not know its answers yet."""
        tally = Tally()
        target = raw_folder / Path(raw.path).name
        with target.open("rb") as lines, target.open("rb") as held:
            store = _Store(self._ledger, self._shard_id, raw, lines=lines, kept=None, held=held)
            self._read(lines, store, tally)
        self._count(raw, tally)
        return tally

    def _count(self, raw: RawFile, tally: Tally) -> None:
        self._ledger.count_lines(
            raw,
            lines=tally.lines,
            duplicate_lines=tally.duplicates,
            unknown_lines=tally.unknown,
            bad_lines=tally.bad,
        )

    def _read(self, lines: BinaryIO, store: _Store, tally: Tally, prepared: Prepared | None = None) -> None:
        with without_collector():
            if prepared is not None:
                self._take_prepared(prepared, store, tally)
            else:
                self._read_pieces(judged_pieces(lines), store, tally)

    def _take_prepared(self, prepared: Prepared, store: _Store, tally: Tally) -> None:
        """No other line of the file is about a request that has a usual answer in it."""
        self._awaited = prepared.awaited
        self._requests = len(prepared.awaited.open) + len(prepared.awaited.held) + len(prepared.values)
        self._taken.clear()
        self._is_held_stale = True
        tally.lines += len(prepared.values)
        tally.stored += len(prepared.values)
        store.add_answers(prepared.values)
        store.flush()
        self._read_pieces([JudgedPiece(0, [Run("", [], one) for one in prepared.others])], store, tally)

    def _read_pieces(self, pieces: Iterable[JudgedPiece], store: _Store, tally: Tally) -> None:
        group_lines, group_begins = tally.lines, 0
        for piece in pieces:
            for run in piece.runs:
                self._take_answers(run, store, tally)
                if run.then is not None:
                    self._read_other(run.then, store, tally)
            if tally.lines - group_lines >= _STORE_LINES or piece.end - group_begins >= _STORE_BYTES:
                store.flush()
                group_lines, group_begins = tally.lines, piece.end
        store.flush()

    def _take_answers(self, run: Run, store: _Store, tally: Tally) -> None:
        """Usual answers. One whose request is not open is looked at by itself, in its turn."""
        tally.lines += len(run.rows)
        take = self._known.open.pop
        places = [take(row[0], None) for row in run.rows]
        if None not in places:
            self._settle(run.model, run.rows, places, store)  # type: ignore[arg-type]
            tally.stored += len(run.rows)
            return
        for row, place in zip(run.rows, places, strict=True):
            if place is not None:
                self._settle(run.model, [row], [place], store)
                tally.stored += 1
            else:
                self._read_line(row[5], store.line_at(row[5], row[6]), store, tally)

    def _settle(
        self, model: str, rows: Sequence[AnswerRow], places: Sequence[tuple[int, int]], store: _Store
    ) -> None:
        """Usual answers to requests that had no outcome."""
        rows = store.placed(rows)
        store.add_answers(answer_values(model, rows, places, self._known.model))
        self._taken.append((store.raw, rows, places))

    def _read_other(self, place: OtherLine, store: _Store, tally: Tally) -> None:
        tally.lines += 1
        if place.length is None:
            tally.bad += 1
        else:
            self._read_line(place.offset, store.line_at(place.offset, place.length), store, tally)

    def _read_line(self, start: int, line: bytes, store: _Store, tally: Tally) -> None:
        result = read_result_line(line)
        if isinstance(result, BadLine):
            tally.bad += 1
            self._aside(start, line, store, result.reason)
            return
        entry = self._entry(result.custom_id or "", store)
        if entry is None:
            tally.unknown += 1
            self._aside(start, line, store, "no request of this shard has this custom_id")
            return
        self._match(start, line, store, tally, entry, result)

    def _entry(self, custom_id: str, store: _Store) -> Expected | None:
        """The request with this custom_id, and what is held for it; None where the shard has none."""
        known = self._known
        place = known.open.get(custom_id)
        if place is not None:
            return _unanswered(place)
        if self._is_held_stale and custom_id not in known.held:
            store.flush()
            known.held.update(self._ledger.awaited(self._shard_id).held)
            self._is_held_stale = False
        for raw, rows, places in self._taken:
            known.held.update(_held(raw, rows, places))
        self._taken.clear()
        return known.held.get(custom_id)

    def _match(
        self, start: int, line: bytes, store: _Store, tally: Tally, entry: Expected, result: ResultLine
    ) -> None:
        outcome = judge(result)
        self.blocked = outcome if outcome.blocked else self.blocked
        if outcome.retry_after_s is not None:
            self.retry_after_s = max(self.retry_after_s, outcome.retry_after_s)
        if entry.status is not None and not is_better(outcome.status, entry.status):
            if store.holds(entry, line):
                tally.repeated += 1
            elif outcome.status is entry.status and store.has_lost(entry, result.custom_id):
                tally.repeated += 1
                offset = store.place_again(entry, start, line)
                self._known.held[result.custom_id or ""] = entry._replace(offset=offset, length=len(line))
            else:
                tally.duplicates += 1
                self._aside(start, line, store, "another line of this request is held already")
            return
        tally.stored += entry.status is None
        if outcome.status is Status.FAILED:
            self._cause = self._cause or outcome.cause
        offset = store.add(entry, outcome, start, line)
        self._known.open.pop(result.custom_id or "", None)
        self._known.held[result.custom_id or ""] = Expected(
            entry.line, entry.request_id, outcome.status, store.raw.id, offset, len(line)
        )

    def _aside(self, start: int, line: bytes, store: _Store, reason: str) -> None:
        """Keep a line that is no outcome, once, however often the file is read."""
        digest = hashlib.sha256(line).digest()
        if digest not in self._set_aside:
            self._set_aside.add(digest)
            store.set_aside(start, line, reason)


def _unanswered(place: tuple[int, int]) -> Expected:
    return Expected(*place, None, None, None, None)


def _held(raw: RawFile, rows: Sequence[AnswerRow], places: Sequence[tuple[int, int]]) -> dict[str, Expected]:
    """What is held once these answers are stored."""
    return {
        row[0]: Expected(line, request_id, Status.SUCCEEDED, raw.id, row[5], row[6])
        for row, (line, request_id) in zip(rows, places, strict=True)
    }


class _Store:
    """Gathers outcomes and writes them in groups: first the raw lines, durable, then the ledger.

    `lines` are being read. With `kept`, new ones are appended there; without, `lines` is the raw file itself.
    """

    def __init__(
        self,
        ledger: Ledger,
        shard_id: int,
        raw: RawFile,
        *,
        lines: BinaryIO,
        kept: BinaryIO | None,
        held: BinaryIO,
    ) -> None:
        self.raw = raw
        self._ledger = ledger
        self._shard_id = shard_id
        self._lines = lines
        self._kept = kept
        self._held = held
        self._answers: list[AnswerValues] = []
        self._items: list[tuple[int, int, Outcome, int, int]] = []
        self._quarantined: list[tuple[int, int, str]] = []
        self._placed: list[tuple[int, int, int]] = []

    def line_at(self, offset: int, length: int) -> bytes:
        """A line of the file that is being read."""
        return os.pread(self._lines.fileno(), length, offset)

    def placed(self, rows: Sequence[AnswerRow]) -> Sequence[AnswerRow]:
        """Usual answers with the places that their lines have in the raw file."""
        return rows if self._kept is None else [self._kept_row(row) for row in rows]

    def add_answers(self, values: Iterable[AnswerValues]) -> None:
        """Take usual answers, whose lines are in their places."""
        self._answers += values

    def _kept_row(self, row: AnswerRow) -> AnswerRow:
        custom_id, input_tokens, output_tokens, uuid, response_id, offset, length = row
        kept_at = self._keep(offset, self.line_at(offset, length))
        return custom_id, input_tokens, output_tokens, uuid, response_id, kept_at, length

    def add(self, entry: Expected, outcome: Outcome, start: int, line: bytes) -> int:
        """Take an outcome; returns where its line stands in the raw file."""
        offset = self._keep(start, line)
        self._items.append((entry.line, entry.request_id, outcome, offset, len(line)))
        return offset

    def set_aside(self, start: int, line: bytes, reason: str) -> None:
        """Take a line that matches nothing."""
        self._quarantined.append((self._keep(start, line), len(line), reason))

    def holds(self, entry: Expected, line: bytes) -> bool:
        """Whether the line held for this request is this very line."""
        return entry.length == len(line) and self._bytes_of(entry) == line

    def has_lost(self, entry: Expected, custom_id: str | None) -> bool:
        """Whether what should be held for this request is not there any more: somebody damaged the file."""
        held = self._bytes_of(entry)
        if held is None:
            return False
        found = read_result_line(held)
        return isinstance(found, BadLine) or found.custom_id != custom_id

    def place_again(self, entry: Expected, start: int, line: bytes) -> int:
        """Hold this line in the place of one that is lost; returns where it stands."""
        offset = self._keep(start, line)
        self._placed.append((entry.line, offset, len(line)))
        return offset

    def _bytes_of(self, entry: Expected) -> bytes | None:
        """What stands where the request's line should; None where that is another file's matter."""
        if entry.file_id != self.raw.id or entry.offset is None or entry.length is None:
            return None
        if self._kept is not None:
            self._kept.flush()
        return os.pread(self._held.fileno(), entry.length, entry.offset)

    def flush(self) -> None:
        """Make it durable, in this order: bytes, then what the ledger says of them."""
        if self._kept is not None:
            self._kept.flush()
            failpoint("raw.appended")
            os.fsync(self._kept.fileno())
        failpoint("raw.synced")
        if self._items or self._answers:
            self._ledger.store_outcomes(self._shard_id, self.raw, self._items, self._answers)
        if self._quarantined:
            self._ledger.quarantine(self.raw, self._quarantined)
        if self._placed:
            self._ledger.place_again(self._shard_id, self.raw, self._placed)
        self._items, self._answers, self._quarantined, self._placed = [], [], [], []

    def _keep(self, start: int, line: bytes) -> int:
        if self._kept is None:
            return start
        offset = self._kept.tell()
        self._kept.write(line + b"\n")
        failpoint("raw.line_appended")
        return offset


def _appending(path: Path) -> BinaryIO:
    """The file, to write at its end; a line torn by an earlier crash is closed first."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b")
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        torn = file.read(1) != b"\n"
        file.seek(0, os.SEEK_END)
        if torn:
            file.write(b"\n")
    return file
