"""What one look can't prove is waited out over the looks of many processes: none is shorter, each ends.

The engine against real HTTP; each process has one of its own, and a clock of which a second lasts a fraction
of one, set ahead between two processes in place of waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from runner.commands.cutting import Cutter
from runner.commands.engine import Engine
from runner.commands.interrupts import StopFlag
from runner.commands.moments import Silent
from runner.commands.options import Pace
from runner.commands.tracks import Surroundings
from runner.core import states
from runner.core.model import Provider
from runner.core.states import ShardState, Submission
from runner.errors import StillRunningError
from runner.ledger import CREATE_INTENDED, EXTRA_BATCH
from runner.provider import ApiKey, Client
from runner.provider.profiles import DOUBLEWORD, GENERIC
from tests.contract.ledger_factories import START_S, Project, to_send
from tests.fault.run_hostile_server import Batch, HostileServer, Look, answer, lines, well
from tests.fault.test_run_protocol import NO_SUCH_FILE, NOT_DELETED, FencingServer, cutter_of

KEY = ApiKey("key")
SPEED = 20
PATIENCE_S, REREAD_S, GRACE_S = 90.0, 15.0, 3600.0
DAY_S = 86_400.0
NO_SUCH_BATCH = Look(reply=(404, b'{"error":{"message":"no such batch"}}'))


@dataclass
class Processes:
    """One after the other over one ledger."""

    project: Project
    server: HostileServer
    profile: Provider
    shard_id: int
    gone_by_s: float = 0.0
    set_by_s: float = 0.0

    @property
    def shard(self) -> Submission:
        return self.project.ledger.submission(self.shard_id)

    def step(self, after_s: float) -> ShardState:
        """A schedule's look, so many seconds after the process before."""
        return self.go(after_s, Pace.STEP, None)

    def wait(self, after_s: float, for_s: float) -> ShardState:
        """`--wait` for so many seconds."""
        try:
            return self.go(after_s, Pace.DONE, for_s / SPEED)
        except StillRunningError:
            return self.shard.state

    def until(self, wanted: Callable[[ShardState], bool], one: Callable[[], ShardState]) -> float:
        """One process after the other; gives how long that took, from the begin of the first one."""
        begun_s = self.gone_by_s
        for _ in range(40):
            if wanted(one()):
                return self.gone_by_s - begun_s
        raise AssertionError((self.shard, self.project.asked("SELECT at, what, detail FROM event")))

    def go(self, after_s: float, pace: Pace, left_s: float | None) -> ShardState:
        self.gone_by_s += after_s
        begun_s, real_s = START_S + self.gone_by_s + self.set_by_s, time.monotonic()

        def clock() -> float:
            return begun_s + (time.monotonic() - real_s) * SPEED

        self.project.ledger._clock = clock
        with Client(self.profile, api_key=KEY) as client:
            at = Surroundings(
                provider=self.profile,
                place=self.project.ledger.place,
                ledger=self.project.ledger,
                client=client,
                reporter=Silent(),
                run_id=self.project.run_ids[-1],
                clock=clock,
                wall=clock,
            )
            try:
                engine = Engine(at, StopFlag(), self._cutter)
                (moved, *_) = engine.drive([self.shard], pace=pace, left_s=left_s)
            finally:
                self.gone_by_s += clock() - begun_s
        return moved.state

    @property
    def _cutter(self) -> Cutter:
        return cutter_of(self.project, self.server)


@contextmanager
def processes(
    folder: Path, server: HostileServer, *, profile: Provider = DOUBLEWORD, **changes: Any
) -> Iterator[Processes]:
    """A ledger with one shard of two requests that is planned, its file written."""
    project = Project.open(folder)
    (shard,) = project.commit([to_send(0, "a", line=0), to_send(1, "b", line=1)])
    path = project.ledger.place.folder / shard.path
    path.parent.mkdir(exist_ok=True)
    names = list(project.ledger.expected(shard.shard_id))
    body = {"messages": [{"content": "hi"}]}
    path.write_bytes(lines(*({"custom_id": name, "body": body} for name in names)))
    usual = {"base_url": server.base_url, "settle_s": PATIENCE_S, "poll_interval_s": 60.0}
    try:
        yield Processes(project, server, replace(profile, **{**usual, **changes}), shard.shard_id)
    finally:
        project.ledger.close()


