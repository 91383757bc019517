"""What came back: which outcome a request keeps, what the rows and the view `results` then say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner.commands.request_tokens import Tokens, request_tokens
from runner.core.model import Cause, Outcome, Status
from runner.core.states import Submission, reconciled
from runner.errors import LedgerError
from runner.ledger import LedgerRow, Verdict
from tests.contract.ledger_factories import (
    START_S,
    UUID_ID,
    Project,
    failed,
    fingerprint,
    succeeded,
    to_send,
    unsendable,
    waiting,
)

TRUNCATED = Outcome(
    status=Status.TRUNCATED, finish_reason="length", cause=Cause(error_class="length", message="cut")
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.open(tmp_path)


def sent(project: Project, *keys: str) -> Submission:
    rows = [to_send(number, key, line=number) for number, key in enumerate(keys)]
    return project.send(project.commit(rows)[0])


def only_row(project: Project) -> LedgerRow:
    (row,) = project.ledger.rows(project.manifest_id, 0, 10)
    return row


def test_an_answer_is_found_with_everything_that_belongs_to_it(project: Project) -> None:
    here = sent(project, "ticket 7")
    assert list(project.ledger.expected(here.shard_id)) == [f"ticket-7-{fingerprint('ticket 7').hex()[:16]}"]
    project.answer(here, [(0, succeeded(model="qwen-2026"))])
    assert only_row(project) == LedgerRow(
        position=0,
        key="ticket 7",
        status=Status.SUCCEEDED,
        error_class=None,
        error_code=None,
        error_message=None,
        finish_reason="stop",
        input_tokens=30,
        output_tokens=10,
        model="qwen-2026",
        custom_id=f"ticket-7-{fingerprint('ticket 7').hex()[:16]}",
        batch_id="batch-1",
        response_id=UUID_ID,
        attempts=1,
        answered_at_s=int(START_S),
        fingerprint=fingerprint("ticket 7"),
        raw_path="raw/out-1-output.jsonl",
        offset=0,
        length=99,
    )
    (entry,) = project.ledger.expected(here.shard_id).values()
    assert (entry.status, entry.offset, entry.length) == (Status.SUCCEEDED, 0, 99)
    assert entry.file_id == project.ledger.raw_file(here.shard_id, "output", "out-1").id


@pytest.mark.parametrize(
    "outcome",
    [
        succeeded(model="qwen", finish_reason=None, response_id=None, input_tokens=None, output_tokens=None),
        succeeded(model=None, finish_reason="tool_calls", response_id="chatcmpl-1"),
        succeeded(response_id=UUID_ID.upper()),
        succeeded(response_id=UUID_ID.replace("batch_req_", "")),
        TRUNCATED,
        failed(),
        failed(status=Status.EXPIRED, retryable=True, message="late"),
    ],
)
def test_an_outcome_of_any_kind_comes_back_as_it_was(project: Project, outcome: Outcome) -> None:
    project.answer(sent(project, "a"), [(0, outcome)])
    row = only_row(project)
    cause = outcome.cause
    assert row.status is outcome.status
    assert (row.finish_reason, row.model) == (outcome.finish_reason, outcome.model)
    assert (row.response_id, row.input_tokens) == (outcome.response_id, outcome.input_tokens)
    assert (row.error_class, row.error_code, row.error_message) == (
        (cause.error_class, cause.code, cause.message) if cause else (None, None, None)
    )


def test_texts_that_no_database_can_hold_are_stored_with_a_mark(project: Project) -> None:
    broken = failed(message="bad \ud800 and \0")
    project.answer(sent(project, "a"), [(0, broken._replace(response_id="id\0", finish_reason="\udfff"))])
    row = only_row(project)
    assert row.error_message == "bad ? and \ufffd"
    assert row.response_id == "id\ufffd"


def test_storing_the_same_lines_again_changes_nothing(project: Project) -> None:
    here = sent(project, "a", "b")
    lines = [(0, succeeded()), (1, failed())]
    project.answer(here, lines)
    before = project.asked("SELECT * FROM attempt"), project.asked("SELECT * FROM request")
    project.answer(here, lines)
    assert before == (project.asked("SELECT * FROM attempt"), project.asked("SELECT * FROM request"))


def test_the_first_success_stays_and_a_failure_never_replaces_it(project: Project) -> None:
    here = sent(project, "a")
    project.answer(here, [(0, succeeded(response_id="first")), (0, succeeded(response_id="second"))])
    project.answer(here, [(0, failed())], file_id="err")
    assert (only_row(project).status, only_row(project).response_id) == (Status.SUCCEEDED, "first")
    assert only_row(project).error_class is None


def test_a_success_replaces_a_failure_and_takes_its_cause_away(project: Project) -> None:
    here = sent(project, "a")
    project.answer(here, [(0, failed()), (0, succeeded(response_id="good"))])
    row = only_row(project)
    assert (row.status, row.response_id, row.error_message) == (Status.SUCCEEDED, "good", None)
    assert list(project.ledger.repeatable(project.manifest_id, 9)) == []


def test_a_later_attempt_replaces_an_earlier_failure_with_its_own(project: Project) -> None:
    first = sent(project, "a")
    project.answer(first, [(0, failed(message="first"))])
    project.finish(first)
    second = sent(project, "a")
    assert only_row(project).status is Status.PENDING
    assert only_row(project).batch_id == "batch-2"
    project.answer(second, [(0, failed(message="second", retryable=False))])
    assert (only_row(project).error_message, only_row(project).attempts) == ("second", 2)
    assert list(project.ledger.repeatable(project.manifest_id, 9)) == []


def refresh(project: Project, outcome: Outcome) -> LedgerRow:
    """An answered request, asked again on purpose."""
    first = sent(project, "a")
    project.answer(first, [(0, succeeded(response_id="old"))])
    project.finish(first)
    again = project.send(project.commit([to_send(0, "a", line=0)])[0])
    assert only_row(project).status is Status.SUCCEEDED, "an answer stays in sight while it is refreshed"
    project.answer(again, [(0, outcome)])
    project.finish(again)
    return only_row(project)


def test_a_refreshed_answer_replaces_the_old_one(project: Project) -> None:
    assert refresh(project, succeeded(response_id="new")).response_id == "new"


@pytest.mark.parametrize(
    "outcome",
    [failed(), TRUNCATED, failed(status=Status.EXPIRED)],
)
def test_an_answer_is_not_lost_when_its_refresh_goes_wrong(project: Project, outcome: Outcome) -> None:
    row = refresh(project, outcome)
    assert (row.status, row.response_id, row.batch_id) == (Status.SUCCEEDED, "old", "batch-1")
    held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
    assert (held.is_open, held.status, held.attempts - held.excused) == (False, Status.SUCCEEDED, 1)
    assert held.has_failed_since
    shown = Tokens()
    shown.count(request_tokens(project.ledger.stored_rows(project.manifest_id, 0, 9)))
    assert shown.failed_since == 1


def test_a_failed_refresh_is_repeated_as_a_failure_is_and_forgotten_with_the_new_answer(
    project: Project,
) -> None:
    refresh(project, failed())
    (one,) = next(project.ledger.repeatable(project.manifest_id, 2))
    assert list(project.ledger.repeatable(project.manifest_id, 1)) == []
    assert (one.request_id, one.shard_id) == (1, 2), "the shard that failed, not the one that was answered"
    again = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(again, [(0, succeeded(response_id="new"))])
    assert only_row(project).response_id == "new"
    assert not project.ledger.held([fingerprint("a")])[fingerprint("a")].has_failed_since
    assert list(project.ledger.repeatable(project.manifest_id, 9)) == []


@pytest.mark.parametrize("is_refresh", [False, True])
def test_what_was_cancelled_on_our_side_is_no_failed_attempt(project: Project, is_refresh: bool) -> None:
    shard = sent(project, "a")
    if is_refresh:
        project.answer(shard, [(0, succeeded())])
        shard = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.ledger.request_cancel(shard.shard_id)
    for _ in range(2):
        project.answer(shard, [(0, failed(status=Status.CANCELLED))])
    held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
    assert (held.attempts - held.excused, held.is_open, held.has_failed_since) == (0, False, False)
    assert held.status is (Status.SUCCEEDED if is_refresh else Status.CANCELLED)
    assert only_row(project).attempts == 1 + is_refresh


def test_a_repetition_that_was_cancelled_is_the_last_word_on_a_refresh_that_failed(project: Project) -> None:
    """Whoever asks it again finds it in the file that was cancelled, not in an earlier one that was not."""
    refresh(project, failed())
    again = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.ledger.request_cancel(again.shard_id)
    for _ in range(2):
        project.answer(again, [(0, failed(status=Status.CANCELLED))])
    (one,) = next(project.ledger.repeatable(project.manifest_id, 2))
    assert (one.shard_id, one.attempts) == (again.shard_id, 1)
    assert only_row(project).response_id == "old"


@pytest.mark.parametrize("is_refresh", [False, True])
def test_what_our_fence_cancelled_is_no_failed_attempt_and_is_asked_again(
    project: Project, is_refresh: bool
) -> None:
    shard = sent(project, "a")
    if is_refresh:
        project.answer(shard, [(0, succeeded())])
        shard = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.ledger.save(replace(shard, is_fenced=True), what="adopted")
    for _ in range(2):
        project.answer(shard, [(0, failed(status=Status.CANCELLED))])
    held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
    assert (held.attempts - held.excused, held.is_open, held.has_failed_since) == (0, False, is_refresh)
    (one,) = next(project.ledger.repeatable(project.manifest_id, 1))
    assert one.shard_id == shard.shard_id


def test_a_server_whose_batches_our_fence_cancels_each_time_comes_to_an_end(project: Project) -> None:
    shard, counted = sent(project, "a"), []
    for _ in range(5):
        project.ledger.save(replace(shard, is_fenced=True), what="adopted")
        project.answer(shard, [(0, failed(status=Status.CANCELLED))])
        held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
        counted.append(held.attempts - held.excused)
        shard = project.send(project.commit([to_send(0, "a", line=0)])[0])
    assert counted == [0, 0, 0, 1, 2]


def test_a_full_queue_is_no_failed_attempt_but_the_pause_grows_and_it_comes_to_an_end(
    project: Project,
) -> None:
    full = failed()._replace(queued_out=True)
    shard, counted, tries = sent(project, "a"), [], []
    for _ in range(203):
        project.answer(shard, [(0, full)])
        held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
        counted.append(held.attempts - held.excused)
        tries += [one.attempts for one in next(project.ledger.repeatable(project.manifest_id, 3), [])]
        shard = project.send(project.commit([to_send(0, "a", line=0)])[0])
    assert counted == [0] * 200 + [1, 2, 3]
    assert tries == list(range(1, 203)), "a third failure that counts is the last"


def test_a_batch_that_the_server_cancelled_is_a_failed_attempt(project: Project) -> None:
    project.answer(sent(project, "a"), [(0, failed(status=Status.CANCELLED))])
    held = project.ledger.held([fingerprint("a")])[fingerprint("a")]
    assert held.attempts - held.excused == 1


def test_the_mark_of_the_answers_moves_with_every_change_of_them(project: Project) -> None:
    shard = sent(project, "a", "b")
    marks = [project.ledger.answers_mark(project.manifest_id)]
    for outcome in (failed(), succeeded(), succeeded()):
        project.answer(shard, [(0, outcome)])
        marks.append(project.ledger.answers_mark(project.manifest_id))
    assert len(set(marks)) == 3
    assert marks[-1] == marks[-2], "the same line twice changes nothing"
    again = project.send(project.commit([to_send(0, "a", line=0)])[0])
    marks.append(project.ledger.answers_mark(project.manifest_id))
    for outcome in (failed(), succeeded()):
        project.answer(again, [(0, outcome)])
        marks.append(project.ledger.answers_mark(project.manifest_id))
    assert len(set(marks)) == 6


def test_the_mark_of_the_answers_moves_when_two_of_them_change_places(project: Project) -> None:
    shard = sent(project, "a", "b")
    project.answer(shard, [(0, succeeded()), (1, succeeded())])
    marks = []
    cause = Cause(error_class="schema", message="not a number")
    for invalid, valid in ("ab", "ba"):
        project.ledger.judge_again({fingerprint(invalid): Verdict(shard.shard_id, Status.INVALID, cause)})
        project.ledger.judge_again({fingerprint(valid): Verdict(shard.shard_id, Status.SUCCEEDED, None)})
        marks.append(project.ledger.answers_mark(project.manifest_id))
    assert marks[0] != marks[1]


def test_a_second_look_at_an_answer_is_kept_until_the_next_one(project: Project) -> None:
    shard = sent(project, "a")
    project.answer(shard, [(0, succeeded())])
    cause = Cause(error_class="schema", message="not a number")
    for _ in range(2):
        project.ledger.judge_again({fingerprint("a"): Verdict(shard.shard_id, Status.INVALID, cause)})
        row = only_row(project)
        assert (row.status, row.error_class, row.error_message) == (Status.INVALID, "schema", "not a number")
    assert project.ledger.totals(project.manifest_id).by_status == {Status.INVALID: 1}
    shown = "SELECT status, error_message FROM results"
    assert project.asked(shown) == [("invalid", "not a number")]
    project.ledger.judge_again({fingerprint("a"): Verdict(shard.shard_id, Status.SUCCEEDED, None)})
    assert project.asked(shown) == [("succeeded", None)]


def test_a_look_at_an_answer_says_nothing_of_the_one_that_has_replaced_it(project: Project) -> None:
    first = sent(project, "a")
    project.answer(first, [(0, succeeded())])
    again = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(again, [(0, succeeded())])
    cause = Cause(error_class="raw_missing", message="gone")
    for shard, status in ((first, Status.SUCCEEDED), (again, Status.UNACCOUNTED)):
        verdict = Verdict(shard.shard_id, Status.UNACCOUNTED, cause)
        project.ledger.judge_again({fingerprint("a"): verdict})
        assert only_row(project).status is status


def test_a_late_line_of_an_earlier_shard_does_not_undo_a_later_one(project: Project) -> None:
    first = sent(project, "a")
    project.answer(first, [(0, failed(message="first"))])
    second = sent(project, "a")
    project.answer(second, [(0, failed(message="second"))])
    project.answer(first, [(0, failed(message="late"))], file_id="late")
    assert only_row(project).error_message == "second"
    project.answer(first, [(0, succeeded(response_id="late success"))], file_id="late")
    assert only_row(project).response_id == "late success"


# ---------------------------------------------------------------- the end of a shard


def test_a_shard_is_done_with_the_outcomes_of_its_absent_lines(project: Project) -> None:
    here = sent(project, "a", "b")
    project.answer(here, [(0, succeeded())])
    entry = next(item for item in project.ledger.expected(here.shard_id).values() if item.line == 1)
    cause = Cause(error_class="unaccounted", message="in neither file")
    absent = Outcome(status=Status.UNACCOUNTED, cause=cause, retryable=True)
    project.ledger.finish_shard(reconciled(here), [(1, entry.request_id, absent)], detail="1 absent")
    assert project.statuses() == [Status.SUCCEEDED, Status.UNACCOUNTED]
    row = project.ledger.rows(project.manifest_id, 1, 2)[0]
    assert (row.raw_path, row.offset, row.finish_reason, row.model) == (None, None, None, None)
    assert project.ledger.open_submissions(project.manifest_id) == []
    assert project.asked("SELECT what, detail FROM event ORDER BY id DESC LIMIT 1") == [("done", "1 absent")]
    assert [item[2] for chunk in project.ledger.repeatable(project.manifest_id, 3) for item in chunk] == [1]


def test_a_shard_with_a_line_unaccounted_for_is_not_done(project: Project) -> None:
    """I16 and I17."""
    here = sent(project, "a", "b")
    project.answer(here, [(0, succeeded())])
    with pytest.raises(LedgerError, match="1 requests have no outcome"):
        project.finish(here)
    assert project.ledger.open_submissions(project.manifest_id) == [here]


def test_only_a_done_shard_can_be_finished(project: Project) -> None:
    here = sent(project, "a")
    with pytest.raises(ValueError, match="submitted, not done"):
        project.ledger.finish_shard(here, [])


# ---------------------------------------------------------------- raw files


def test_a_raw_file_is_the_same_for_the_same_id(project: Project) -> None:
    here = sent(project, "a")
    one = project.ledger.raw_file(here.shard_id, "output", "file-9")
    assert one.path == "raw/file-9-output.jsonl"
    assert project.ledger.raw_file(here.shard_id, "output", "file-9") == one
    assert project.ledger.raw_file(here.shard_id, "error", "file-9").path == "raw/file-9-error.jsonl"


@pytest.mark.parametrize("server_id", ["../../etc/passwd", "a/b", "", ".", "x" * 300, "a\0b", "é", "-rf"])
def test_a_servers_id_can_not_lead_out_of_the_folder(project: Project, server_id: str) -> None:
    here = sent(project, "a")
    path = Path(project.ledger.raw_file(here.shard_id, "output", server_id).path)
    assert path.parent == Path("raw")
    assert not path.name.startswith(".")
    assert len(path.name.encode()) < 200
    assert "\0" not in path.name


def test_ids_that_look_alike_have_files_of_their_own(project: Project) -> None:
    (one, two) = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    paths = [
        project.ledger.raw_file(shard.shard_id, "output", server_id).path
        for shard in (one, two)
        for server_id in ("a/b", "a_b", "a:b", "same")
    ]
    assert len(set(paths)) == 8


def test_lines_are_counted_and_foreign_ones_set_aside_once(project: Project) -> None:
    raw = project.ledger.raw_file(sent(project, "a").shard_id, "output", "out")
    project.ledger.count_lines(raw, lines=5, duplicate_lines=1, unknown_lines=2, bad_lines=1)
    project.ledger.quarantine(raw, [(0, 10, "not JSON: \0"), (11, 5, "unknown custom_id")])
    project.ledger.quarantine(raw, [(11, 5, "again"), (17, 3, "not JSON"), (17, 3, "twice")])
    counted = project.asked(
        "SELECT lines, duplicate_lines, unknown_lines, bad_lines FROM file WHERE kind = 'output'"
    )
    assert counted == [(5, 1, 2, 1)]
    assert [row[0] for row in project.asked('SELECT "offset" FROM quarantine ORDER BY 1')] == [0, 11, 17]


# ---------------------------------------------------------------- totals and the view


def test_totals_count_every_row_once(project: Project) -> None:
    rows = [to_send(0, "a", line=0), to_send(1, "b", line=1), waiting(2, "twin", request="a")]
    rows.append(unsendable(3, "u"))
    here = project.send(project.commit([*rows, waiting(4, "later")])[0])
    project.answer(here, [(0, succeeded()), (1, failed())])
    totals = project.ledger.totals(project.manifest_id)
    assert totals.rows == 5
    assert dict(totals.by_status) == {
        Status.SUCCEEDED: 2,
        Status.FAILED: 1,
        Status.UNSENDABLE: 1,
        Status.PENDING: 1,
    }
    assert (totals.input_tokens, totals.output_tokens) == (60, 20)


def test_the_view_says_what_the_program_says(project: Project) -> None:
    """The view is for people with a sqlite3 shell: nothing in it is a code or packed."""
    rows = [
        *(to_send(0, "Größe 7", line=0), to_send(1, "b", line=1), to_send(2, "c", line=2)),
        *(waiting(3, "later"), unsendable(4, "u"), to_send(5, "again", line=3)),
    ]
    here = project.send(project.commit(rows)[0])
    project.answer(
        here,
        [
            (0, succeeded(model=None)),
            (1, failed()),
            (2, succeeded(response_id="other", finish_reason="tool_calls")),
            (3, failed(message="first")),
        ],
    )
    settled = [waiting(number, row.key) for number, row in enumerate(rows[:3])]
    project.commit([*settled, *rows[3:5], rows[5]._replace(line=0)])
    found = project.asked(
        "SELECT position, key, status, finish_reason, error_class, error_code, error_message, input_tokens, "
        'output_tokens, model, custom_id, batch_id, response_id, attempts, raw_file, "offset", length '
        "FROM results WHERE manifest = 'job' ORDER BY position"
    )
    expected = [
        (
            *(row.position, row.key, row.status.value, row.finish_reason, row.error_class, row.error_code),
            *(row.error_message, row.input_tokens, row.output_tokens, row.model, row.custom_id, row.batch_id),
            *(row.response_id, row.attempts if row.custom_id else None, row.raw_path, row.offset, row.length),
        )
        for row in project.ledger.rows(project.manifest_id, 0, 10)
    ]
    assert found == expected


def test_times_in_the_view_are_utc_text(project: Project) -> None:
    project.answer(sent(project, "a"), [(0, succeeded())])
    assert project.asked("SELECT answered_at, input_file_id FROM results") == [
        ("2026-01-02T03:04:05Z", "file-1")
    ]
