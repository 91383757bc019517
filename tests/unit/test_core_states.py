"""The submission protocol as rules. The theory stands in runner/core/states.py."""

from __future__ import annotations

import pytest

from runner.core import states
from runner.core.model import ProblemKind
from runner.core.states import (
    CLEAN_SCANS_NEEDED,
    Create,
    DrawFence,
    IllegalMoveError,
    Poll,
    Rest,
    ScanForBatch,
    ShardState,
    Submission,
    Upload,
    Wait,
    decide,
)
from runner.core.tags import read_tags
from tests.unit.core_factories import make_batch, make_problem, make_provider, make_submission

FENCED = make_provider()
UNFENCED = make_provider(has_fence=False)


def created(now_s: float = 1000.0) -> Submission:
    """A shard whose create was intended at `now_s`."""
    uploading = states.upload_intended(make_submission())
    return states.create_intended(states.upload_accepted(uploading, "file-1"), now_s)


def scan_clean(submission: Submission, times: int, *, fence: bool = True) -> Submission:
    provider = FENCED if fence else UNFENCED
    for _ in range(times):
        submission = states.scanned(submission, (), is_complete=True, provider=provider, now_s=5000.0)
    return submission


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [("", True), ("validating", True), ("in_progress", True), ("finalizing", True), ("a new word", True)]
    + [(word, False) for word in ("cancelling", "cancelled", "completed", "failed", "expired")],
)
def test_a_wish_to_stop_is_open_as_long_as_the_batch_goes_on(status: str, goes_on: bool) -> None:
    wished = make_submission(state=ShardState.SUBMITTED, status=status, cancel_requested=True)
    assert states.is_to_be_stopped(wished) is goes_on
    assert not states.is_to_be_stopped(make_submission(state=ShardState.SUBMITTED, status=status))
    assert not states.is_to_be_stopped(make_submission(status=status, cancel_requested=True))


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (ShardState.READY, Upload()),
        (ShardState.UPLOADING, Upload()),
        (ShardState.UPLOADED, Create()),
        (ShardState.CREATING, ScanForBatch()),
        (ShardState.UNKNOWN, ScanForBatch()),
        (ShardState.FENCING, DrawFence()),
        (ShardState.FENCED, ScanForBatch()),
        (ShardState.SUBMITTED, Poll()),
        (ShardState.DONE, Rest()),
        (ShardState.HELD, Rest()),
        (ShardState.REFUSED, Rest()),
        (ShardState.DISCARDED, Rest()),
    ],
)
def test_each_state_has_one_next_step(state: ShardState, action: object) -> None:
    assert decide(make_submission(state=state), FENCED, now_s=1e9) == action


def test_a_create_found_after_a_crash_is_never_sent_again_but_looked_for() -> None:
    crashed = created(now_s=1000.0)
    assert decide(crashed, FENCED, now_s=1001.0) == Wait(1000.0 + states.CREATE_SEND_WINDOW_S + 100.0)
    assert decide(crashed, FENCED, now_s=1000.0 + states.CREATE_SEND_WINDOW_S + 100.0) == ScanForBatch()


def test_an_unknown_create_is_not_examined_before_it_settled() -> None:
    unknown = states.create_unknown(created(), make_problem())
    assert isinstance(decide(unknown, FENCED, now_s=1100.0), Wait)


def test_a_batch_that_is_found_is_adopted() -> None:
    unknown = states.create_unknown(created(), make_problem())
    adopted = states.scanned(unknown, (make_batch(),), is_complete=True, provider=FENCED, now_s=1.0)
    assert (adopted.state, adopted.batch_id, adopted.is_fenced) == (ShardState.SUBMITTED, "batch-1", False)


def test_a_match_counts_even_in_an_incomplete_listing() -> None:
    adopted = states.scanned(created(), (make_batch(),), is_complete=False, provider=FENCED, now_s=1.0)
    assert adopted.state is ShardState.SUBMITTED


def test_one_clean_listing_proves_nothing() -> None:
    assert scan_clean(created(), CLEAN_SCANS_NEEDED - 1).state is ShardState.CREATING
    assert scan_clean(created(), CLEAN_SCANS_NEEDED).state is ShardState.FENCING


def test_an_incomplete_listing_starts_the_proof_afresh() -> None:
    nearly = scan_clean(created(), CLEAN_SCANS_NEEDED - 1)
    again = states.scanned(nearly, (), is_complete=False, provider=FENCED, now_s=1.0)
    assert (again.clean_scans, again.state) == (0, ShardState.CREATING)


def test_listings_that_never_end_are_held_for_a_person() -> None:
    submission = created()
    for _ in range(states.FAILED_SCANS_ALLOWED):
        submission = states.scanned(submission, (), is_complete=False, provider=FENCED, now_s=1.0)
    assert submission.state is ShardState.HELD


def test_without_a_fence_a_person_decides() -> None:
    assert scan_clean(created(), CLEAN_SCANS_NEEDED, fence=False).state is ShardState.HELD


