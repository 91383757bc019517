"""Mutants that would pay twice: intent, call, settle, listing, fence, locks."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_STATES = "unit/test_core_states.py"
_MODEL = "model/test_model.py::test_the_real_core_never_pays_twice_and_can_always_come_to_an_end"
_ONCE = "fault/test_provider_once.py"
_OUTCOME = "unit/test_provider_outcome.py"
_PROVIDER_FAULTS = "fault/test_run_provider_faults.py"
_PROTOCOL = "fault/test_run_protocol.py"
_RESOLVE = "e2e/test_resolve.py"
_EXTRAS = "fault/test_run_extra_batches.py"
_CANCELLED = "fault/test_run_cancelled.py"
_LOOKS = "e2e/test_schedule_cancelled.py"
_HOSTILE = "fault/test_run_hostile_output.py"

PAYING = (
    # ------------------------------------------------------------ core: decide and move
    Mutant(
        name="no-settle",
        path="core/states.py",
        old="settled_s = (submission.send_by_s or 0.0) + provider.settle_s",
        new="settled_s = submission.send_by_s or 0.0",
        kills=(_STATES,),
    ),
    Mutant(
        name="list-once",
        path="core/states.py",
        old="CLEAN_SCANS_NEEDED = 3",
        new="CLEAN_SCANS_NEEDED = 1",
        kills=(_MODEL,),
    ),
    Mutant(
        name="no-grace-after-a-cancel",
        path="commands/watching.py",
        old="        if left_s <= 0:\n            return False",
        new="        if left_s < float('inf'):\n            return False",
        kills=(
            "fault/test_server_trouble.py::test_what_is_in_flight_at_a_cancel_is_waited_for",
            "fault/test_run_steps.py::test_the_grace_after_a_cancel_is_waited_out_by_cut_waits",
        ),
    ),
    Mutant(
        name="no-canary-after-a-fence",
        path="commands/calls.py",
        old="    return matches, is_complete and is_late",
        new="    return matches, is_complete",
        kills=("fault/test_server_trouble.py::test_a_listing_that_is_behind_the_fence_proves_nothing",),
    ),
    Mutant(
        name="old-intent-taken-for-unsent",
        path="core/states.py",
        old="        case ShardState.UPLOADED:\n            return Create()\n"
        "        case ShardState.CREATING | ShardState.UNKNOWN:",
        new="        case ShardState.UPLOADED | ShardState.CREATING:\n            return Create()\n"
        "        case ShardState.UNKNOWN:",
        kills=(_STATES,),
    ),
    Mutant(
        name="incomplete-listing-believed",
        path="core/states.py",
        old="    if not is_complete:\n",
        new="    if False:\n",
        kills=(_STATES,),
    ),
    Mutant(
        name="broken-listing-keeps-earlier-proof",
        path="core/states.py",
        old="failed_scans=failed, clean_scans=0, not_before_s",
        new="failed_scans=failed, not_before_s",
        kills=(_STATES,),
    ),
    Mutant(
        name="resent-without-a-fence",
        path="core/states.py",
        old='    return _held(_as_unknown(submission), "a create was sent,',
        new='    trouble = Problem(kind=ProblemKind.SERVER_TROUBLE, message="")\n'
        "    return _again(replace(submission, state=ShardState.FENCED), trouble, now_s)\n"
        '    return _held(_as_unknown(submission), "a create was sent,',
        kills=(_STATES,),
    ),
    Mutant(
        name="fenced-where-metadata-is-dropped",
        path="core/states.py",
        old="provider.has_fence and provider.echoes_metadata and",
        new="provider.has_fence and",
        kills=(_STATES,),
    ),
    Mutant(
        name="no-look-behind-the-fence",
        path="core/states.py",
        old="    clean = submission.clean_scans + 1\n",
        new="    clean = submission.clean_scans + 1\n"
        "    clean = 3 if submission.state is ShardState.FENCED else clean\n",
        kills=(_MODEL,),
    ),
    Mutant(
        name="input-file-used-again",
        path="core/states.py",
        old="        attempt=submission.attempt + 1,\n        input_file_id=None,\n",
        new="        attempt=submission.attempt + 1,\n",
        kills=(_STATES,),
    ),
    Mutant(
        name="upload-repeated-under-its-old-name",
        path="core/states.py",
        old="attempt=submission.attempt + again",
        new="attempt=submission.attempt",
        kills=(_STATES,),
    ),
    Mutant(
        name="half-of-our-tags-suffice",
        path="core/tags.py",
        old="if all(batch.metadata",
        new="if any(batch.metadata",
        kills=(_STATES,),
    ),
    # ------------------------------------------------------------ the engine around it
    Mutant(
        name="no-intent",
        path="commands/sending.py",
        old="self._at.save(track, intended, CREATE_INTENDED, self._at.key_digest(intended))",
        new="track.submission = intended",
        kills=(f"{_PROVIDER_FAULTS}::test_a_kill_while_a_create_is_on_the_wire_is_settled_by_the_next_run",),
    ),
    Mutant(
        name="unknown-create-taken-for-refused",
        path="commands/sending.py",
        old="states.create_unknown(track.submission, result.problem, ended_at_s=now)",
        new="states.create_refused(track.submission, result.problem, now)",
        kills=(f"{_PROVIDER_FAULTS}::test_every_create_may_lose_its_reply",),
    ),
    Mutant(
        name="old-intent-sent",
        path="commands/sending.py",
        old="        if self._at.clock() >= (submission.send_by_s or 0.0):\n",
        new="        if False:\n",
        kills=(f"{_PROTOCOL}::test_an_intent_that_grew_old_is_not_sent",),
    ),
    Mutant(
        name="fence-not-judged",
        path="commands/sending.py",
        old='        if reply == "deleted" or (reply == "missing" and is_lasting):\n',
        new="        if True:\n",
        kills=(f"{_PROTOCOL}::test_a_fence_that_the_server_did_not_confirm_is_drawn_again",),
    ),
    Mutant(
        name="404-on-the-fence-believed-at-once",
        path="commands/sending.py",
        old='(reply == "missing" and is_lasting)',
        new='reply == "missing"',
        kills=(f"{_PROTOCOL}::test_a_fence_that_the_server_did_not_confirm_is_drawn_again",),
    ),
    Mutant(
        name="fence-not-drawn",
        path="commands/calls.py",
        old='reply = "deleted" if client.delete_file(submission.input_file_id or "") else "unclear"',
        new='reply = "deleted"',
        kills=(f"{_PROVIDER_FAULTS}::test_a_create_that_may_have_failed_is_fenced_before_it_is_sent_anew",),
    ),
    Mutant(
        name="our-own-upload-need-not-be-seen",
        path="commands/calls.py",
        old="is_complete = is_complete and input_file is not None",
        new="pass",
        kills=(f"{_PROTOCOL}::test_a_listing_that_lacks_our_own_upload_is_no_proof",),
    ),
    Mutant(
        name="one-complete-walk-of-two-suffices",
        path="commands/calls.py",
        old="is_complete = all(walk.is_complete for walk in walks)",
        new="is_complete = any(walk.is_complete for walk in walks)",
        kills=(f"{_PROTOCOL}::test_both_walks_must_be_complete",),
    ),
    Mutant(
        name="second-batch-known-to-its-finder-alone",
        path="commands/engine.py",
        old="        if track.is_taken and track.is_in(ShardState.SUBMITTED):\n",
        new="        if False:\n",
        kills=(f"{_EXTRAS}::test_a_second_batch_is_known_after_a_kill_at_the_adoption",),
    ),
    Mutant(
        name="second-batch-recorded-after-the-first",
        path="commands/sending.py",
        old="            self._extras.found(track, moved, matches)\n",
        new="",
        kills=(f"{_EXTRAS}::test_a_run_that_only_submits_stops_the_second_batch_and_the_next_one_reads_it",),
    ),
    Mutant(
        name="a-failed-batch-drives",
        path="core/states.py",
        old='return 1 if terminal_word(batch.status) in ("failed", "expired") else 2',
        new="return 2",
        kills=(_STATES,),
    ),
    Mutant(
        name="fence-forgotten-when-held",
        path="core/states.py",
        old="state = ShardState.FENCED if submission.is_fenced else ShardState.UNKNOWN",
        new="state = ShardState.UNKNOWN",
        kills=(_STATES,),
    ),
    Mutant(
        name="sent-on-after-a-cancel",
        path="commands/precautions.py",
        old="        if not self.is_to_be_let_go(track):\n",
        new="        if True:\n",
        kills=(f"{_CANCELLED}::test_a_run_that_is_still_sending_sends_nothing_after_a_cancel",),
    ),
    Mutant(
        name="failures-sent-again-after-a-cancel",
        path="commands/retrying.py",
        old="        if self.ledger.wishes().is_cancelled(self.manifest_id, self.began_after):\n",
        new="        if False:\n",
        kills=(f"{_CANCELLED}::test_a_failure_is_not_sent_again_after_a_cancel",),
    ),
    Mutant(
        name="larger-limits-asked-after-a-cancel",
        path="commands/raising.py",
        old="_NOTHING if is_cancelled else Narrowing()",
        new="Narrowing()",
        kills=(f"{_CANCELLED}::test_what_was_cut_stays_so_after_a_cancel",),
    ),
    Mutant(
        name="cancels-counted-from-the-process",
        path="commands/run.py",
        old="began_after = asked.after if asked is not None else wishes.last_event(started_at)",
        new="began_after = wishes.last_event()",
        kills=(f"{_LOOKS}::test_a_failure_that_waited_to_be_sent_again_is_left_to_the_next_due_time",),
    ),
    Mutant(
        name="sent-because-it-is-younger-than-the-cancel",
        path="ledger/wishes.py",
        old="            .where(event.c.detail == cast(shard.c.manifest_id, Text))\n",
        new="            .where(event.c.detail == '')\n",
        kills=("contract/test_ledger_wishes.py",),
    ),
    Mutant(
        name="told-to-stop-once-only",
        path="commands/engine.py",
        old="        elif track.is_in(ShardState.SUBMITTED) and self._reception.stopping is None:\n",
        new="        elif False:\n",
        kills=(f"{_CANCELLED}::test_a_batch_that_is_found_later_is_told_to_stop_until_it_was_heard",),
    ),
    Mutant(
        name="left-before-the-stop-was-heard",
        path="commands/tracks.py",
        old="is_bought = self.is_in(ShardState.SUBMITTED) and not self._is_stopping(now_s)",
        new="is_bought = self.is_in(ShardState.SUBMITTED)",
        kills=(f"{_CANCELLED}::test_a_run_that_only_submits_stops_what_was_cancelled_meanwhile",),
    ),
    Mutant(
        name="bought-where-ids-come-again",
        path="commands/precautions.py",
        old="        if self._at.ledger.has_batch_of(track.submission.server, file_id):\n",
        new="        if False:\n",
        kills=(f"{_HOSTILE}::test_a_server_that_gives_ids_anew_sells_nothing",),
    ),
    Mutant(
        name="waits-stored-by-the-wrong-clock",
        path="commands/tracks.py",
        old="stored = by_another_clock(moved, self.wall() - self.clock())",
        new="stored = moved",
        kills=("contract/test_waits_and_clocks.py",),
    ),
    Mutant(
        name="shard-lock-not-held",
        path="commands/engine.py",
        old="            track.lock.enter_context(hold(self._at.place.shard_lock(shard_id)))\n",
        new="",
        kills=(f"{_PROTOCOL}::test_a_shard_that_another_process_moves_is_left_to_it",),
    ),
    Mutant(
        name="lock-shared",
        path="ledger/locks.py",
        old="fcntl.LOCK_EX | fcntl.LOCK_NB",
        new="fcntl.LOCK_SH | fcntl.LOCK_NB",
        kills=("contract/test_ledger_place.py",),
    ),
    Mutant(
        name="batches-cancelled-that-others-want",
        path="commands/cancel.py",
        old="and not one.cancel_requested and one.shard_id not in wanted",
        new="and not one.cancel_requested",
        kills=("e2e/test_rerun_policies.py::test_on_edit_cancel_stops_what_nobody_wants_and_nothing_else",),
    ),
    # ------------------------------------------------------------ one call, one request
    Mutant(
        name="create-retried-blindly",
        path="provider/client.py",
        old='headers={"Content-Type": "application/json"}\n        )\n',
        new='headers={"Content-Type": "application/json"}\n        )\n'
        "        judge(self._exchange.send(call), self._provider)\n",
        kills=(f"{_ONCE}::test_no_status_makes_a_call_repeat",),
    ),
    Mutant(
        name="upload-retried-blindly",
        path="provider/client.py",
        old="            return judge(self._exchange.send(call), self._provider)\n\n    def create_batch",
        new="            self._exchange.send(call)\n"
        "            return judge(self._exchange.send(call), self._provider)\n\n    def create_batch",
        kills=(f"{_ONCE}::test_no_status_makes_a_call_repeat",),
    ),
    Mutant(
        name="redirects-followed-with-the-key",
        path="provider/exchange.py",
        old="follow_redirects=False",
        new="follow_redirects=True",
        kills=(f"{_ONCE}::test_no_status_makes_a_call_repeat",),
    ),
    Mutant(
        name="bare-429-taken-for-a-refusal",
        path="provider/outcome.py",
        old="    if error_code(value) in _DEFINITE_429_CODES:\n",
        new="    if True:\n",
        kills=(_OUTCOME,),
    ),
    Mutant(
        name="web-page-taken-for-a-refusal",
        path="provider/outcome.py",
        old="    if reply.is_cut or is_page(reply.headers, reply.body):\n",
        new="    if reply.is_cut:\n",
        kills=(_OUTCOME,),
    ),
    Mutant(
        name="cut-refusal-believed",
        path="provider/outcome.py",
        old="    if reply.is_cut or is_page(reply.headers, reply.body):\n",
        new="    if is_page(reply.headers, reply.body):\n",
        kills=(_OUTCOME,),
    ),
    Mutant(
        name="lost-after-sending-taken-for-unsent",
        path="provider/outcome.py",
        old="return Unknown(problem=problem) if result.was_sent else Refused(problem=problem)",
        new="return Refused(problem=problem)",
        kills=(_OUTCOME,),
    ),
    Mutant(
        name="listing-that-repeats-itself-is-complete",
        path="provider/listing.py",
        old="        if repeats:\n            break\n",
        new="",
        kills=("unit/test_provider_listing.py",),
    ),
    Mutant(
        name="time-bound-trusted-in-any-order",
        path="provider/listing.py",
        old="return is_sorted and bool(known)",
        new="return bool(known)",
        kills=("unit/test_provider_listing.py",),
    ),
    # ------------------------------------------------------------ a person's word
    Mutant(
        name="resubmitted-on-a-listing-that-was-cut",
        path="commands/resolve.py",
        old="    if not is_complete:\n",
        new="    if False:\n",
        kills=(f"{_RESOLVE}::test_a_listing_that_could_not_be_read_to_its_end_lets_nothing_be_sent_again",),
    ),
    Mutant(
        name="resubmitted-without-a-fence",
        path="commands/resolve.py",
        old='    if reply == "deleted" or (',
        new='    if reply != "unclear" or (',
        kills=(f"{_RESOLVE}::test_where_no_fence_is_proved_nothing_is_sent_again",),
    ),
    Mutant(
        name="resubmitted-on-the-word-of-another-account",
        path="commands/resolve.py",
        old="    if case.ledger.key_of_create(submission.shard_id) != client.key_digest(submission.run):\n",
        new="    if False:\n",
        kills=(f"{_RESOLVE}::test_where_no_fence_is_proved_nothing_is_sent_again",),
    ),
    Mutant(
        name="resubmitted-unseen-by-another-account",
        path="commands/resolve.py",
        old="    if not calls.sees_input_file(client, submission):\n",
        new="    if False:\n",
        kills=(f"{_RESOLVE}::test_what_another_account_does_not_see_is_not_sent_again",),
    ),
    Mutant(
        name="an-unknown-key-taken-for-ours",
        path="commands/precautions.py",
        old="return track.has_deleted or self._at.is_of_this_key(track.submission)",
        new="return True",
        kills=(f"{_PROTOCOL}::test_what_another_key_does_not_see_is_no_fence",),
    ),
    Mutant(
        name="adopted-without-its-requests",
        path="commands/resolve.py",
        old="            _learn_requests(case, batch, client)\n",
        new="            pass\n",
        kills=("e2e/test_untold.py",),
    ),
    Mutant(
        name="done-without-its-lines",
        path="ledger/outcomes.py",
        old=" + max(unknown, 0)\n",
        new="\n",
        kills=("contract/test_ledger_restoring.py",),
    ),
    # ------------------------------------------------------------ plans
    Mutant(
        name="plan-committed-although-overtaken",
        path="ledger/planning.py",
        old="        if not _stands_as_seen(row, known):\n",
        new="        if False:\n",
        kills=("contract/test_ledger_planning.py",),
    ),
    Mutant(
        name="plan-committed-although-answered-since",
        path="ledger/planning.py",
        old="    return is_free and (known.attempts, status) == (row.attempts, row.status)\n",
        new="    return is_free and status == status\n",
        kills=("contract/test_ledger_planning.py",),
    ),
    Mutant(
        name="block-committed-although-overtaken",
        path="ledger/new_blocks.py",
        old="self._known(staging) if next_id > 1 else set()",
        new="set()",
        kills=("contract/test_ledger_planning.py",),
    ),
    Mutant(
        name="retry-committed-although-overtaken",
        path="ledger/planning.py",
        old="            attempts.update(REPEATABLE_BY_ID.rows(connection, request_ids, max_attempts))\n",
        new="            attempts.update(FREE_BY_ID.rows(connection, request_ids))\n",
        kills=("contract/test_ledger_planning.py::test_what_another_run_has_repeated_is_not_sent_again",),
    ),
    Mutant(
        name="request-on-its-way-sent-again",
        path="ledger/plan_statements.py",
        old="IS_REPEATABLE = and_(\n    request.c.open_shard_id.is_(None),\n",
        new="IS_REPEATABLE = and_(\n",
        kills=("contract/test_ledger_planning.py::test_known_requests_on_their_way_are_not_sent_again",),
    ),
)
