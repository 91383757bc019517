"""Plans become facts: requests, attempts, shards, rows; and shards that were never bought."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from runner.core.model import Outcome, Status
from runner.core.planning import Held, Policy, Standing, stand
from runner.core.states import (
    ShardState,
    Submission,
    create_intended,
    discarded,
    upload_accepted,
    upload_intended,
)
from runner.ledger import Comparison, PlanMovedError, StagedBlock, StagedRow, Staging
from tests.contract.ledger_factories import (
    START_S,
    Project,
    failed,
    fingerprint,
    shard_file,
    succeeded,
    to_send,
    unsendable,
    waiting,
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.open(tmp_path)


def held_of(project: Project, name: object) -> Held:
    return project.ledger.held([fingerprint(name)])[fingerprint(name)]


def test_a_committed_plan_is_ready_to_be_sent(project: Project) -> None:
    (submission,) = project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1), unsendable(2, "c")])
    assert submission.state is ShardState.READY
    assert (submission.attempt, submission.requests, submission.slot) == (1, 2, 0)
    assert submission == project.ledger.submission(submission.shard_id)
    assert [row.key for row in project.ledger.rows(project.manifest_id, 0, 10)] == ["a", "b", "c"]
    assert project.statuses() == [Status.PENDING, Status.PENDING, Status.UNSENDABLE]


def test_what_is_held_says_how_a_request_stands(project: Project) -> None:
    project.commit([to_send(0, "a", line=0), waiting(1, "b")])
    assert held_of(project, "a") == Held(
        request_id=held_of(project, "a").request_id,
        name="a",
        status=None,
        is_open=True,
        attempts=1,
        retryable=False,
    )
    assert stand(held_of(project, "a"), Policy(max_attempts=3)) is Standing.IN_FLIGHT
    assert stand(held_of(project, "b"), Policy(max_attempts=3)) is Standing.TO_SEND
    assert project.ledger.held([fingerprint("never wanted")]) == {}
    assert project.ledger.held([]) == {}


def test_many_requests_are_found_whatever_their_number(project: Project) -> None:
    rows = [to_send(number, f"k{number}", line=number) for number in range(1201)]
    project.commit(rows)
    found = project.ledger.held([fingerprint(f"k{number}") for number in range(1500)])
    assert len(found) == 1201


def test_equal_rows_share_one_request(project: Project) -> None:
    project.commit([to_send(0, "first", line=0, request="same"), waiting(1, "second", request="same")])
    assert project.asked("SELECT count(*) FROM request") == [(1,)]
    assert [row.custom_id for row in project.ledger.rows(project.manifest_id, 0, 10)] == [
        f"first-{fingerprint('same').hex()[:16]}"
    ] * 2


@pytest.mark.parametrize("apart", [1, 10_005])
def test_the_row_that_is_placed_names_the_request(project: Project, apart: int) -> None:
    """The shard's lines were written with the placed row's key, so the ledger must say the same."""
    between = [unsendable(position, f"u{position}") for position in range(1, apart)]
    project.commit(
        [waiting(0, "skipped", request="same"), *between, to_send(apart, "placed", line=0, request="same")]
    )
    submission = project.ledger.open_submissions(project.manifest_id)[0]
    assert list(project.ledger.expected(submission.shard_id)) == [f"placed-{fingerprint('same').hex()[:16]}"]
    rows = project.ledger.rows(project.manifest_id, 0, apart + 1)
    assert (rows[0].key, rows[apart].key) == ("skipped", "placed")
    assert rows[0].custom_id == rows[apart].custom_id


def test_a_request_keeps_its_name_for_good(project: Project) -> None:
    project.commit([waiting(0, "old", request="same")])
    assert held_of(project, "same").name == "old"
    project.commit([to_send(0, "new", line=0, request="same")])
    assert held_of(project, "same").name == "old"
    assert project.ledger.rows(project.manifest_id, 0, 1)[0].key == "new"


def test_a_shard_that_names_a_request_otherwise_than_the_ledger_is_refused(project: Project) -> None:
    project.commit([waiting(0, "old", request="same")])
    row = to_send(0, "new", line=0, request="same")
    with pytest.raises(PlanMovedError):
        project.commit([row._replace(name="new")])
    project.commit([row._replace(name="old")])


def test_a_request_that_is_on_its_way_by_now_moves_the_plan(project: Project) -> None:
    other = project.beside("other")
    other.commit([to_send(0, "x", line=0, request="shared")])
    with pytest.raises(PlanMovedError) as caught:
        project.commit([to_send(0, "mine", line=0), to_send(1, "y", line=1, request="shared")])
    assert "'y'" in caught.value.what
    assert project.asked("SELECT count(*) FROM shard WHERE manifest_id = ?", project.manifest_id) == [(0,)]
    assert project.ledger.held([fingerprint("mine")]) == {}
    assert project.ledger.rows(project.manifest_id, 0, 9) == []


def commit_block(project: Project, *requests: str) -> None:
    """A plan of new requests, as one block."""
    keys = [f"k{place}" for place in range(len(requests))]
    block = StagedBlock(
        positions=range(len(requests)),
        keys=keys,
        fingerprints=b"".join(map(fingerprint, requests)),
        names=keys,
        places=[(0, 0, len(requests))],
    )
    with staging_in(project) as staging:
        staging.claim(block.marks())
        staging.add_block(block)
        project.ledger.commit_plan(
            run_id=project.start_run(),
            manifest_id=project.manifest_id,
            staging=staging,
            shards=[shard_file(requests=len(requests))],
        )


def test_a_block_with_a_request_that_is_on_its_way_by_now_moves_the_plan(project: Project) -> None:
    project.beside("other").commit([to_send(0, "x", line=0, request="same")])
    with pytest.raises(PlanMovedError, match="another run has sent"):
        commit_block(project, "new", "same")
    assert project.asked("SELECT attempts FROM request") == [(1,)]
    assert project.asked("SELECT count(*) FROM row WHERE manifest_id = ?", project.manifest_id) == [(0,)]


def test_a_block_with_a_request_that_was_wanted_and_never_asked_is_sent_under_its_name(
    project: Project,
) -> None:
    project.beside("other").commit([waiting(0, "k1", request="same")])
    commit_block(project, "new", "same", "newer")
    assert project.asked("SELECT name, attempts, open_line FROM request ORDER BY open_line") == [
        ("k0", 1, 0),
        ("k1", 1, 1),
        ("k2", 1, 2),
    ]


def collected(project: Project, shard: Submission, outcome: Outcome) -> None:
    """A shard of one request, sent and answered."""
    project.answer(project.send(shard), [(0, outcome)])
    project.finish(project.ledger.submission(shard.shard_id))


def test_a_row_whose_request_was_taken_back_since_it_was_planned_moves_the_plan(project: Project) -> None:
    other = project.beside("other")
    (unsent,) = other.commit([to_send(0, "x", line=0, request="shared")])
    plan = [waiting(0, "a", request="shared", standing=Standing.IN_FLIGHT), to_send(1, "b", line=0)]
    project.ledger.release(discarded(unsent))
    with pytest.raises(PlanMovedError) as caught:
        project.commit_planned(plan)
    assert "'a'" in caught.value.what
    assert project.ledger.rows(project.manifest_id, 0, 9) == []
    assert project.ledger.held([fingerprint("b")]) == {}


def test_a_kept_row_whose_request_was_taken_back_since_it_was_planned_moves_the_plan(
    project: Project,
) -> None:
    other = project.beside("other")
    (unsent,) = other.commit([to_send(0, "a", line=0)])
    project.commit([waiting(0, "a"), waiting(1, "b")])
    request_ids = [held_of(project, "a").request_id]

    def plan() -> None:
        with staging_in(project) as staging:
            staging.keep(request_ids, 0, Standing.IN_FLIGHT)
            staging.add_rows(project.planned([to_send(1, "b", line=0)]))
            project.ledger.commit_plan(
                run_id=project.start_run(),
                manifest_id=project.manifest_id,
                staging=staging,
                shards=[shard_file()],
            )

    project.ledger.release(discarded(unsent))
    with pytest.raises(PlanMovedError):
        plan()
    assert held_of(project, "b").attempts == 0
    other.commit([to_send(0, "a", line=0)])
    plan()
    assert held_of(project, "b").is_open


@pytest.mark.parametrize(
    ("since", "moves"),
    [(succeeded(), False), (failed(retryable=False), False), (failed(), True)],
    ids=["answered", "final", "repeatable"],
)
def test_a_request_that_came_back_since_it_was_planned_moves_the_plan_where_it_may_be_sent(
    project: Project, since: Outcome, moves: bool
) -> None:
    other = project.beside("other")
    collected(other, other.commit([to_send(0, "x", line=0, request="a")])[0], since)
    plan = [waiting(0, "a", standing=Standing.IN_FLIGHT)]
    with pytest.raises(PlanMovedError) if moves else nullcontext():
        project.commit_planned(plan)
    assert len(project.statuses()) == (0 if moves else 1)


def test_an_answer_that_was_forgotten_since_it_was_planned_moves_the_plan(project: Project) -> None:
    other = project.beside("other")
    collected(other, other.commit([to_send(0, "x", line=0, request="a")])[0], succeeded())
    other.commit([])
    (raw,) = project.ledger.raw_files()
    assert project.ledger.forget_raw(raw.file_id)
    with pytest.raises(PlanMovedError):
        project.commit_planned([waiting(0, "a", standing=Standing.ANSWERED)])


def test_what_has_an_answer_is_sent_again_by_a_plan_that_saw_it(project: Project) -> None:
    collected(project, project.commit([to_send(0, "a", line=0)])[0], succeeded())
    assert held_of(project, "a").answered_at_s == int(START_S)
    assert len(project.commit([to_send(0, "a", line=0)])) == 1
    held = held_of(project, "a")
    assert (held.attempts, held.excused) == (2, 1), "attempts are counted from the answer on"


TRUNCATED = Outcome(status=Status.TRUNCATED, finish_reason="length")


@pytest.mark.parametrize(
    "before", [None, failed(), TRUNCATED, succeeded()], ids=["never", "failed", "truncated", "succeeded"]
)
@pytest.mark.parametrize(
    "since", [failed(), TRUNCATED, succeeded()], ids=["failed", "truncated", "succeeded"]
)
def test_a_request_that_was_sent_and_collected_since_it_was_planned_moves_the_plan(
    project: Project, before: Outcome | None, since: Outcome
) -> None:
    """Whatever it was planned for, and whatever came of it: a refresh, a retry, the first time."""
    other = project.beside("other")
    if before is not None:
        collected(other, other.commit([to_send(0, "x", line=0, request="a")])[0], before)
    plan = project.planned([to_send(0, "a", line=0), to_send(1, "b", line=1)])
    collected(other, other.commit([to_send(0, "x", line=0, request="a")])[0], since)
    with pytest.raises(PlanMovedError):
        project.commit_planned(plan)
    assert project.ledger.held([fingerprint("b")]) == {}
    assert len(project.commit([to_send(0, "a", line=0)])) == 1, "planned anew, it may be wanted all the same"


def test_an_answer_without_another_sending_moves_the_plan_too(project: Project) -> None:
    """A shard's last file may hold a better line than the one that its request failed with."""
    other = project.beside("other")
    shard = other.send(other.commit([to_send(0, "x", line=0, request="a")])[0])
    other.answer(shard, [(0, failed())])
    plan = project.planned([to_send(0, "a", line=0)])
    other.answer(shard, [(0, succeeded())], file_id="again")
    with pytest.raises(PlanMovedError):
        project.commit_planned(plan)


