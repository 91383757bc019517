"""Single steps of the submission protocol, where no whole run would show that one of them is missing."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.commands import calls
from runner.commands.cutting import Cutter
from runner.commands.engine import Engine
from runner.commands.interrupts import StopFlag
from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, Pace
from runner.commands.tracks import Surroundings
from runner.commands.workplace import open_workplace
from runner.core import states
from runner.core.model import Provider
from runner.core.states import ShardState, Submission
from runner.errors import StillRunningError
from runner.ledger import CREATE_INTENDED, hold
from runner.provider import ApiKey, Client
from runner.provider.profiles import DOUBLEWORD
from tests.contract.ledger_factories import Project, to_send
from tests.fault.run_hostile_server import HostileServer, Reply

NO_SUCH_FILE: Reply = (404, b'{"error":{"message":"File not found"}}')
NOT_DELETED: Reply = (200, b'{"id":"f","object":"file","deleted":false}')
DELETED: Reply = (200, b'{"id":"f","object":"file","deleted":true}')
SEEN: Reply = (200, b'{"id":"f","object":"file","filename":"x","bytes":1,"created_at":1}')


class FencingServer(HostileServer):
    """Knows input files too. `deletes` are the replies to deletes in turn; the last one stays."""

    def __init__(self, *, deletes: Sequence[Reply] = (DELETED,), file: Reply = SEEN, **rest: Any) -> None:
        super().__init__(**rest)
        self.deletes = list(deletes)
        self.file = file
        self.canaries = 0
        self.scratch: Path | None = None
        self.canary_modes: set[int] = set()

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        if b"-canary.jsonl" in body:
            self.canaries += 1
            found = self.scratch.glob("*-canary.jsonl") if self.scratch is not None else ()
            self.canary_modes |= {stat.S_IMODE(path.stat().st_mode) for path in found}
        if target.startswith("/v1/files/") and not target.endswith("/content"):
            self.seen.append(f"{method} {target}")
            if method == "DELETE":
                return self.deletes.pop(0) if len(self.deletes) > 1 else self.deletes[0]
            return self.file
        return super().answer(method, target, body)

    @property
    def shards_taken(self) -> int:
        """Uploads without the canaries."""
        return self.uploads - self.canaries

    def count(self, request: str) -> int:
        return sum(seen.startswith(request) for seen in self.seen)


def provider_of(server: HostileServer) -> Provider:
    return replace(DOUBLEWORD, base_url=server.base_url, settle_s=0.3, poll_interval_s=0.05)


@contextmanager
def one_shard(folder: Path) -> Iterator[tuple[Project, Submission]]:
    """A ledger with one planned shard, its file written."""
    project = Project.open(folder)
    (submission,) = project.commit([to_send(0, "a", line=0)])
    path = project.ledger.place.folder / submission.path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'{"custom_id":"a","body":{"messages":[{"content":"hi"}]}}\n')
    try:
        yield project, submission
    finally:
        project.ledger.close()


@contextmanager
def engine_of(
    project: Project, server: HostileServer, clock: Callable[[], float] = time.time
) -> Iterator[Engine]:
    with Client(provider_of(server), api_key=ApiKey("key")) as client:
        at = Surroundings(
            provider=provider_of(server),
            place=project.ledger.place,
            ledger=project.ledger,
            client=client,
            reporter=Silent(),
            run_id=project.run_ids[-1],
            clock=clock,
            wall=time.time,
        )
        yield Engine(at, StopFlag(), cutter_of(project, server))


def cutter_of(project: Project, server: HostileServer) -> Cutter:
    """Cuts nothing here: no shard is too large."""
    elsewhere = server.project(project.ledger.place.folder.parent / "manifest")
    return Cutter(
        workplace=open_workplace(ManifestOptions(path=str(elsewhere.manifest_path)), {}),
        ledger=project.ledger,
        run_id=project.run_ids[-1],
        manifest_id=project.manifest_id,
        reporter=Silent(),
    )


def uploaded(submission: Submission) -> Submission:
    return states.upload_accepted(states.upload_intended(submission), "file-a")


def saved(project: Project, *steps: Submission) -> Submission:
    for step in steps:
        project.ledger.save(step, what=step.state)
    return steps[-1]


def test_an_intent_that_grew_old_is_not_sent(tmp_path: Path) -> None:
    """The machine slept between the intent and the call."""
    jumps = [3600.0]

    def clock() -> float:
        sends = threading.current_thread().name.endswith("-create")
        return time.time() + (jumps.pop() if sends and jumps else 0.0)

    with FencingServer() as server, one_shard(tmp_path) as (project, submission):
        with engine_of(project, server, clock) as engine:
            (moved,) = engine.drive([submission], pace=Pace.SUBMITTED, left_s=30)
        assert not jumps
        assert (moved.state, moved.attempt) == (ShardState.SUBMITTED, 2)
        assert server.count("POST /v1/batches") == 1
        assert server.uploads == 2


def test_a_fence_that_the_server_did_not_confirm_is_drawn_again(tmp_path: Path) -> None:
    deletes = [NO_SUCH_FILE, NOT_DELETED, NO_SUCH_FILE, DELETED]
    with FencingServer(deletes=deletes) as server, one_shard(tmp_path) as (project, submission):
        up = uploaded(submission)
        unknown = states.create_intended(up, time.time() - 60)
        fencing = replace(unknown, state=ShardState.FENCING)
        saved(project, states.upload_intended(submission), up, unknown, fencing)
        server.scratch = project.ledger.place.folder / "scratch"
        with engine_of(project, server) as engine:
            (moved,) = engine.drive([fencing], pace=Pace.SUBMITTED, left_s=30)
        assert (moved.state, moved.attempt) == (ShardState.SUBMITTED, 2)
        assert server.canaries == states.CLEAN_SCANS_NEEDED
        assert server.canary_modes == {0o600}, "a line of the dataset is nobody else's to read"
        assert not list(server.scratch.glob("*-canary.jsonl"))
        assert server.count("DELETE /v1/files/file-a") == 4


@pytest.mark.parametrize(
    ("fenced", "key", "deletes", "then"),
    [
        (ShardState.FENCING, "key", [NO_SUCH_FILE], ShardState.SUBMITTED),
        (ShardState.FENCED, "key", [], ShardState.SUBMITTED),
        (ShardState.FENCING, "another", [NO_SUCH_FILE, DELETED], ShardState.HELD),
        (ShardState.FENCED, "another", [], ShardState.HELD),
        (ShardState.FENCING, None, [NO_SUCH_FILE, DELETED], ShardState.SUBMITTED),
        (ShardState.FENCING, None, [NO_SUCH_FILE], ShardState.HELD),
        (ShardState.FENCED, None, [], ShardState.HELD),
    ],
)
def test_what_another_key_does_not_see_is_no_fence(
    tmp_path: Path, fenced: ShardState, key: str | None, deletes: list[Reply], then: ShardState
) -> None:
    """An earlier run was to draw the fence; None: the ledger does not say with which key (it was rebuilt from
    an old journal)."""
    with (
        FencingServer(deletes=deletes or [DELETED]) as server,
        one_shard(tmp_path) as (
            project,
            submission,
        ),
    ):
        up = uploaded(submission)
        intended = states.create_intended(up, time.time() - 60)
        saved(project, states.upload_intended(submission), up)
        digest = "" if key is None else ApiKey(key).digest(submission.run.encode())
        project.ledger.save(intended, what=CREATE_INTENDED, detail=digest)
        saved(project, replace(intended, state=fenced, is_fenced=fenced is ShardState.FENCED))
        with engine_of(project, server) as engine:
            (moved,) = engine.drive([intended], pace=Pace.SUBMITTED, left_s=30)
        assert moved.state is then
        assert server.shards_taken == (then is ShardState.SUBMITTED)


def test_a_shard_that_another_process_moves_is_left_to_it(tmp_path: Path) -> None:
    with FencingServer() as server, one_shard(tmp_path) as (project, submission):
        with hold(project.ledger.place.shard_lock(submission.shard_id)):
            with engine_of(project, server) as engine, pytest.raises(StillRunningError):
                engine.drive([submission], pace=Pace.SUBMITTED, left_s=0.5)
            assert server.count("POST") == 0
        with engine_of(project, server) as engine:
            (moved,) = engine.drive([submission], pace=Pace.SUBMITTED, left_s=30)
        assert moved.state is ShardState.SUBMITTED


# ---------------------------------------------------------------- what a scan proves


def scan(server: HostileServer, submission: Submission) -> bool:
    """Whether the listings were read to the end; nothing of ours is in them."""
    with Client(provider_of(server), api_key=ApiKey("key")) as client:
        found, is_complete = calls.scan(client, submission, provider_of(server))
    assert found == ()
    return is_complete


def unknown_create(submission: Submission) -> Submission:
    return states.create_intended(uploaded(submission), time.time() - 60)


def test_a_listing_that_lacks_our_own_upload_is_no_proof(tmp_path: Path) -> None:
    """Another account's key, or a replica far behind, sees no batch of ours either."""
    with FencingServer() as server, one_shard(tmp_path) as (_, submission):
        assert scan(server, unknown_create(submission))
        server.file = NO_SUCH_FILE
        assert not scan(server, unknown_create(submission))


@pytest.mark.parametrize("broken", ["search=", ""])
def test_both_walks_must_be_complete(broken: str, tmp_path: Path) -> None:
    def listed(_: list[dict[str, Any]], query: str) -> Any:
        is_search = "search=" in query
        return {"data": [], "has_more": is_search == bool(broken)}

    with FencingServer(listed=listed) as server, one_shard(tmp_path) as (_, submission):
        assert not scan(server, unknown_create(submission))
