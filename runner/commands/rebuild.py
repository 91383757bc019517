"""`run rebuild MANIFEST...`: a lost or damaged ledger made again, so that nothing is paid twice.

The outline::

    rebuild
      hold           every manifest's lock: nobody works here
      read_journal   which shards there were, and every id the server gave
      Findings       the server's listing by our tags: batches the journal does not know of
      restore        into a new ledger beside the old one: shard, requests, raw files
      conclude       where each shard stands, now that the answers of all of them are known
      swap_in        the old ledger is set aside, the new one takes its place

Theory. The journal says what was sent and where it stood, the raw files hold the answers, and the lists
of requests (`requests/`, or the input file itself while a shard is open) say by which fingerprint each
custom_id goes: whole ones, so an answer is joined by id and never by likeness, and answers of prompts that
no manifest asks any more come back too. What is under way comes back as under way, with the ids that the
submission protocol needs; so the next `run` resolves, collects and publishes as after any crash. Nothing
is sent here. What can't be told is held, and no run goes on beside it before a person has decided.
"""

from __future__ import annotations

import heapq
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from runner.commands.collecting import ShardBook
from runner.commands.findings import Findings, look_for_batches
from runner.commands.moments import Reporter
from runner.commands.options import ManifestOptions
from runner.commands.requests_of import requests_of
from runner.commands.untold import UNTOLD
from runner.commands.workplace import Workplace, open_workplace
from runner.core.settling import judge_abandoned, judge_absence
from runner.core.states import ShardState, restored, terminal_word
from runner.errors import InputError, LedgerError, Mistake
from runner.ledger import (
    Expected,
    Journaled,
    JournaledShard,
    Ledger,
    LedgerPlace,
    RawFile,
    Restoration,
    ResultKind,
    ShardFact,
    append_facts,
    hold,
    is_file_of_ours,
    read_journal,
    scratch_folder,
    swap_in,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildOptions:
    """`is_offline`: the server is not asked; the next run asks it all the same."""

    manifests: tuple[ManifestOptions, ...]
    is_offline: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildResult:
    """What came back. `shards` counts them by state, `untold` are those whose requests are not known.

    `answers`: requests with an outcome. `on_their_way`: requests that wait for one. `lost` says in words
    what could not be restored. `set_aside`: where the old ledger is now.
    """

    shards: Mapping[str, int]
    answers: int
    on_their_way: int
    found_on_server: tuple[str, ...]
    lost: tuple[str, ...]
    set_aside: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restored:
    """A shard whose requests and raw files were read. `read_at_s`: when the last of these was written."""

    shard_id: int
    newest: ShardFact
    state: ShardState
    read_at_s: float


@dataclass(slots=True)
class _Clock:
    """The time at which an answer counts as given: when its raw file was written."""

    now_s: float

    def __call__(self) -> float:
        return self.now_s


def rebuild(options: RebuildOptions, *, reporter: Reporter) -> RebuildResult:
    """Make the ledger again. Raises RunnerError; the old ledger stays in place until the new one is whole."""
    workplaces = [open_workplace(one, options.environ) for one in options.manifests]
    place = _only_place(workplaces)
    place.prepare()
    with ExitStack() as stack:
        for path in sorted(_locks_of(place, workplaces)):
            stack.enter_context(hold(path))
        journaled = read_journal(place)
        findings = Findings()
        if not options.is_offline:
            findings = look_for_batches(workplaces, journaled, options.environ, stack, reporter)
        if not journaled.shards and not findings.unknown:
            raise LedgerError(
                f"{place.journal}: says nothing of any shard, so there is nothing to make a ledger of",
                next_step="if nothing was ever sent from here, `run MANIFEST` begins anew",
            )
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rebuild-", dir=scratch_folder(place)))
        )
        work = _Rebuild(place, journaled, findings)
        work.fill(scratch / "ledger.db")
        append_facts(place, [asdict(fact) for fact in findings.facts])
        aside = swap_in(place, scratch / "ledger.db")
    return work.result(aside)