def test_what_was_planned_elsewhere_and_taken_back_moves_no_plan(project: Project) -> None:
    other = project.beside("other")
    plan = project.planned([to_send(0, "a", line=0)])
    (unsent,) = other.commit([to_send(0, "x", line=0, request="a")])
    project.ledger.release(discarded(unsent))
    assert len(project.commit_planned([plan[0]._replace(name="x")])) == 1


def test_a_request_that_failed_is_sent_again(project: Project) -> None:
    first = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(first, [(0, failed())])
    project.finish(first)
    assert held_of(project, "a").retryable
    project.commit([to_send(0, "a", line=0)])
    assert (held_of(project, "a").attempts, held_of(project, "a").is_open) == (2, True)
    assert project.asked("SELECT number FROM attempt ORDER BY shard_id") == [(1,), (2,)]


def test_a_request_that_is_placed_twice_is_refused(project: Project) -> None:
    rows = [to_send(0, "a", line=0, request="same"), to_send(1, "b", line=1, request="same")]
    with pytest.raises(PlanMovedError, match="twice"):
        project.commit(rows)
    assert project.asked("SELECT count(*) FROM request") == [(0,)]


def test_the_rows_of_a_manifest_are_those_of_its_last_plan(project: Project) -> None:
    project.commit([to_send(0, "a", line=0), unsendable(1, "b"), waiting(2, "c"), unsendable(3, "d")])
    run_id = project.run_ids[-1]
    assert project.ledger.current_run(project.manifest_id).id == run_id  # type: ignore[union-attr]
    project.commit([waiting(0, "c"), unsendable(1, "b", "another"), waiting(2, "a"), waiting(5, "new")])
    rows = project.ledger.rows(project.manifest_id, 0, 10)
    assert [(row.position, row.key, row.error_message) for row in rows] == [
        (0, "c", None),
        (1, "b", "another"),
        (2, "a", None),
        (5, "new", None),
    ]
    assert project.asked("SELECT position, error_message FROM row_cause") == [(1, "another")]
    project.commit([])
    assert project.ledger.rows(project.manifest_id, 0, 10) == []