def bought(found: Processes) -> None:
    """Its batch is made, by a process that only submits."""
    assert found.go(0.0, Pace.SUBMITTED, None) is ShardState.SUBMITTED


def is_held(state: ShardState) -> bool:
    return state is ShardState.HELD


def is_done(state: ShardState) -> bool:
    return state is ShardState.DONE


# ---------------------------------------------------------------- a batch that nobody knows any more


def test_a_batch_that_every_step_misses_is_held_and_no_sooner_than_one_process_would(tmp_path: Path) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.until(is_held, lambda: found.step(10)) > PATIENCE_S
        assert "no longer knows" in (found.shard.problem or "")


@pytest.mark.parametrize("set_by_s", [-DAY_S, DAY_S])
def test_a_clock_that_is_set_between_two_steps_makes_the_wait_no_shorter(
    tmp_path: Path, set_by_s: float
) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.step(10) is ShardState.SUBMITTED
        found.set_by_s = set_by_s
        assert found.until(is_held, lambda: found.step(10)) > PATIENCE_S - 10


def test_a_batch_that_is_seen_in_between_was_never_gone(tmp_path: Path) -> None:
    """One look in two misses it, for days."""

    def script(_: Batch, look: int) -> Look:
        return Look(fields={"status": "in_progress"}) if look % 2 else NO_SUCH_BATCH

    with HostileServer(script) as server, processes(tmp_path, server) as found:
        bought(found)
        for _ in range(10):
            assert found.step(DAY_S) is ShardState.SUBMITTED
        server.script = lambda batch, look: NO_SUCH_BATCH
        assert found.step(DAY_S) is ShardState.SUBMITTED
        assert found.step(DAY_S) is ShardState.SUBMITTED, "two looks are no series, however far apart"
        found.until(is_held, lambda: found.step(10))


def test_a_wait_that_is_cut_short_each_time_comes_to_its_end(tmp_path: Path) -> None:
    with HostileServer(lambda *_: NO_SUCH_BATCH) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.until(is_held, lambda: found.wait(5, for_s=10)) > PATIENCE_S


# ---------------------------------------------------------------- a fence without a reply


def fencing(found: Processes) -> None:
    """An earlier process looked for the batch in vain, and was killed once it had asked for the fence."""
    up = states.upload_accepted(states.upload_intended(found.shard), "file-a")
    intended = states.create_intended(up, START_S - 60)
    ledger = found.project.ledger
    for step in (states.upload_intended(found.shard), up):
        ledger.save(step, what=step.state)
    ledger.save(intended, what=CREATE_INTENDED, detail=KEY.digest(found.shard.run.encode()))
    ledger.save(replace(intended, state=ShardState.FENCING), what=ShardState.FENCING)


def test_a_fence_whose_reply_was_lost_is_believed_after_many_steps(tmp_path: Path) -> None:
    with FencingServer(deletes=[NO_SUCH_FILE]) as server, processes(tmp_path, server) as found:
        fencing(found)
        took_s = found.until(lambda state: state is not ShardState.FENCING, lambda: found.step(10))
        assert took_s > PATIENCE_S
        found.until(is_done, lambda: found.step(10))
        assert server.count("POST /v1/batches") == 1


def test_a_fence_that_is_never_drawn_is_held_after_many_steps(tmp_path: Path) -> None:
    with FencingServer(deletes=[NOT_DELETED]) as server, processes(tmp_path, server) as found:
        fencing(found)
        assert found.until(is_held, lambda: found.step(10)) > PATIENCE_S
        assert server.count("POST /v1/batches") == 0


# ---------------------------------------------------------------- lines that lack


def stuck(*_: Any) -> Look:
    """A batch that was stopped before it had a line, long ago: the server never finishes it."""
    counts = {"total": 2, "completed": 0, "failed": 0}
    return Look(fields={"status": "cancelling", "cancelling_at": 1_000_000_000, "request_counts": counts})