def _only_place(workplaces: Sequence[Workplace]) -> LedgerPlace:
    place = workplaces[0].place
    for other in workplaces[1:]:
        if other.place != place:
            what = f"belongs to another ledger than {workplaces[0].manifest.path}"
            raise InputError(
                [Mistake(where=other.manifest.path, what=what, hint="rebuild one project at a time")]
            )
    if not is_file_of_ours(place):
        what = "only a ledger in a SQLite file can be made again"
        raise InputError(
            [Mistake(where="RUNNER_LEDGER", what=what, hint="restore the database's own backup")]
        )
    return place


def _locks_of(place: LedgerPlace, workplaces: Sequence[Workplace]) -> set[Path]:
    return {one.lock_path for one in workplaces} | set((place.folder / "locks").glob("*-*.lock"))


class _Rebuild:
    """Fills a new ledger, shard by shard, oldest first."""

    def __init__(self, place: LedgerPlace, journaled: Journaled, findings: Findings) -> None:
        self._place = place
        self._journaled = journaled
        self._findings = findings
        self._states: Counter[str] = Counter()
        self._lost: list[str] = list(findings.remarks)
        self._answers = 0
        self._on_their_way = 0
        self._clock = _Clock(time.time())
        if journaled.damaged_lines:
            self._lost.append(
                f"{journaled.damaged_lines} lines of {place.journal} can't be read; "
                "what was uploaded last is looked for on the server by the next run"
            )

    def fill(self, path: Path) -> None:
        """All shards, and the new ledger closed."""
        new_place = replace(self._place, url=f"sqlite:///{path}")
        with Ledger.open(new_place, clock=self._clock) as ledger:
            restoration = ledger.restoration()
            known = _oldest_first(self._journaled.shards, self._findings.unknown)
            restored_ones = [self._restore(ledger, restoration, one) for one in known]
            concluded = [self._conclude(ledger, restoration, one) for one in restored_ones if one is not None]
            for shard_id, state in reversed(concluded):
                if not state.is_final or state is ShardState.HELD:
                    self._on_their_way += restoration.await_wanted(shard_id)

    def _restore(self, ledger: Ledger, restoration: Restoration, known: JournaledShard) -> _Restored | None:
        """The shard with its answers; None where there is nothing to conclude about it."""
        known = self._findings.completed(known)
        newest = known.newest
        state = restored(
            newest.shard_state,
            has_batch=newest.batch_id is not None,
            is_doubtful=self._journaled.damaged_lines > 0,
        )
        self._clock.now_s = time.time()
        key = (newest.run, newest.slot)
        extras = (*self._journaled.extras.get(key, ()), *self._findings.extras.get(key, ()))
        columns = self._journaled.runs.get(newest.run)
        shard_id = restoration.add_shard(known, state, columns=columns, extras=extras)
        extra_outputs = self._journaled.extra_outputs.get(key, ())
        if state is ShardState.REFUSED or (
            state is ShardState.DISCARDED and not any(self._raw_files(ledger, shard_id, known, extra_outputs))
        ):
            self._states[state.value] += 1
            return None
        requests = requests_of(newest, self._place.folder, self._findings.client_for(newest))
        if requests is None:
            self._states[self._untold(restoration, shard_id, known, state).value] += 1
            return None
        restoration.add_requests(shard_id, requests)
        self._read_raw(ledger, shard_id, known, extra_outputs)
        if state is ShardState.DISCARDED:
            restoration.free_unanswered(shard_id)
        return _Restored(shard_id=shard_id, newest=newest, state=state, read_at_s=self._clock.now_s)

    def _untold(
        self, restoration: Restoration, shard_id: int, known: JournaledShard, state: ShardState
    ) -> ShardState:
        """A shard that was done or given up is told and left; any other is held."""
        newest = known.newest
        what = f"shard {newest.slot} of run {newest.run[:8]} ({newest.requests} requests"
        what += f", batch {newest.batch_id})" if newest.batch_id else ")"
        if state in (ShardState.DONE, ShardState.DISCARDED):
            self._lost.append(
                f"{what}: its answers stay in raw/, but {UNTOLD}; `run plan` shows what is asked"
            )
            return state
        self._lost.append(f"{what}: {UNTOLD}; it is held")
        restoration.stand(shard_id, ShardState.HELD, UNTOLD)
        return ShardState.HELD

    def _read_raw(
        self, ledger: Ledger, shard_id: int, known: JournaledShard, extra_outputs: Sequence[str]
    ) -> None:
        book = ShardBook(ledger, shard_id)
        for raw, path in self._raw_files(ledger, shard_id, known, extra_outputs):
            self._clock.now_s = path.stat().st_mtime
            book.take_again(raw, path.parent)

    def _raw_files(
        self, ledger: Ledger, shard_id: int, known: JournaledShard, extra_outputs: Sequence[str]
    ) -> Iterator[tuple[RawFile, Path]]:
        """Those that are here: of every attempt, in order, then of second batches."""
        files = [found for fact in known.attempts for found in _result_files(fact)]
        for kind, file_id in [*files, *(_output(file_id) for file_id in extra_outputs)]:
            raw = ledger.raw_file(shard_id, kind, file_id)
            path = self._place.folder / raw.path
            if path.exists():
                yield raw, path

    def _conclude(self, ledger: Ledger, restoration: Restoration, one: _Restored) -> tuple[int, ShardState]:
        """Done, if it was and nothing is wanted of it any more; else the next run collects it (again)."""
        self._clock.now_s = one.read_at_s
        state, newest = one.state, one.newest
        entries = list(ledger.expected(one.shard_id).values())
        outstanding = [entry for entry in entries if entry.status is None]
        self._answers += len(entries) - len(outstanding)
        if state is ShardState.DONE and outstanding:
            wanted = len(restoration.wanted(one.shard_id))
            if wanted and newest.batch_id is not None and not self._findings.is_gone(newest):
                state = ShardState.SUBMITTED
            else:
                self._give_up(restoration, one, outstanding, wanted)
        restoration.stand(one.shard_id, state)
        self._states[state.value] += 1
        return one.shard_id, state

    def _give_up(
        self, restoration: Restoration, one: _Restored, outstanding: Sequence[Expected], wanted: int
    ) -> None:
        """What is in no raw file of a shard that was done, and that nobody wants or no server can give any
        more. What is wanted of a batch is told."""
        newest = one.newest
        if newest.batch_id is None:
            outcome = judge_abandoned(newest.problem or newest.what)
        else:
            outcome = judge_absence(terminal_word(newest.status), None)
            if wanted:
                self._lost.append(
                    f"shard {newest.slot} of run {newest.run[:8]}: {wanted} requests are in none of "
                    "its raw files, and the server no longer has its batch"
                )
        restoration.account(one.shard_id, [(entry.line, entry.request_id, outcome) for entry in outstanding])

    def result(self, aside: Path | None) -> RebuildResult:
        """What came of it."""
        return RebuildResult(
            shards=dict(self._states),
            answers=self._answers,
            on_their_way=self._on_their_way,
            found_on_server=tuple(fact.batch_id or "" for fact in self._findings.facts),
            lost=tuple(self._lost),
            set_aside=os.fspath(aside) if aside is not None else None,
        )


def _oldest_first(known: Sequence[JournaledShard], lost: Sequence[JournaledShard]) -> list[JournaledShard]:
    """The shards as they were sent, because their ids say which of two outcomes of a request is the later
    one: those of the journal in its order, and between them those that it has lost."""
    return list(heapq.merge(known, lost, key=lambda one: _sent_at_s(one.newest)))


def _sent_at_s(fact: ShardFact) -> float:
    return fact.submitted_at_s or fact.send_by_s or datetime.fromisoformat(fact.at).timestamp()


def _result_files(fact: ShardFact) -> list[tuple[ResultKind, str]]:
    files: list[tuple[ResultKind, str]] = []
    if fact.output_file_id is not None:
        files.append(_output(fact.output_file_id))
    if fact.error_file_id is not None:
        files.append(("error", fact.error_file_id))
    return files


def _output(file_id: str) -> tuple[ResultKind, str]:
    return "output", file_id
