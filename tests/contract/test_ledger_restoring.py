"""What a journal tells of shards, and what a new ledger makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner.core.model import Outcome, Problem, ProblemKind, Status
from runner.core.states import (
    ShardState,
    Submission,
    create_accepted,
    create_intended,
    create_refused,
    create_unknown,
    discarded,
    disowned,
    held,
    reconciled,
    upload_accepted,
    upload_intended,
)
from runner.errors import LedgerError
from runner.ledger import (
    CREATE_INTENDED,
    KeptRequest,
    Ledger,
    LedgerPlace,
    kept_path,
    load_requests,
    locate,
    read_journal,
)
from runner.ledger.kept_requests import keep_requests
from runner.ledger.restoring import Restoration
from tests.contract.ledger_factories import (
    START_S,
    Project,
    asked,
    failed,
    fingerprint,
    succeeded,
    to_send,
)

BUSY = Problem(kind=ProblemKind.CAPACITY, message="full", retry_after_s=1.0)
SHA = "ab" * 32


def new_ledger(project: Project, folder: Path) -> tuple[Ledger, LedgerPlace]:
    """An empty ledger over the same files, as a rebuild makes it."""
    place = locate(
        str(project.ledger.place.project / "job.yaml"), {"RUNNER_LEDGER": f"sqlite:///{folder}/n.db"}
    )
    return Ledger.open(place), place


def requests_of(project: Project, shard_id: int) -> list[KeptRequest]:
    keys = [(entry.line, name) for name, entry in project.ledger.expected(shard_id).items()]
    return [
        KeptRequest(fingerprint(name.rpartition("-")[0]), name.rpartition("-")[0]) for _, name in sorted(keys)
    ]


def test_each_move_of_a_shard_is_its_newest_line(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    (here,) = project.commit([to_send(0, "a", line=0)])
    place = project.ledger.place
    steps = [upload_intended(here)]
    steps.append(upload_accepted(steps[-1], "file-1"))
    steps.append(create_intended(steps[-1], START_S))
    steps.append(create_refused(steps[-1], BUSY, START_S))
    steps.append(upload_intended(steps[-1]))
    steps.append(upload_accepted(steps[-1], "file-2"))
    steps.append(create_intended(steps[-1], START_S))
    steps.append(held(steps[-1], "nobody knows"))
    for step in steps:
        project.ledger.save(step, what=f"now {step.state}")
        newest = read_journal(place).shards[0].newest
        assert (newest.shard_state, newest.attempt, newest.what) == (
            step.state,
            step.attempt,
            f"now {step.state}",
        )
        assert (newest.input_file_id, newest.problem) == (step.input_file_id, step.problem)
        assert (newest.manifest, newest.model, newest.path) == ("job.yaml", "qwen", step.path)
    (known,) = read_journal(place).shards
    assert [(fact.attempt, fact.input_file_id) for fact in known.attempts] == [(1, "file-1"), (2, "file-2")]


def test_a_damaged_line_is_counted_and_a_torn_one_is_not(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    project.send(project.commit([to_send(0, "a", line=0)])[0])
    journal = project.ledger.place.journal
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([*lines[:2], b'{"what":"up\x00loaded"}', lines[3], b'{"at":"20']))
    read = read_journal(project.ledger.place)
    assert (len(read.shards), read.damaged_lines) == (1, 1)


def test_answers_failures_and_what_is_open_come_back_as_they_were(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    first = project.send(project.commit([to_send(n, f"k{n}", line=n) for n in range(3)])[0])
    project.answer(first, [(0, succeeded()), (1, failed(retryable=False)), (2, failed())])
    project.finish(first)
    second = project.send(project.commit([to_send(2, "k2", line=0)])[0])
    before = project.ledger.held([fingerprint(f"k{n}") for n in range(3)])
    journaled = read_journal(project.ledger.place)
    assert [one.newest.shard_state for one in journaled.shards] == [ShardState.DONE, ShardState.SUBMITTED]
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        restoration = ledger.restoration()
        for known, submission in zip(journaled.shards, (first, second), strict=True):
            state = known.newest.shard_state
            shard_id = restoration.add_shard(known, state, columns=journaled.runs[known.newest.run])
            assert shard_id == submission.shard_id
            restoration.add_requests(shard_id, requests_of(project, shard_id))
            if state is ShardState.DONE:
                raw = ledger.raw_file(shard_id, "output", f"out-{shard_id}")
                outcomes = [succeeded(), failed(retryable=False), failed()]
                items = [
                    (entry.line, entry.request_id, outcomes[entry.line], 100 * entry.line, 99)
                    for entry in ledger.expected(shard_id).values()
                ]
                ledger.store_outcomes(shard_id, raw, items)
                restoration.stand(shard_id, state)
            else:
                restoration.await_wanted(shard_id)
        after = ledger.held([fingerprint(f"k{n}") for n in range(3)])
        for key, held_before in before.items():
            found = after[key]
            assert (found.name, found.status, found.is_open, found.attempts, found.retryable) == (
                *(held_before.name, held_before.status, held_before.is_open),
                *(held_before.attempts, held_before.retryable),
            )
        assert ledger.submission(second.shard_id).batch_id == second.batch_id
        assert [one.uid for one in ledger.runs(1)] == [second.run, first.run]
    assert asked(project.ledger.place, "SELECT count(*) FROM event WHERE what = 'restored'") == [(0,)]


def answered_twice(tmp_path: Path, second: Outcome) -> tuple[Ledger, Restoration, Submission]:
    """A new ledger in which the first shard lacks its line, and a later shard has this outcome for the same
    request. Gives the first shard too."""
    project = Project.open(tmp_path)
    first = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(first, [(0, failed())])
    project.finish(first)
    project.send(project.commit([to_send(0, "a", line=0)])[0])
    ledger, _ = new_ledger(project, tmp_path)
    restoration = ledger.restoration()
    for known in read_journal(project.ledger.place).shards:
        shard_id = restoration.add_shard(known, ShardState.SUBMITTED, columns=None)
        restoration.add_requests(shard_id, [KeptRequest(fingerprint("a"), "a")])
    (entry,) = ledger.expected(shard_id).values()
    raw = ledger.raw_file(shard_id, "output", "out")
    ledger.store_outcomes(shard_id, raw, [(entry.line, entry.request_id, second, 0, 99)])
    return ledger, restoration, first


def test_what_a_later_shard_has_answered_is_not_awaited_of_an_earlier_one(tmp_path: Path) -> None:
    ledger, restoration, first = answered_twice(tmp_path, succeeded())
    with ledger:
        assert restoration.wanted(first.shard_id) == []
        assert restoration.await_wanted(first.shard_id) == 0
        assert not ledger.held([fingerprint("a")])[fingerprint("a")].is_open


@pytest.mark.parametrize(
    "second", [failed(retryable=False), succeeded(status=Status.TRUNCATED, finish_reason="length")]
)
def test_what_an_earlier_shard_lacks_is_no_failure_of_a_later_outcome(
    tmp_path: Path, second: Outcome
) -> None:
    """It may still give a better answer, so it is looked at again; that it gives none says nothing new."""
    ledger, restoration, first = answered_twice(tmp_path, second)
    with ledger:
        assert restoration.await_wanted(first.shard_id) == 1
        (entry,) = ledger.expected(first.shard_id).values()
        absent = Outcome(status=Status.UNACCOUNTED, retryable=True)
        ledger.finish_shard(reconciled(ledger.submission(first.shard_id)), [(0, entry.request_id, absent)])
        held = ledger.held([fingerprint("a")])[fingerprint("a")]
        assert (held.status, held.is_open) == (second.status, False)
        assert (held.has_failed_since, held.retryable) == (False, False)


def test_a_request_that_two_shards_lack_waits_for_the_later_one(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    for _ in range(2):
        shard = project.send(project.commit([to_send(0, "a", line=0)])[0])
        project.answer(shard, [(0, failed())])
        project.finish(shard)
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        restoration = ledger.restoration()
        for known in read_journal(project.ledger.place).shards:
            shard_id = restoration.add_shard(known, ShardState.SUBMITTED, columns=None)
            restoration.add_requests(shard_id, [KeptRequest(fingerprint("a"), "a")])
        assert [restoration.await_wanted(one) for one in (2, 1)] == [1, 0]
        (entry,) = ledger.expected(1).values()
        absent = Outcome(status=Status.UNACCOUNTED, retryable=True)
        ledger.finish_shard(reconciled(ledger.submission(1)), [(0, entry.request_id, absent)])
        assert ledger.held([fingerprint("a")])[fingerprint("a")].is_open, "else it is sent a third time"


def test_a_shard_is_not_put_back_as_done_without_all_its_outcomes(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    sent = project.send(project.commit([to_send(0, "a", line=0)])[0])
    (known,) = read_journal(project.ledger.place).shards
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        restoration = ledger.restoration()
        shard_id = restoration.add_shard(known, ShardState.SUBMITTED, columns=None)
        restoration.add_requests(shard_id, requests_of(project, sent.shard_id))
        with pytest.raises(LedgerError, match="no outcome"):
            restoration.stand(shard_id, ShardState.DONE)


def test_a_shard_is_not_done_before_each_of_its_requests_is_known(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    sent = project.send(project.commit([to_send(n, f"k{n}", line=n) for n in range(2)])[0])
    (known,) = read_journal(project.ledger.place).shards
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        shard_id = ledger.restoration().add_shard(known, ShardState.SUBMITTED, columns=None)
        assert ledger.unsettled(shard_id) == 2
        with pytest.raises(LedgerError, match="2 requests have no outcome"):
            ledger.finish_shard(reconciled(ledger.submission(shard_id)), [])
        ledger.restoration().learn(shard_id, requests_of(project, sent.shard_id))
        known_now = ledger.held([fingerprint("k0"), fingerprint("k1")])
        assert all(one.is_open for one in known_now.values()), "else they are sent once more"


@pytest.mark.parametrize("is_old", [False, True])
def test_whose_key_made_a_create_comes_back_where_the_journal_tells_it(tmp_path: Path, is_old: bool) -> None:
    project = Project.open(tmp_path)
    up = upload_accepted(upload_intended(project.commit([to_send(0, "a", line=0)])[0]), "file-1")
    intended = create_intended(up, START_S)
    project.ledger.save(intended, what=CREATE_INTENDED, detail="0a1b2c3d")
    project.ledger.save(create_unknown(intended, BUSY), what="create unknown")
    place = project.ledger.place
    if is_old:
        facts = [json.loads(line) for line in place.journal.read_bytes().splitlines()]
        lines = [{name: value for name, value in fact.items() if name != "key"} for fact in facts]
        place.journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (known,) = read_journal(place).shards
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        shard_id = ledger.restoration().add_shard(known, ShardState.UNKNOWN, columns=None)
        assert ledger.key_of_create(shard_id) == ("" if is_old else "0a1b2c3d")


def test_a_request_that_was_freed_and_sent_again_counts_what_was_sent(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    (unsent,) = project.commit([to_send(0, "a", line=0)])
    project.ledger.release(discarded(unsent), what="discarded")
    (again,) = project.commit([to_send(0, "a", line=0)])
    project.send(again)
    states = [one.newest.shard_state for one in read_journal(project.ledger.place).shards]
    assert states == [ShardState.DISCARDED, ShardState.SUBMITTED]


def test_requests_are_kept_once_and_a_file_that_is_not_whole_is_none(tmp_path: Path) -> None:
    requests = [KeptRequest(fingerprint(n), f"key-{n}") for n in range(3)]
    assert load_requests(tmp_path, SHA, 3) is None
    keep_requests(tmp_path, SHA, requests)
    assert load_requests(tmp_path, SHA, 3) == requests
    keep_requests(tmp_path, SHA, requests[:1])
    assert load_requests(tmp_path, SHA, 3) == requests
    assert load_requests(tmp_path, SHA, 4) is None
    path = kept_path(tmp_path, SHA)
    data = path.read_bytes()
    flipped = data[:20] + bytes([data[20] ^ 1]) + data[21:]
    for damaged in (data[:-20], data[:50], data.replace(b"key-1", b"key-7"), flipped, b""):
        path.write_bytes(damaged)
        assert load_requests(tmp_path, SHA, 3) is None, damaged


def test_a_done_shard_has_kept_its_requests(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    sent = project.send(project.commit([to_send(n, f"k{n}", line=n) for n in range(2)])[0])
    assert load_requests(project.ledger.place.folder, sent.sha, 2) is None
    project.answer(sent, [(0, succeeded()), (1, succeeded())])
    project.finish(sent)
    kept = load_requests(project.ledger.place.folder, sent.sha, 2)
    assert kept == [KeptRequest(fingerprint(f"k{n}"), f"k{n}") for n in range(2)]


@pytest.mark.parametrize("has_answer", [True, False])
def test_a_shard_given_up_has_kept_its_requests_if_it_has_answers(tmp_path: Path, has_answer: bool) -> None:
    project = Project.open(tmp_path)
    sent = project.send(project.commit([to_send(n, f"k{n}", line=n) for n in range(2)])[0])
    if has_answer:
        project.answer(sent, [(0, succeeded())])
    gone = held(sent, "the server no longer knows it")
    project.ledger.save(gone, what="held")
    project.ledger.release(disowned(gone, "a person said so"))
    kept = load_requests(project.ledger.place.folder, sent.sha, 2)
    assert kept == ([KeptRequest(fingerprint(f"k{n}"), f"k{n}") for n in range(2)] if has_answer else None)


def test_what_a_shard_that_was_given_up_did_not_answer_was_never_sent_in_it(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    sent = project.send(project.commit([to_send(n, f"k{n}", line=n) for n in range(2)])[0])
    project.answer(sent, [(0, succeeded())])
    gone = held(sent, "the server no longer knows it")
    project.ledger.save(gone, what="held")
    project.ledger.release(disowned(gone, "a person said so"))
    before = project.ledger.held([fingerprint(f"k{n}") for n in range(2)])
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        restoration = ledger.restoration()
        (known,) = read_journal(project.ledger.place).shards
        shard_id = restoration.add_shard(known, known.newest.shard_state, columns=None)
        restoration.add_requests(shard_id, load_requests(tmp_path / ".runner", sent.sha, 2) or [])
        raw = ledger.raw_file(shard_id, "output", "out")
        entries = [one for one in ledger.expected(shard_id).values() if one.line == 0]
        ledger.store_outcomes(shard_id, raw, [(0, one.request_id, succeeded(), 0, 99) for one in entries])
        restoration.free_unanswered(shard_id)
        assert len(ledger.expected(shard_id)) == 1
        after = ledger.held([fingerprint(f"k{n}") for n in range(2)])
        for key, one in before.items():
            found = after[key]
            assert (found.status, found.attempts, found.is_open) == (one.status, one.attempts, False)


def test_a_batch_that_the_journal_gives_to_two_shards_stays_with_the_first(tmp_path: Path) -> None:
    project = Project.open(tmp_path)
    one, two = project.commit([to_send(0, "a", line=0, slot=0), to_send(1, "b", line=0, slot=1)])
    project.send(one)
    other = upload_accepted(upload_intended(two), "file-x")
    project.ledger.save(other, what="uploaded")
    journal = project.ledger.place.journal
    line = journal.read_bytes().splitlines()[-1]
    made_up = create_accepted(create_intended(other, START_S), "batch-1", START_S)
    forged = line.replace(b'"state":"uploaded"', b'"state":"submitted"')
    forged = forged.replace(b'"batch_id":null', b'"batch_id":"%s"' % str(made_up.batch_id).encode())
    journal.write_bytes(journal.read_bytes() + forged + b"\n")
    journaled = read_journal(project.ledger.place)
    ledger, _ = new_ledger(project, tmp_path)
    with ledger:
        restoration = ledger.restoration()
        ids = [
            restoration.add_shard(known, known.newest.shard_state, columns=None) for known in journaled.shards
        ]
        assert [ledger.submission(shard_id).batch_id for shard_id in ids] == ["batch-1", None]