def test_without_echoed_metadata_no_fence_is_drawn() -> None:
    submission = created()
    provider = make_provider(echoes_metadata=False)
    for _ in range(CLEAN_SCANS_NEEDED):
        submission = states.scanned(submission, (), is_complete=True, provider=provider, now_s=1.0)
    assert submission.state is ShardState.HELD


def test_behind_the_fence_a_shard_is_sent_anew_with_a_new_upload() -> None:
    fenced = states.fence_held(scan_clean(created(), CLEAN_SCANS_NEEDED))
    again = scan_clean(fenced, CLEAN_SCANS_NEEDED)
    assert (again.state, again.attempt, again.input_file_id) == (ShardState.READY, 2, None)
    assert again.tags.filename != fenced.tags.filename


def test_a_batch_found_behind_the_fence_is_adopted_after_all() -> None:
    fenced = states.fence_held(scan_clean(created(), CLEAN_SCANS_NEEDED))
    adopted = states.scanned(fenced, (make_batch(),), is_complete=True, provider=FENCED, now_s=1.0)
    assert (adopted.state, adopted.is_fenced) == (ShardState.SUBMITTED, True)


def test_a_fence_is_remembered_where_the_shard_is_held_behind_it() -> None:
    fenced = states.fence_held(scan_clean(created(), CLEAN_SCANS_NEEDED))
    again = states.reexamined(states.held(fenced, "the listing could not be read"))
    assert (again.state, again.is_fenced) == (ShardState.FENCED, True)
    adopted = states.scanned(again, (make_batch(),), is_complete=True, provider=FENCED, now_s=1.0)
    assert (adopted.state, adopted.is_fenced) == (ShardState.SUBMITTED, True)
    sent_anew = scan_clean(again, CLEAN_SCANS_NEEDED)
    assert (sent_anew.state, sent_anew.is_fenced) == (ShardState.READY, False)


def test_an_upload_found_after_a_crash_is_a_new_attempt_with_a_new_name() -> None:
    first = states.upload_intended(make_submission())
    second = states.upload_intended(first)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.tags.filename != second.tags.filename


@pytest.mark.parametrize("kind", [ProblemKind.CAPACITY, ProblemKind.PAYMENT, ProblemKind.UNREACHABLE])
def test_a_create_that_was_surely_refused_starts_over_with_a_new_upload(kind: ProblemKind) -> None:
    again = states.create_refused(created(), make_problem(kind, retry_after_s=60.0), now_s=2000.0)
    assert (again.state, again.attempt, again.input_file_id) == (ShardState.READY, 2, None)
    assert decide(again, FENCED, now_s=2001.0) == Wait(2060.0)


def test_a_shard_that_is_too_large_is_given_up_for_smaller_ones_whatever_the_call() -> None:
    problem = make_problem(ProblemKind.TOO_LARGE, status_code=413)
    uploading = states.upload_intended(make_submission())
    for given_up in (
        states.upload_failed(uploading, problem, now_s=1.0),
        states.create_refused(created(), problem, now_s=1.0),
    ):
        assert given_up.state is ShardState.DISCARDED
        assert (given_up.batch_id, given_up.problem) == (None, problem.message)


def test_a_rejected_batch_is_refused_for_good() -> None:
    refused = states.create_refused(created(), make_problem(ProblemKind.INVALID_REQUEST), now_s=1.0)
    assert refused.state is ShardState.REFUSED


def test_only_reconciliation_ends_a_shard() -> None:
    submitted = states.create_accepted(created(), "batch-1", 1.0)
    for word in ("completed", "failed", "expired", "cancelled", "PROGRESS", ""):
        assert states.seen(submitted, make_batch(status=word)).state is ShardState.SUBMITTED
    assert states.reconciled(submitted).state is ShardState.DONE


@pytest.mark.parametrize("state", [ShardState.CREATING, ShardState.UNKNOWN, ShardState.SUBMITTED])
def test_what_may_be_paid_for_is_never_discarded(state: ShardState) -> None:
    with pytest.raises(IllegalMoveError):
        states.discarded(make_submission(state=state))


def test_no_create_follows_a_state_whose_outcome_is_open() -> None:
    for state in (ShardState.CREATING, ShardState.UNKNOWN, ShardState.FENCING, ShardState.SUBMITTED):
        if state is ShardState.CREATING:
            continue
        with pytest.raises(IllegalMoveError):
            states.create_intended(make_submission(state=state), 1.0)


def test_a_file_id_that_vanishes_from_the_reply_is_remembered() -> None:
    submitted = make_submission(state=ShardState.SUBMITTED, output_file_id="out", total=5)
    after = states.seen(submitted, make_batch(output_file_id=None, total=None))
    assert (after.output_file_id, after.total) == ("out", 5)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("completed", "completed"),
        ("succeeded", "completed"),
        ("canceled", "cancelled"),
        ("expired", "expired"),
        ("in_progress", None),
        ("cancelling", None),
        ("finalizing", None),
        ("scheduling", None),
        ("", None),
    ],
)
def test_an_unknown_word_is_never_final(status: str, word: str | None) -> None:
    assert states.terminal_word(status) == word


