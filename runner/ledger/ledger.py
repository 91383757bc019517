"""The ledger: one short method for each question and each change.

Theory
------
Every change is one transaction on the writing engine, which holds the write lock from its first moment;
every question is a short read on the reading engine (see `engine`, `open_ledger`). One thread writes;
there are no locks inside. The SQL stands in one module for each topic: `runs`, `planning`, `submissions`,
`saving`, `outcomes`, `reading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sqlalchemy import Connection

from runner.core.model import Outcome
from runner.core.planning import Held
from runner.core.states import ShardState, Submission
from runner.failpoints import failpoint
from runner.ledger import (
    attempts,
    events,
    housekeeping,
    outcomes,
    payments,
    planning,
    reading,
    runs,
    saving,
    submissions,
)
from runner.ledger.open_ledger import OpenLedger
from runner.ledger.records import (
    AnswerValues,
    AttemptRecord,
    Awaited,
    Expected,
    Ids,
    LastColumns,
    LastRow,
    LedgerRow,
    ManifestRecord,
    PlannedShard,
    RawFile,
    RemoteInput,
    Repeatable,
    ResultKind,
    RunRecord,
    RunStart,
    RunState,
    ShardRecord,
    StoredRaw,
    Totals,
    UnusedUpload,
    Verdict,
)
from runner.ledger.restoring import Restoration
from runner.ledger.schedules import Schedules
from runner.ledger.staging import Staging
from runner.ledger.stored import StoredRows
from runner.ledger.waits import Waits
from runner.ledger.wishes import Wishes


class Ledger(OpenLedger):
    """A context manager; made by `Ledger.open` or `Ledger.open_reading`.

    Errors of every method: LedgerError where the database can't be read or written.
    """

    def restoration(self) -> Restoration:
        """Fills this ledger from a journal."""
        return Restoration(self._writing, self._clock)

    def schedules(self) -> Schedules:
        """Schedules and their due times."""
        return Schedules(self._reading, self._writing, self._clock)

    def wishes(self) -> Wishes:
        """What people wanted stopped, and when runs were asked for."""
        return Wishes(self._reading, self._writing, self._clock)

    def waits(self) -> Waits:
        """What is waited out for shards."""
        return Waits(self._reading, self._writing, self._clock)

    # ------------------------------------------------------------ manifests and runs

    def ensure_manifest(self, path: str, name: str) -> int:
        """The manifest's id, recorded if it is new. `path` is stored relative to the project folder."""
        with self._writing() as connection:
            return runs.ensure_manifest(connection, self.place.relative(path), name)

    def find_manifest(self, path: str) -> int | None:
        """The manifest's id, or None if it never ran."""
        with self._reading() as connection:
            return runs.find_manifest(connection, self.place.relative(path))

    def manifests(self) -> list[ManifestRecord]:
        """Every manifest, by path."""
        with self._reading() as connection:
            return runs.load_manifests(connection)

    def start_run(self, begin: RunStart) -> int:
        """Record a run; earlier ones of the manifest that still say `running` were killed."""
        with self._writing() as connection:
            return runs.start(connection, begin, self._clock())

    def resume_run(self, run_id: int) -> None:
        """The newest run of a manifest is under way again."""
        with self._writing() as connection:
            runs.resume(connection, run_id)

    def end_run(
        self, run_id: int, *, state: RunState, exit_code: int | None, totals: Totals | None = None
    ) -> None:
        """Record how a run ended."""
        with self._writing() as connection:
            runs.end(connection, run_id, state=state, exit_code=exit_code, totals=totals, now_s=self._clock())

    def forget_run(self, run_id: int) -> None:
        """Remove the record of a run that placed nothing, because another one had moved the ledger."""
        with self._writing() as connection:
            runs.forget(connection, run_id)

    def note_run(self, run_id: int, **facts: str | None) -> None:
        """Record `inputs`, `published` or `history` of a run (see `RunRecord`)."""
        with self._writing() as connection:
            runs.note(connection, run_id, **facts)

    def template_texts(self, digest: str) -> str | None:
        """The texts behind a template digest (JSON), or None."""
        with self._reading() as connection:
            return runs.load_template(connection, digest)

    def find_runs(self, text: str) -> list[RunRecord]:
        """Runs whose uid begins with `text`, newest first."""
        with self._reading() as connection:
            return runs.find(connection, text)

    def runs(self, manifest_id: int, limit: int = 20) -> list[RunRecord]:
        """The last runs, newest first."""
        with self._reading() as connection:
            return runs.load_runs(connection, manifest_id, limit)

    def current_run(self, manifest_id: int) -> RunRecord | None:
        """The run that the manifest's rows are of."""
        with self._reading() as connection:
            return runs.load_current(connection, manifest_id)

    # ------------------------------------------------------------ planning

    def has_requests(self) -> bool:
        """Whether any request was ever recorded."""
        with self._reading() as connection:
            return planning.has_requests(connection)

    def held(self, fingerprints: Sequence[bytes]) -> dict[bytes, Held]:
        """What is known of these requests; those nobody ever wanted are missing."""
        with self._reading() as connection:
            return planning.load_held(connection, fingerprints)

    def has_unasked(self, manifest_id: int) -> bool:
        """Whether a current row's request was never answered, nor failed, and is not on its way."""
        with self._reading() as connection:
            return reading.has_unasked(connection, manifest_id)

    def answers_mark(self, manifest_id: int) -> str:
        """What the manifest's rows have for answers, as a text that is another one after any of them
        came, was replaced, failed again or was forgotten, whoever brought that about."""
        with self._reading() as connection:
            return reading.load_answers_mark(connection, manifest_id)

    def last_word_at(self, request_ids: Sequence[int]) -> dict[int, int]:
        """When the last word on these requests, answer or failure, was stored (Unix seconds)."""
        with self._reading() as connection:
            return planning.load_last_word_at(connection, request_ids)

    def answer_shards(self, request_ids: Sequence[int]) -> dict[int, int]:
        """In which shard the answers held for these requests were asked; without one: missing."""
        with self._reading() as connection:
            return planning.load_answer_shards(connection, request_ids)

    def answered_at(self, request_ids: Sequence[int]) -> dict[int, int]:
        """When the answers that are held for these requests were given (Unix seconds)."""
        with self._reading() as connection:
            return planning.load_answered_at(connection, request_ids)

    def previous_rows(self, manifest_id: int) -> Iterator[list[tuple[str, bytes | None]]]:
        """Key and fingerprint of the manifest's current rows, in order, slice by slice."""
        after = -1
        while True:
            with self._reading() as connection:
                found = planning.load_previous(connection, manifest_id, after)
            if not found:
                return
            after = found[-1][0]
            yield [(key, fingerprint) for _, key, fingerprint in found]

    def last_rows(self, manifest_id: int, start: int, stop: int) -> list[LastRow]:
        """The manifest's current rows from position `start` up to, not including, `stop`, as they stand."""
        with self._reading() as connection:
            return planning.load_last_rows(connection, manifest_id, start, stop)

    def last_rows_at(self, manifest_id: int, positions: Sequence[int]) -> list[LastRow]:
        """The same of these positions alone, in their order; those where no row stands are missing."""
        with self._reading() as connection:
            return planning.load_last_rows_at(connection, manifest_id, positions)

    def last_columns(self, manifest_id: int, start: int, stop: int) -> LastColumns | None:
        """The manifest's current rows of [start, stop) as columns; None where there is none."""
        with self._reading() as connection:
            return planning.load_last_columns(connection, manifest_id, start, stop)

    def settled_rows(self, manifest_id: int, start: int, stop: int) -> tuple[Sequence[int], Sequence[int]]:
        """Positions and request ids of those current rows of [start, stop), in order, whose request has
        succeeded and was not asked since."""
        with self._reading() as connection:
            return planning.load_settled_rows(connection, manifest_id, start, stop)

    def commit_plan(
        self,
        *,
        run_id: int,
        manifest_id: int,
        staging: Staging,
        shards: Sequence[PlannedShard],
    ) -> list[Submission]:
        """Make a plan a fact, in one transaction. Gives the new shards, ready to be sent.

        Errors: PlanMovedError if another process sent or answered a request of it since it was planned, or
        took back one that it counts on; then nothing was written.
        """
        with self._writing() as connection:
            ids = saving.add(connection, run_id, manifest_id, shards, self._clock())
            failpoint("commit.shards_added")
            writer = planning.PlanWriter(connection, manifest_id, ids)
            writer.write(staging, run_id)
            if shards:
                self._journal.append(runs.fact_of(connection, run_id, self._clock()))
            failpoint("commit.before")
            return submissions.load_many(connection, ids.values())

    def commit_shards(
        self,
        *,
        run_id: int,
        manifest_id: int,
        shards: Sequence[PlannedShard],
        placements: Iterable[tuple[int, int, int]],
        max_attempts: int,
    ) -> list[Submission]:
        """Send requests again that were `repeatable`: (slot, line, request id). One transaction.

        Errors: PlanMovedError if one of them is not repeatable any more; then nothing was written.
        """
        with self._writing() as connection:
            ids = saving.add(connection, run_id, manifest_id, shards, self._clock())
            planning.place_known(connection, placements, ids, max_attempts=max_attempts)
            failpoint("retry.before")
            return submissions.load_many(connection, ids.values())

    def release(
        self, submission: Submission, *, what: str = "released", detail: str = "", run_id: int | None = None
    ) -> None:
        """Save a shard that became REFUSED or DISCARDED, and free its requests, in one transaction. Answers
        that it has are kept."""
        _require(submission, ShardState.REFUSED, ShardState.DISCARDED)
        with self._writing() as connection:
            outcomes.keep_requests_of_answers(connection, submission, self.place.folder)
            self._store(connection, submission, what, detail, run_id)
            planning.free_requests(connection, submission.shard_id)

    def model_of(self, shard_id: int) -> str:
        """The model that a shard's requests ask."""
        with self._reading() as connection:
            return submissions.load_model(connection, shard_id)

    def replace_shard(
        self,
        submission: Submission,
        *,
        run_id: int,
        manifest_id: int,
        shards: Sequence[PlannedShard],
        placements: Iterable[tuple[int, int, int]],
        failed: Sequence[tuple[int, int, Outcome]],
        detail: str,
    ) -> list[Submission]:
        """A shard that was too large became DISCARDED: its requests go into new shards (slot, line, request
        id) or fail (line, request id, outcome), in one transaction. Gives the new shards."""
        _require(submission, ShardState.DISCARDED)
        items = [(line, request_id, outcome, None, None) for line, request_id, outcome in failed]
        with self._writing() as connection:
            outcomes.store(connection, submission.shard_id, None, items, self._clock())
            self._store(connection, submission, "cut", detail, run_id)
            planning.free_requests(connection, submission.shard_id)
            ids = saving.add(connection, run_id, manifest_id, shards, self._clock())
            planning.place_known(connection, placements, ids)
            failpoint("cut.before")
            return submissions.load_many(connection, ids.values())

    def repeatable(self, manifest_id: int, max_attempts: int) -> Iterator[list[Repeatable]]:
        """Wanted requests that failed and may be asked again, by shard and line."""
        with self._reading() as connection:
            flat = reading.load_repeatable(connection, manifest_id, max_attempts)
        return reading.in_slices(flat)

    def pause(self, manifest_id: int) -> float:
        """Until when (Unix seconds) files of repeated requests were to wait that were taken back unsent."""
        with self._reading() as connection:
            return submissions.load_pause(connection, manifest_id, self._clock())

    def queued_out(self, manifest_id: int) -> tuple[int, str] | None:
        """The newest shard of the manifest that a full queue did not let in, and what the server said."""
        with self._reading() as connection:
            return reading.load_queued_out(connection, manifest_id)

    # ------------------------------------------------------------ submissions

    def open_submissions(self, manifest_id: int) -> list[Submission]:
        """Shards on their way that the manifest made, or that its current rows wait for."""
        with self._reading() as connection:
            return submissions.load_open(connection, manifest_id)

    def held_elsewhere(self, manifest_id: int) -> list[tuple[str, Submission]]:
        """Held shards of other manifests in which its current rows wait for an answer, each with the relative
        path of the manifest that made it."""
        with self._reading() as connection:
            return submissions.load_held_elsewhere(connection, manifest_id)

    def untold(self, server: str) -> list[tuple[str, int]]:
        """Shards at this server, open or held, of which no request is known; each after the relative path of
        the manifest that made it."""
        with self._reading() as connection:
            return submissions.load_untold(connection, server)

    def owner_of_shard(self, shard_id: int) -> str:
        """The manifest, as a relative path, that made this shard."""
        with self._reading() as connection:
            return submissions.load_owner(connection, shard_id)

    def owners_of_batch(self, batch_id: str) -> list[str]:
        """The manifests, as relative paths, that have had a batch of this id at any server."""
        with self._reading() as connection:
            return submissions.load_owners(connection, batch_id)

    def has_batch_of(self, server: str, input_file_id: str) -> bool:
        """Whether a batch was ever made of this input file at this server."""
        with self._reading() as connection:
            return submissions.has_batch_of(connection, server, input_file_id)

    def shard_of_batch(self, server: str, batch_id: str) -> int | None:
        """The shard whose batch at this server has this id; None for a new one."""
        with self._reading() as connection:
            return submissions.shard_of_batch(connection, server, batch_id)

    def needs_file(self, path: str) -> bool:
        """Whether a shard that is not final has this input file."""
        with self._reading() as connection:
            return submissions.needs_file(connection, path)

    def wanted_shards(self) -> set[int]:
        """Open shards that a current row of any manifest waits for."""
        with self._reading() as connection:
            return submissions.load_wanted(connection)

    def submission(self, shard_id: int) -> Submission:
        """One shard. Errors: KeyError if there is none."""
        with self._reading() as connection:
            found = submissions.load(connection, shard_id)
        if found is None:
            raise KeyError(shard_id)
        return found

    def shards(self, manifest_id: int) -> list[ShardRecord]:
        """Every shard the manifest ever made, oldest first."""
        with self._reading() as connection:
            return submissions.load_records(connection, manifest_id)

    def bought_elsewhere(self, run_id: int, manifest_id: int) -> list[ShardRecord]:
        """Shards of other manifests than this one for which this run sent a create."""
        with self._reading() as connection:
            return submissions.load_bought_elsewhere(connection, run_id, manifest_id)

    def all_ids(self, manifest_id: int) -> list[Ids]:
        """Every id the server gave for the manifest's shards, attempt by attempt."""
        with self._reading() as connection:
            return submissions.load_ids(connection, manifest_id)

    def save(self, submission: Submission, *, what: str, detail: str = "", run_id: int | None = None) -> None:
        """Store where a shard stands and every id it has, with an event; intents and ids in the journal
        first. Durable when it returns."""
        with self._writing() as connection:
            self._store(connection, submission, what, detail, run_id)
        failpoint("save.committed")

    def note_extras(self, submission: Submission, what: str, ids: Sequence[str], *, run_id: int) -> None:
        """Record further batches that the server made of one create (`EXTRA_BATCH`), or their output files
        (`EXTRA_OUTPUT`); in the journal first. Repeating it changes nothing."""
        with self._writing() as connection:
            now_s = self._clock()
            events.note_extras(connection, self._journal, submission, what, ids, run_id=run_id, now_s=now_s)

    def extra_batches(self, shard_id: int) -> list[str]:
        """Further batches of a shard that were found beside the one that drives it."""
        with self._reading() as connection:
            return events.load_details(connection, shard_id, events.EXTRA_BATCH)

    def key_of_create(self, shard_id: int) -> str:
        """The digest of the key that the last create-intent was made with; empty where it is not known."""
        with self._reading() as connection:
            return next(reversed(events.load_details(connection, shard_id, events.CREATE_INTENDED)), "")

    def request_cancel(self, shard_id: int) -> None:
        """Record that a person wants the shard's batch stopped, beside whoever moves the shard."""
        with self._writing() as connection:
            saving.request_cancel(connection, shard_id, self._clock())

    def _store(
        self, connection: Connection, submission: Submission, what: str, detail: str, run_id: int | None
    ) -> None:
        now_s = self._clock()
        saving.store(
            connection, self._journal, submission, what=what, detail=detail, run_id=run_id, now_s=now_s
        )

    # ------------------------------------------------------------ outcomes

    def awaited(self, shard_id: int) -> Awaited:
        """Every line of a shard by its custom_id: those without an outcome, and those with one."""
        with self._reading() as connection:
            return outcomes.load_awaited(connection, shard_id)

    def unsettled(self, shard_id: int) -> int:
        """How many lines of a shard have no outcome."""
        with self._reading() as connection:
            return outcomes.unsettled(connection, shard_id)

    def lines_without_count(self, shard_id: int) -> list[int]:
        """The lines of a shard that were or may be billed, and of which no usage is known: what has no
        outcome yet, answers that told of none, and what no result file spoke of."""
        with self._reading() as connection:
            return outcomes.without_count(connection, shard_id)

    def expected(self, shard_id: int) -> dict[str, Expected]:
        """Every line of a shard by its custom_id, with what is stored of it so far."""
        with self._reading() as connection:
            return outcomes.load_expected(connection, shard_id)

    def raw_file(self, shard_id: int, kind: ResultKind, server_file_id: str) -> RawFile:
        """The row of a result file, and where it belongs (relative to the `.runner` folder)."""
        with self._writing() as connection:
            return outcomes.ensure_raw_file(connection, shard_id, kind, server_file_id, self._clock())

    def store_outcomes(
        self,
        shard_id: int,
        raw: RawFile,
        items: Sequence[tuple[int, int, Outcome, int, int]],
        answers: Sequence[AnswerValues] = (),
    ) -> None:
        """Outcomes of lines: (line, request id, outcome, offset, length), and usual answers as they
        are stored. Repeating it changes nothing."""
        with self._writing() as connection:
            outcomes.store(connection, shard_id, raw.id, items, self._clock(), answers)
            failpoint("outcomes.before")
        failpoint("outcomes.committed")

    def place_again(self, shard_id: int, raw: RawFile, places: Sequence[tuple[int, int, int]]) -> None:
        """Where lines stand now, whose bytes were lost: (line, offset, length)."""
        with self._writing() as connection:
            outcomes.place_again(connection, shard_id, raw.id, places)

    def judge_again(self, verdicts: Mapping[bytes, Verdict]) -> None:
        """What the answers held for these fingerprints are after a closer look, where that is another
        word than the one they came with: `invalid` against the schema, or their bytes are gone."""
        if verdicts:
            with self._writing() as connection:
                outcomes.judge_again(connection, verdicts)

    def quarantine(self, raw: RawFile, items: Sequence[tuple[int, int, str]]) -> None:
        """Lines that match nothing: (offset, length, reason). Repeating it changes nothing."""
        with self._writing() as connection:
            outcomes.store_quarantine(connection, raw, items)
        failpoint("quarantine.committed")

    def count_lines(self, raw: RawFile, **counts: int) -> None:
        """How many lines a raw file has: `lines`, `duplicate_lines`, `unknown_lines`, `bad_lines`."""
        with self._writing() as connection:
            outcomes.store_counts(connection, raw, counts)

    def finish_shard(
        self,
        submission: Submission,
        absent: Sequence[tuple[int, int, Outcome]],
        *,
        what: str = "done",
        detail: str = "",
        run_id: int | None = None,
    ) -> None:
        """The shard is done (`core.states.reconciled` moved it): the outcomes of its absent lines, its
        state and the event in one transaction. Errors: LedgerError if a line is left without outcome."""
        _require(submission, ShardState.DONE)
        items = [(line, request_id, outcome, None, None) for line, request_id, outcome in absent]
        with self._writing() as connection:
            outcomes.store(connection, submission.shard_id, None, items, self._clock())
            outcomes.refuse_unsettled(connection, submission.shard_id)
            outcomes.keep_requests_of(connection, submission, self.place.folder)
            self._store(connection, submission, what, detail, run_id)
            failpoint("finish.before")
        failpoint("finish.committed")

    # ------------------------------------------------------------ housekeeping

    def raw_files(self) -> list[StoredRaw]:
        """Every raw file, and whether a current row, an open request or an open shard needs it."""
        with self._reading() as connection:
            return housekeeping.load_raw_files(connection)

    def forget_raw(self, file_id: int) -> bool:
        """Forget the answers in a raw file: their requests are asked again once a row wants them. False,
        and nothing is changed, where a current row or an open request needs the file by now."""
        with self._writing() as connection:
            return housekeeping.forget_raw(connection, file_id, self._clock())

    def remote_inputs(self, manifest_id: int) -> list[RemoteInput]:
        """Input files on the server, of every attempt of the manifest's shards that are done and have a line
        for each request in a raw file."""
        with self._reading() as connection:
            return housekeeping.load_remote_inputs(connection, manifest_id)

    def unused_uploads(self, manifest_id: int) -> list[UnusedUpload]:
        """Uploads of the manifest's shards that no batch uses and no shard will."""
        with self._reading() as connection:
            return housekeeping.load_unused_uploads(connection, manifest_id)

    def note_input_deleted(self, remote: RemoteInput) -> None:
        """The server has deleted an input file that nothing needs any more."""
        with self._writing() as connection:
            housekeeping.note_input_deleted(connection, remote, self._clock())

    # ------------------------------------------------------------ reading

    def rows(self, manifest_id: int, start: int, stop: int) -> list[LedgerRow]:
        """The manifest's rows from position `start` up to, not including, `stop`."""
        with self._reading() as connection:
            return reading.load_rows(connection, manifest_id, start, stop)

    def stored_rows(self, manifest_id: int, start: int, stop: int) -> StoredRows:
        """The same rows as they are stored: for those who read all of them."""
        with self._reading() as connection:
            return reading.load_stored_rows(connection, manifest_id, start, stop)

    def row_by_key(self, manifest_id: int, key: str) -> list[LedgerRow]:
        """The rows with this key: one, or none."""
        with self._reading() as connection:
            return reading.load_row_by_key(connection, manifest_id, key)

    def paid(self, run_id: int) -> tuple[int, int]:
        """Input and output tokens of all that came in while a run worked, whatever became of it."""
        with self._reading() as connection:
            return payments.load(connection, run_id)

    def spent(self, run_id: int) -> tuple[int, int]:
        """The same, and what else the requests that the run sent have cost, whoever collected them."""
        with self._reading() as connection:
            return payments.spent(connection, run_id)

    def attempts(self, fingerprint: bytes) -> list[AttemptRecord]:
        """Every sending of this request, by any manifest, the first one first."""
        with self._reading() as connection:
            return attempts.load_attempts(connection, fingerprint)

    def totals(self, manifest_id: int) -> Totals:
        """What became of the manifest's current rows."""
        with self._reading() as connection:
            return reading.load_totals(connection, manifest_id)


def _require(submission: Submission, *states: ShardState) -> None:
    if submission.state not in states:
        raise ValueError(f"shard {submission.shard_id} is {submission.state}, not {' or '.join(states)}")