def test_the_rows_of_other_manifests_stay(project: Project) -> None:
    other = project.beside("other")
    other.commit([to_send(0, "a", line=0), unsendable(1, "b")])
    project.commit([waiting(0, "x")])
    assert [row.key for row in project.ledger.rows(other.manifest_id, 0, 10)] == ["a", "b"]


def test_the_previous_rows_come_back_in_order_and_in_slices(project: Project) -> None:
    rows = [waiting(number, f"k{number}") for number in range(12_000)]
    project.commit([*rows, unsendable(12_000, "u")])
    chunks = list(project.ledger.previous_rows(project.manifest_id))
    assert [len(chunk) for chunk in chunks] == [10_000, 2_001]
    assert chunks[0][1] == ("k1", fingerprint("k1"))
    assert chunks[1][-1] == ("u", None)


def test_keys_of_any_kind_come_back_as_they_were(project: Project) -> None:
    keys = ["", "a b", "é", "x" * 400, "row", "-", "line\nbreak", "nul\0l", "日本", "'quoted\""]
    project.commit([waiting(number, key) for number, key in enumerate(keys)])
    assert [row.key for row in project.ledger.rows(project.manifest_id, 0, 20)] == keys
    assert [key for chunk in project.ledger.previous_rows(project.manifest_id) for key, _ in chunk] == keys
    for key in keys:
        assert [row.key for row in project.ledger.row_by_key(project.manifest_id, key)] == [key]