def test_counts_that_add_up_make_a_batch_worth_reading_whatever_its_word() -> None:
    stuck = make_submission(status="finalizing", total=2, completed=1, failed=1)
    assert states.looks_finished(stuck)
    assert not states.looks_finished(make_submission(status="finalizing", total=2, completed=1, failed=None))
    assert not states.looks_finished(make_submission(status="validating", total=0, completed=0, failed=0))


def test_tags_hold_nothing_that_the_search_takes_for_a_wildcard() -> None:
    tags = make_submission().tags
    text = tags.filename + "".join(tags.metadata().values())
    assert "_" not in text
    assert "%" not in text
    assert text == text.lower()


def test_our_batch_is_known_by_all_of_its_tags_or_by_its_input_file() -> None:
    tags = make_submission().tags
    ours = make_batch(metadata=tags.metadata() | {"request_source": "api"}, input_file_id=None)
    assert tags.match(ours, None)
    other_attempt = make_batch(metadata=tags.metadata() | {"runner-attempt": "2"}, input_file_id="file-9")
    assert not tags.match(other_attempt, "file-1")
    assert tags.match(make_batch(input_file_id="file-1"), "file-1")
    assert not tags.match(make_batch(input_file_id=None), None)


def test_of_two_batches_of_one_attempt_the_live_one_is_taken() -> None:
    cancelled = make_batch(batch_id="b1", status="cancelled", completed=2)
    live = make_batch(batch_id="b2", status="in_progress", completed=0)
    assert states.best_match((cancelled, live)) is live


HELD = make_submission(state=ShardState.HELD, problem="unknown", input_file_id="file-1", send_by_s=1.0)


@pytest.mark.parametrize("status", ["failed", "expired", "cancelling", "cancelled"])
def test_a_batch_that_is_dead_never_drives_beside_one_that_lives(status: str) -> None:
    for live_id, dead_id in (("batch-0", "batch-1"), ("batch-9", "batch-1")):
        live = make_batch(batch_id=live_id, status="in_progress", completed=0)
        dead = make_batch(batch_id=dead_id, status=status, completed=3)
        assert states.best_match((live, dead)) is live
        assert states.best_match((dead, live)) is live
        assert states.best_match((dead,)) is dead


def test_a_person_moves_a_held_shard_in_three_ways() -> None:
    found = states.adopted(HELD, make_batch(batch_id="b", status="completed", output_file_id="out"), 9.0)
    assert (found.state, found.batch_id, found.output_file_id) == (ShardState.SUBMITTED, "b", "out")
    assert found.problem is None
    freed = states.disowned(HELD, "there is none")
    assert (freed.state, freed.problem) == (ShardState.DISCARDED, "there is none")
    given_up = states.abandoned(HELD, "never mind")
    assert (given_up.state, given_up.problem) == (ShardState.DONE, "never mind")


@pytest.mark.parametrize("state", [state for state in ShardState if state is not ShardState.HELD])
def test_nobody_decides_about_a_shard_that_is_not_held(state: ShardState) -> None:
    for decide_so in (states.disowned, states.abandoned):
        with pytest.raises(IllegalMoveError):
            decide_so(make_submission(state=state), "because")


@pytest.mark.parametrize("state", list(ShardState))
def test_what_is_put_back_from_the_journal_is_never_sent_by_itself(state: ShardState) -> None:
    """No state that leads to an upload or a create comes back: what may be bought is looked for first."""
    for has_batch in (False, True):
        for is_doubtful in (False, True):
            put_back = states.restored(state, has_batch=has_batch, is_doubtful=is_doubtful)
            assert not put_back.is_unpaid
            if has_batch and not state.is_final:
                assert put_back is ShardState.SUBMITTED
            if state.is_final or state in (ShardState.CREATING, ShardState.UNKNOWN, ShardState.FENCING):
                assert has_batch or put_back is state


def test_an_upload_whose_intent_may_be_lost_is_looked_for_on_the_server() -> None:
    state = ShardState.UPLOADED
    assert states.restored(state, has_batch=False, is_doubtful=False) is ShardState.DISCARDED
    assert states.restored(state, has_batch=False, is_doubtful=True) is ShardState.UNKNOWN


def test_our_tags_are_read_back_from_a_batch_and_no_others_are() -> None:
    tags = make_submission().tags
    read = read_tags(tags.metadata() | {"request_source": "api"})
    assert read is not None
    assert (read.run, read.slot, read.attempt, read.requests) == (tags.run, 3, 1, 2)
    assert read.sha == tags.sha[:16]
    for name in tags.metadata():
        assert read_tags({**tags.metadata(), name: ""}) is None
        assert read_tags({**tags.metadata(), name: "x" * 40}) is None
    assert read_tags({}) is None