def test_a_batch_that_never_finishes_is_read_by_as_many_steps_as_one_process_would_read_it(
    tmp_path: Path,
) -> None:
    with HostileServer(stuck) as server, processes(tmp_path, server, cancel_grace_s=0.0) as found:
        bought(found)
        assert found.until(is_done, lambda: found.step(REREAD_S)) >= 3 * REREAD_S
        assert server.batches[0].looks >= 4


def test_steps_that_follow_at_once_are_one_reading(tmp_path: Path) -> None:
    with HostileServer(stuck) as server, processes(tmp_path, server, cancel_grace_s=0.0) as found:
        bought(found)
        for _ in range(10):
            assert found.step(0.1) is ShardState.SUBMITTED
        assert found.until(is_done, lambda: found.step(REREAD_S)) >= 3 * REREAD_S


def test_a_batch_whose_error_file_is_gone_is_read_to_its_end_by_steps(tmp_path: Path) -> None:
    def script(batch: Batch, _: int) -> Look:
        counts = {"total": 2, "completed": 1, "failed": 1}
        fields = {"error_file_id": "gone", "request_counts": counts}
        return Look(output=lines(answer(batch.requests[0])), fields=fields)

    with HostileServer(script) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.until(is_done, lambda: found.step(REREAD_S)) >= 3 * REREAD_S


def test_a_step_leaves_a_batch_that_has_counted_all_and_never_says_so(tmp_path: Path) -> None:
    def script(batch: Batch, _: int) -> Look:
        return Look(output=lines(answer(batch.requests[0])), fields={"status": "finalizing"})

    with HostileServer(script) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.go(10, Pace.STEP, 2.0) is ShardState.SUBMITTED
        server.script = well
        assert found.step(10) is ShardState.DONE


def test_what_a_cut_wait_has_read_counts_for_the_next_one(tmp_path: Path) -> None:
    def script(batch: Batch, _: int) -> Look:
        return Look(output=lines(answer(batch.requests[0])), fields={"status": "expired"})

    with HostileServer(script) as server, processes(tmp_path, server) as found:
        bought(found)
        assert found.until(is_done, lambda: found.wait(REREAD_S, for_s=5)) > REREAD_S


def test_the_grace_after_a_cancel_is_waited_out_by_cut_waits(tmp_path: Path) -> None:
    """The server does not say when it was cancelled: it counts from when that is first seen."""

    def script(batch: Batch, _: int) -> Look:
        return Look(output=lines(answer(batch.requests[0])), fields={"status": "cancelled"})

    with HostileServer(script) as server, processes(tmp_path, server, profile=GENERIC) as found:
        bought(found)
        assert found.until(is_done, lambda: found.wait(600, for_s=5)) > GRACE_S


def test_a_batch_that_runs_again_has_no_grace_behind_it(tmp_path: Path) -> None:
    def cancelled(batch: Batch, _: int) -> Look:
        return Look(output=lines(answer(batch.requests[0])), fields={"status": "cancelled"})

    with HostileServer(cancelled) as server, processes(tmp_path, server, profile=GENERIC) as found:
        bought(found)
        for _ in range(4):
            found.wait(GRACE_S / 4, for_s=5)
        server.script = lambda *_: Look(fields={"status": "in_progress", "request_counts": {"total": 2}})
        found.wait(600, for_s=5)
        server.script = cancelled
        assert found.until(is_done, lambda: found.wait(600, for_s=5)) >= GRACE_S


# ---------------------------------------------------------------- second batches


def test_a_second_batch_that_nobody_knows_holds_cut_waits_up_for_a_while_only(tmp_path: Path) -> None:
    with HostileServer() as server, processes(tmp_path, server) as found:
        bought(found)
        found.project.ledger.note_extras(found.shard, EXTRA_BATCH, ["gone"], run_id=1)
        assert found.until(is_done, lambda: found.wait(10, for_s=5)) > PATIENCE_S
