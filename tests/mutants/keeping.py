"""Mutants that would lose or mix up answers: durability, reading, judging, publishing."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SETTLING = "unit/test_core_settling.py"
_SUBMISSIONS = "contract/test_ledger_submissions.py"
_HOSTILE = "fault/test_run_hostile_output.py"
_USUAL = "property/test_usual_answers.py"
_DURABLE = "contract/test_durable_order.py"
_OUTCOMES = "contract/test_ledger_outcomes.py"
_RESTORING = "contract/test_ledger_restoring.py"
_GC = "e2e/test_gc.py"
_SPENDING = "security/test_spending.py"
_TOGETHER = "contract/test_lineage_workers.py"
_KILLED = "fault/test_lineage_workers.py"

KEEPING = (
    # ------------------------------------------------------------ durable before the next step
    Mutant(
        name="sync-normal",
        path="ledger/engine.py",
        old='"PRAGMA synchronous=full"',
        new='"PRAGMA synchronous=normal"',
        kills=("contract/test_ledger_engine.py",),
    ),
    Mutant(
        name="transactions-begin-late",
        path="ledger/engine.py",
        old='foreign_keys=foreign_keys), "BEGIN IMMEDIATE")',
        new='foreign_keys=foreign_keys), "BEGIN")',
        kills=("contract/test_ledger_engine.py",),
    ),
    Mutant(
        name="journal-not-synced",
        path="ledger/journal.py",
        old='                failpoint("save.journal_written")\n                os.fsync(descriptor)\n',
        new='                failpoint("save.journal_written")\n',
        kills=(f"{_DURABLE}::test_an_intent_is_synced_in_the_journal_itself",),
    ),
    Mutant(
        name="journal-after-the-commit",
        path="ledger/ledger.py",
        old="        with self._writing() as connection:\n"
        "            self._store(connection, submission, what, detail, run_id)\n"
        '        failpoint("save.committed")\n',
        new="        journal, late = self._journal, []\n"
        '        self._journal = type("Late", (), {"append": staticmethod(late.append)})()\n'
        "        with self._writing() as connection:\n"
        "            self._store(connection, submission, what, detail, run_id)\n"
        "        self._journal = journal\n"
        "        for fact in late:\n"
        "            journal.append(fact)\n",
        kills=(f"{_SUBMISSIONS}::test_the_journal_is_synced_before_the_ledger_commits",),
    ),
    Mutant(
        name="intents-not-in-the-journal",
        path="ledger/saving.py",
        old="    if has_moved or submission.state in _INTENTS or _ids",
        new="    if _ids",
        kills=(_SUBMISSIONS,),
    ),
    Mutant(
        name="wish-to-cancel-taken-back",
        path="ledger/saving.py",
        old='case((bindparam("has_wish") == 1, 1), else_=shard.c.cancel_requested)',
        new='bindparam("has_wish")',
        kills=(f"{_SUBMISSIONS}::test_a_save_never_takes_a_wish_to_cancel_back",),
    ),
    Mutant(
        name="shard-file-not-synced",
        path="commands/sharding.py",
        old="        os.fsync(part.file.fileno())\n",
        new="",
        kills=(_DURABLE,),
    ),
    Mutant(
        name="raw-lines-not-synced",
        path="commands/collecting.py",
        old="            os.fsync(self._kept.fileno())\n",
        new="",
        kills=(_DURABLE,),
    ),
    Mutant(
        name="download-not-synced",
        path="provider/download.py",
        old="            os.fsync(file.fileno())\n",
        new="",
        kills=(_DURABLE,),
    ),
    Mutant(
        name="table-not-synced",
        path="results/placing.py",
        old="        os.fsync(self.descriptor)\n",
        new="",
        kills=(_DURABLE,),
    ),
    Mutant(
        name="table-written-in-place",
        path="results/placing.py",
        old="        self.path.replace(self.target)\n",
        new="        self.target.write_bytes(self.path.read_bytes())\n",
        kills=("contract/test_results_placing.py::test_whoever_reads_the_old_table_reads_it_to_its_end",),
    ),
    # ------------------------------------------------------------ an end that is one
    Mutant(
        name="done-before-ingest",
        path="ledger/ledger.py",
        old="            outcomes.refuse_unsettled(connection, submission.shard_id)\n",
        new="",
        kills=("contract/test_ledger_outcomes.py",),
    ),
    Mutant(
        name="terminal-word-ends-the-shard",
        path="commands/watching.py",
        old="            if readings >= enough:\n",
        new="            if True:\n",
        kills=(f"{_HOSTILE}::test_what_comes_late_is_waited_for",),
    ),
    Mutant(
        name="unknown-word-is-terminal",
        path="core/states.py",
        old="    return _TERMINAL_WORDS.get(status)\n",
        new='    return _TERMINAL_WORDS.get(status, "completed")\n',
        kills=("unit/test_core_states.py",),
    ),
    Mutant(
        name="404-believed-at-once",
        path="commands/watching.py",
        old="and self._is_missing_for_good(track):",
        new="and track.submission.batch_id is not None:",
        kills=(f"{_HOSTILE}::test_what_comes_late_is_waited_for",),
    ),
    Mutant(
        name="a-gap-between-two-looks-counts-in-full",
        path="core/lasting.py",
        old="min(max(gap_s, 0.0), part_s)",
        new="gap_s",
        kills=("property/test_core_lasting.py::test_several_processes_wait_no_less_than_one_would",),
    ),
    Mutant(
        name="404-counts-though-the-batch-was-seen-since",
        path="commands/watching.py",
        old="        self._patience.end(track, WaitKind.BATCH_MISSING)\n        if not self._is_about",
        new="        if not self._is_about",
        kills=("fault/test_run_steps.py::test_a_batch_that_is_seen_in_between_was_never_gone",),
    ),
    Mutant(
        name="partial-reading-trusted-at-the-end",
        path="commands/calls.py",
        old="    skips = provider.reads_partial and not progress.from_start\n",
        new="    skips = provider.reads_partial\n",
        kills=("fault/test_run_provider_faults.py::test_a_result_that_is_committed_late_is_not_overlooked",),
    ),
    Mutant(
        name="counts-trusted",
        path="commands/watching.py",
        old="submission.total is not None and said <= track.book.accounted",
        new="submission.total is not None and said <= submission.requests",
        kills=(f"{_HOSTILE}::test_what_comes_late_is_waited_for",),
    ),
    # ------------------------------------------------------------ lines to rows
    Mutant(
        name="splitlines",
        path="commands/judging.py",
        old='    for line in data.split(b"\\n"):\n',
        new="    for line in [one.encode() for one in data.decode().splitlines()]:\n",
        kills=(f"{_HOSTILE}::test_an_answer_keeps_every_character",),
    ),
    Mutant(
        name="joined-by-position",
        path="commands/collecting.py",
        old="        places = [take(row[0], None) for row in run.rows]\n",
        new='        places = [take(next(iter(self._known.open), ""), None) for row in run.rows]\n',
        kills=(f"{_HOSTILE}::test_a_row_gets_its_own_answer_whatever_else_the_server_sends",),
    ),
    Mutant(
        name="usual-though-refused",
        path="core/usual.py",
        old='            and message.get("refusal") is None\n',
        new="",
        kills=(f"{_USUAL}::test_one_odd_value_anywhere_is_told_as_it_is_judged",),
    ),
    Mutant(
        name="prepared-whatever-other-lines-say",
        path="commands/preparing.py",
        old="        if any(name in before and name not in awaited.open for",
        new="        if any(False for",
        kills=(f"{_USUAL}::test_a_file_in_which_the_order_of_two_lines_matters_is_not_prepared",),
    ),
    Mutant(
        name="settled-over-a-later-answer",
        path="ledger/outcome_statements.py",
        old='    .where(_may_settle(Status.SUCCEEDED, fixed("at_shard")))\n',
        new="",
        kills=(f"{_USUAL}::test_the_better_answer_of_a_later_shard_is_kept",),
    ),
    Mutant(
        name="an-earlier-shard-fails-a-later-answer",
        path="ledger/outcome_statements.py",
        old="    is_later = request.c.answer_shard_id < this\n",
        new="    is_later = request.c.answer_shard_id != this\n",
        kills=(f"{_RESTORING}::test_what_an_earlier_shard_lacks_is_no_failure_of_a_later_outcome",),
    ),
    Mutant(
        name="awaited-though-a-later-shard-has-answered",
        path="ledger/restoring.py",
        old="        request.c.status != SUCCEEDED_CODE,\n",
        new="        request.c.status >= 0,\n",
        kills=(f"{_RESTORING}::test_what_a_later_shard_has_answered_is_not_awaited_of_an_earlier_one",),
    ),
    Mutant(
        name="given-up-without-the-list-of-its-requests",
        path="ledger/ledger.py",
        old="            outcomes.keep_requests_of_answers(connection, submission, self.place.folder)\n",
        new="",
        kills=(f"{_RESTORING}::test_a_shard_given_up_has_kept_its_requests_if_it_has_answers",),
    ),
    Mutant(
        name="input-removed-of-which-no-answer-is-here",
        path="ledger/housekeeping.py",
        old="        lines_here == shard.c.requests,\n",
        new="        lines_here >= 0,\n",
        kills=(f"{_GC}::test_the_input_of_a_shard_that_was_given_up_stays_on_the_server",),
    ),
    Mutant(
        name="error-file-ignored",
        path="commands/calls.py",
        old="    if error is not None and finished:\n",
        new="    if False:\n",
        kills=(f"{_HOSTILE}::test_a_whole_batch_in_the_error_file_is_no_success",),
    ),
    Mutant(
        name="torn-last-line-kept",
        path="provider/download.py",
        old="        if _is_object(file.read(length)):\n",
        new="        if file.read(length):\n",
        kills=("fault/test_provider_download.py",),
    ),
    Mutant(
        name="cut-transfer-taken-for-whole",
        path="provider/download.py",
        old="is_whole=why is None and stream.has_length",
        new="is_whole=True",
        kills=("fault/test_provider_download.py",),
    ),
    Mutant(
        name="answer-replaced-by-an-error",
        path="core/settling.py",
        old="    return _RANK.get(new, 1) > _RANK.get(held, 1)\n",
        new="    return new is not held\n",
        kills=(_SETTLING,),
    ),
    Mutant(
        name="last-duplicate-wins",
        path="core/settling.py",
        old="    return _RANK.get(new, 1) > _RANK.get(held, 1)\n",
        new="    return _RANK.get(new, 1) >= _RANK.get(held, 1)\n",
        kills=(_SETTLING,),
    ),
    Mutant(
        name="4xx-in-the-output-file-is-an-answer",
        path="core/settling.py",
        old="    if line.status_code is not None and not 200 <= line.status_code < 300:\n",
        new="    if False:\n",
        kills=(_SETTLING,),
    ),
    Mutant(
        name="permanent-failures-retried",
        path="core/settling.py",
        old="    retryable = blocked or status_code is None or ",
        new="    retryable = True or ",
        kills=(_SETTLING,),
    ),
    # ------------------------------------------------------------ rows that are kept
    Mutant(
        name="kept-though-its-data-changed",
        path="commands/keeping.py",
        old="            if differs.find(1, start, stop) >= 0:\n",
        new="            if False:\n",
        kills=("property/test_plan_incremental.py",),
    ),
    Mutant(
        name="kept-though-it-asks-something-else",
        path="commands/keeping.py",
        old=" for one in last.fingerprints]) == piece.fingerprints\n",
        new=" for one in last.fingerprints])\n",
        kills=("property/test_plan_pieces.py",),
    ),
    Mutant(
        name="row-left-waiting-for-a-shard-that-was-taken-back",
        path="ledger/planning.py",
        old="        return idle.status is None or bool(idle.retryable)\n",
        new="        return False\n",
        kills=("contract/test_ledger_planning.py",),
    ),
    Mutant(
        name="kept-row-left-waiting-for-a-shard-that-was-taken-back",
        path="ledger/planning.py",
        old="        if LET_GO.rows(self._connection, staging.awaited):\n",
        new="        if False:\n",
        kills=("contract/test_ledger_planning.py",),
    ),
    # ------------------------------------------------------------ asking again
    Mutant(
        name="permanent-failures-offered-again",
        path="ledger/plan_statements.py",
        old='    request.c.retryable == literal_column("1"),\n',
        new="",
        kills=("contract/test_ledger_planning.py::test_what_is_not_worth_repeating_is_not_offered",),
    ),
    Mutant(
        name="attempts-without-bound",
        path="ledger/plan_statements.py",
        old="request.c.attempts - request.c.excused < bindparam(",
        new="0 < bindparam(",
        kills=("contract/test_ledger_planning.py::test_what_is_not_worth_repeating_is_not_offered",),
    ),
    Mutant(
        name="attempts-that-the-account-wasted-count",
        path="core/planning.py",
        old="held.retryable and held.attempts - held.excused < policy.max_attempts",
        new="held.retryable and held.attempts < policy.max_attempts",
        kills=("property/test_core_retries.py",),
    ),
    Mutant(
        name="a-larger-limit-that-failed-hides-the-cut-answer",
        path="core/raising.py",
        old="    return stand(above, policy) is not Standing.FAILED\n",
        new="    return True\n",
        kills=("property/test_core_retries.py",),
    ),
    Mutant(
        name="first-of-several-token-limits-taken-for-the-bound",
        path="core/raising.py",
        old="math.ceil(max(limits))",
        new="math.ceil(limits[0])",
        kills=("unit/test_core_raising.py",),
    ),
    Mutant(
        name="an-answer-counted-by-two-runs",
        path="ledger/payments.py",
        old="left = _less(Tokens(*map(int, brought)), counted.get(shard_id, _NONE))",
        new="left = Tokens(*map(int, brought))",
        kills=("contract/test_ledger_retries.py",),
    ),
    Mutant(
        name="what-is-on-its-way-left-out-of-the-budget",
        path="commands/spending.py",
        old="                self._output += most or 0\n",
        new="",
        kills=(f"{_SPENDING}::test_larger_limits_leave_room_for_the_failures_that_were_sent_again_before",),
    ),
    Mutant(
        name="failures-sent-again-whatever-the-budget",
        path="commands/retrying.py",
        old="        if not allowance.takes(text):\n",
        new="        if False:\n",
        kills=(f"{_SPENDING}::test_a_failure_that_was_billed_is_sent_again_only_as_far_as_the_budget_goes",),
    ),
    # ------------------------------------------------------------ made by several
    Mutant(
        name="verdict-on-an-answer-that-was-not-seen",
        path="ledger/outcomes.py",
        old="        if shard_id != judged_shard_id:\n",
        new="        if False:\n",
        kills=(f"{_OUTCOMES}::test_a_look_at_an_answer_says_nothing_of_the_one_that_has_replaced_it",),
    ),
    Mutant(
        name="a-shared-request-counted-for-each-portion",
        path="commands/request_tokens.py",
        old="            if counted[place] & bit:\n",
        new="            if False:\n",
        kills=(f"{_TOGETHER}::test_tokens_of_a_request_that_rows_of_many_ranges_share_are_counted_once",),
    ),
    Mutant(
        name="portions-of-a-killed-worker-made-twice",
        path="commands/worker_pool.py",
        old="                    one.next = message.end\n",
        new="",
        kills=(f"{_KILLED}::test_a_worker_that_is_killed_is_told_of_and_its_rest_is_made_again",),
    ),
    Mutant(
        name="uploads-of-open-shards-deleted",
        path="ledger/housekeeping.py",
        old="and_(shard.c.state == ShardState.DISCARDED.value, shard.c.id.in_(unpaid)),",
        new="shard.c.state != ShardState.DONE.value,",
        kills=(f"{_GC}::test_an_upload_that_a_create_may_have_used_stays",),
    ),
    Mutant(
        name="uploads-deleted-by-a-rebuilt-ledger",
        path="ledger/housekeeping.py",
        old="shard.c.id.not_in(restored), not_(has_batch)",
        new="not_(has_batch)",
        kills=(f"{_GC}::test_after_a_rebuild_uploads_of_which_the_ledger_can_t_be_sure_stay",),
    ),
)