# ---------------------------------------------------------------- staging


def staging_in(project: Project) -> Staging:
    return Staging.create(project.ledger.place.folder / "scratch")


def test_staged_rows_come_back_in_the_order_of_their_positions(project: Project) -> None:
    rows = [unsendable(2, "c"), to_send(0, "a", line=0)._replace(name="given"), waiting(1, "b")]
    with staging_in(project) as staging:
        staging.add_rows(rows)
        assert list(staging) == [rows[1], rows[2], rows[0]]
        assert [len(chunk) for chunk in staging.slices(2)] == [2, 1]
        assert staging.counts() == {Standing.UNSENDABLE: 1, Standing.TO_SEND: 2}


def test_a_fingerprint_is_claimed_once(project: Project) -> None:
    one, two, three = (fingerprint(number) for number in range(3))
    with staging_in(project) as staging:
        assert staging.claim([one, two, one]) == [True, True, False]
        assert staging.claim([two, three, three, one]) == [False, True, False, False]
        assert staging.claim([]) == []


def test_rows_are_compared_by_key_wherever_they_moved(project: Project) -> None:
    before = [("kept", b"1"), ("moved", b"2"), ("changed", b"3"), ("gone", b"4"), ("was unsendable", None)]
    now: list[tuple[str, bytes | None]] = [
        *(("kept", b"1"), ("new", b"9"), ("moved", b"2"), ("was unsendable", b"5"), ("changed", b"8")),
    ]
    with staging_in(project) as staging:
        staging.load_previous([before[:2], before[2:]])
        staging.add_rows(
            [StagedRow(at, key, mark, "to_send", None, None, None) for at, (key, mark) in enumerate(now)]
        )
        assert staging.compare() == Comparison(unchanged=2, new=1, changed=2, removed=1)
        assert staging.compare() == Comparison(unchanged=2, new=1, changed=2, removed=1)


def test_nothing_is_left_of_a_scratch_file(project: Project) -> None:
    folder = project.ledger.place.folder / "scratch"
    with staging_in(project) as staging:
        staging.add_rows([waiting(0, "a")])
        assert list(folder.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_an_unchanged_row_that_nobody_asked_is_new(project: Project) -> None:
    rows = [waiting(number, f"k{number}", standing=word) for number, word in enumerate(["unasked", "failed"])]
    with staging_in(project) as staging:
        staging.load_previous([[("k0", fingerprint("k0")), ("k1", fingerprint("k1"))]])
        staging.add_rows(rows)
        assert staging.compare() == Comparison(unchanged=1, new=1, changed=0, removed=0, unasked=1)
    with staging_in(project) as staging:
        staging.load_previous([[("gone", None), ("k0", fingerprint("k0")), ("k1", fingerprint("k1"))]])
        staging.add_rows(rows)
        assert staging.compare() == Comparison(unchanged=1, new=1, changed=0, removed=1, unasked=1)


# ---------------------------------------------------------------- a retry of known requests


def test_known_requests_are_sent_again_in_shards_of_their_own(project: Project) -> None:
    rows = [to_send(0, "a", line=0), to_send(1, "b", line=1), waiting(2, "twin of b", request="b")]
    first = project.send(project.commit(rows)[0])
    project.answer(first, [(1, failed()), (0, succeeded())])
    project.finish(first)
    (chunk,) = project.ledger.repeatable(project.manifest_id, 3)
    ((request_id, shard_id, line, attempts, failed_at_s),) = chunk
    assert (shard_id, line, attempts) == (first.shard_id, 1, 1)
    assert failed_at_s == int(START_S)
    (again,) = project.ledger.commit_shards(
        run_id=project.run_ids[0],
        manifest_id=project.manifest_id,
        shards=[shard_file(1)],
        placements=[(1, 0, request_id)],
        max_attempts=3,
    )
    assert [entry.request_id for entry in project.ledger.expected(again.shard_id).values()] == [request_id]
    assert project.statuses() == [Status.SUCCEEDED, Status.PENDING, Status.PENDING]
    assert list(project.ledger.repeatable(project.manifest_id, 3)) == []
    with pytest.raises(PlanMovedError):
        project.ledger.commit_shards(
            run_id=project.run_ids[0],
            manifest_id=project.manifest_id,
            shards=[shard_file(2)],
            placements=[(2, 0, request_id)],
            max_attempts=3,
        )


def a_failure(project: Project) -> tuple[int, Callable[..., list[Submission]]]:
    """A request that failed and may be repeated, and what sends it again."""
    first = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(first, [(0, failed())])
    project.finish(first)
    ((request_id, *_),) = next(iter(project.ledger.repeatable(project.manifest_id, 3)))
    send_again = functools.partial(
        project.ledger.commit_shards,
        run_id=project.run_ids[0],
        manifest_id=project.manifest_id,
        max_attempts=3,
    )
    return request_id, send_again


def test_known_requests_on_their_way_are_not_sent_again(project: Project) -> None:
    """Two runs that both saw a failure: the later one finds the request placed already."""
    request_id, send_again = a_failure(project)
    send_again(shards=[shard_file(1)], placements=[(1, 0, request_id)])
    with pytest.raises(PlanMovedError, match="another run has sent a request again"):
        send_again(shards=[shard_file(2)], placements=[(2, 0, request_id)])
    assert [shard.slot for shard in project.ledger.shards(project.manifest_id)] == [0, 1]


@pytest.mark.parametrize(
    "words",
    [[succeeded()], [failed(retryable=False)], [failed(), failed()]],
    ids=["answered", "final", "used"],
)
def test_what_another_run_has_repeated_is_not_sent_again(project: Project, words: list[Outcome]) -> None:
    """Answered since it was chosen, failed for good, or its attempts are used up."""
    request_id, send_again = a_failure(project)
    for slot, word in enumerate(words, 1):
        (again,) = send_again(shards=[shard_file(slot)], placements=[(slot, 0, request_id)])
        project.answer(project.send(again), [(0, word)])
        project.finish(project.ledger.submission(again.shard_id))
    before = project.asked("SELECT * FROM request"), project.asked("SELECT count(*) FROM shard")
    with pytest.raises(PlanMovedError, match="another run has sent a request again"):
        send_again(shards=[shard_file(9)], placements=[(9, 0, request_id)])
    assert (project.asked("SELECT * FROM request"), project.asked("SELECT count(*) FROM shard")) == before


def test_a_request_that_failed_once_more_and_has_attempts_left_is_sent_again(project: Project) -> None:
    request_id, send_again = a_failure(project)
    (again,) = send_again(shards=[shard_file(1)], placements=[(1, 0, request_id)])
    project.answer(project.send(again), [(0, failed())])
    project.finish(project.ledger.submission(again.shard_id))
    assert len(send_again(shards=[shard_file(2)], placements=[(2, 0, request_id)])) == 1
    assert held_of(project, "a").attempts == 3


def test_what_is_not_worth_repeating_is_not_offered(project: Project) -> None:
    rows = [to_send(number, f"k{number}", line=number) for number in range(4)]
    first = project.send(project.commit(rows)[0])
    project.answer(first, [(0, failed(retryable=False)), (1, failed()), (2, succeeded())])
    assert [item[2] for chunk in project.ledger.repeatable(project.manifest_id, 3) for item in chunk] == [1]
    assert list(project.ledger.repeatable(project.manifest_id, 1)) == []
    project.commit([waiting(0, "k0")])
    assert list(project.ledger.repeatable(project.manifest_id, 3)) == []


# ---------------------------------------------------------------- shards that were never bought


def test_an_unpaid_shard_is_discarded_and_its_requests_are_as_before(project: Project) -> None:
    (ready, uploading, uploaded, creating) = project.commit(
        [to_send(number, f"k{number}", line=0, slot=number) for number in range(4)]
    )
    project.ledger.save(upload_intended(uploading), what="uploading")
    project.ledger.save(upload_accepted(upload_intended(uploaded), "file-u"), what="uploaded")
    bought = create_intended(upload_accepted(upload_intended(creating), "file-c"), 0.0)
    project.ledger.save(upload_intended(creating), what="uploading")
    project.ledger.save(bought, what="creating")
    for shard in (ready, uploading, uploaded):
        project.ledger.release(discarded(project.ledger.submission(shard.shard_id)))
        assert project.ledger.submission(shard.shard_id).state is ShardState.DISCARDED
    for number in range(3):
        held = held_of(project, f"k{number}")
        assert (held.attempts, held.is_open, held.status) == (0, False, None)
    assert held_of(project, "k3").is_open
    assert project.ledger.open_submissions(project.manifest_id) == [bought]
    assert project.asked("SELECT shard_id FROM attempt") == [(creating.shard_id,)]


def test_a_released_shard_frees_its_requests_and_keeps_their_answers(project: Project) -> None:
    first = project.send(project.commit([to_send(0, "a", line=0)])[0])
    project.answer(first, [(0, succeeded())])
    project.finish(first)
    (again,) = project.commit([to_send(0, "a", line=0)])
    project.ledger.release(discarded(again))
    held = held_of(project, "a")
    assert (held.status, held.attempts, held.is_open) == (Status.SUCCEEDED, 1, False)
    assert project.ledger.submission(again.shard_id).state is ShardState.DISCARDED


def test_a_shard_that_is_on_its_way_can_not_be_released(project: Project) -> None:
    (ready,) = project.commit([to_send(0, "a", line=0)])
    with pytest.raises(ValueError, match="ready"):
        project.ledger.release(ready)
