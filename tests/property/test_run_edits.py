"""Random sequences of edits and runs, against a model: an edit costs what it changed, and nothing else.

A state machine edits a small project with two manifests (rows, template, params, model, schema, limits,
key, server), runs it, detaches, is killed, goes back to earlier states, asks everything once more. After
every completed run:

- the servers executed exactly the requests that the model says were asked, each once in the whole history
  but for refreshes (bodies are compared, encoded by the model itself);
- the results table is what a fresh run in an empty ledger gives, ids and attempts aside;
- the table holds the answers that the ledger holds, also those that the other manifest asked for again;
- a further run sends nothing and writes the same bytes;
- the plan made before told what the run sent, and how its rows compare with those of the run before.

RUNNER_EDIT_EXAMPLES (default 10) is how many histories are played, RUNNER_EDIT_STEPS (default 8) how long
each is. Before a release (half an hour):

    RUNNER_EDIT_EXAMPLES=200 RUNNER_EDIT_STEPS=15 pytest -s tests/property/test_run_edits.py

`-s` shows how often everything happened; so does `--hypothesis-show-statistics`.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, currently_in_test_context, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import runner
from runner.commands import run as run_command
from runner.commands.moments import Silent
from runner.commands.options import ManifestOptions, RunOptions
from runner.core.planning import Plan
from tests.localserver_process import ServerProcess, eventually, running_server
from tests.property.edit_factories import EDITS, MANIFESTS, Edit, Request, Settings, edited
from tests.warm_program import WarmPopen

pytestmark = pytest.mark.usefixtures("lent_duckdb")

EXAMPLES = int(os.environ.get("RUNNER_EDIT_EXAMPLES", "10"))
STEPS = int(os.environ.get("RUNNER_EDIT_STEPS", "8"))
MAX_KILLS = 1 if EXAMPLES <= 20 else 3
RUN_TIMEOUT_S = 90.0
CREATE_WINDOW_S = 31.0
_OF_THIS_ATTEMPT = ("_custom_id", "_batch_id", "_response_id", "_attempts", "_answered_at")

WHICH = st.sampled_from(MANIFESTS)
SEVERAL_EDITS = st.lists(EDITS, min_size=1, max_size=3)
KILL_AT = st.sampled_from(["planned", "uploaded", "batch_created", "answers_stored"])


@dataclass
class World:
    """What outlives one history: the servers, and what fresh runs gave (asking again gives the same)."""

    folder: Path
    servers: tuple[ServerProcess, ...]
    histories: int = 0
    fresh: dict[Settings, list[dict[str, Any]]] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(server.base_url for server in self.servers)

    def executed(self, key: str) -> list[tuple[Request, str]]:
        """Every request executed for this key, with the hash part of its custom_id."""
        owner = sha256(b"owner:" + key.encode()).hexdigest()[:16]  # as the witness writes it
        found = []
        for number, server in enumerate(self.servers):
            with closing(sqlite3.connect(server.state_dir / "server.db", timeout=30)) as connection:
                rows = connection.execute(
                    "SELECT body_sha256, custom_id FROM witness_execution "
                    "JOIN witness_create USING (batch_id) WHERE owner = ?",
                    (owner,),
                )
                found += [(Request(number, body), custom_id[-16:]) for body, custom_id in rows]
        return found

    def fresh_results(self, wanted: Settings) -> list[dict[str, Any]]:
        """What a run in an empty ledger gives."""
        if wanted not in self.fresh:
            folder = self.folder / f"fresh-{len(self.fresh)}"
            (folder / ".runner").mkdir(parents=True, mode=0o700)
            path = wanted.write(folder, "a", self.addresses)
            runner.run(path, environ={"TEST_KEY": "fresh"})
            self.fresh[wanted] = comparable(folder / "a-results.jsonl")
            shutil.rmtree(folder)
        return self.fresh[wanted]


def comparable(path: Path) -> list[dict[str, Any]]:
    """The rows of a results table without what differs between two honest runs."""
    rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    for row in rows:
        row["hash part"] = row["_custom_id"] and row["_custom_id"][-16:]
        for name in _OF_THIS_ATTEMPT:
            row.pop(name)
    return rows


class Edits(RuleBasedStateMachine):
    """One history of one project.

    `asked`: requests that were surely sent, with how often. `perhaps`: those of killed runs, until the
    manifest has run to its end again. `before`: the rows that a manifest's last run may have left (several
    after a kill).
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.histories += 1
        self.key = f"key-{world.histories}"
        self.environ = {"TEST_KEY": self.key}
        self.folder = world.folder / f"project-{world.histories}"
        (self.folder / ".runner").mkdir(parents=True, mode=0o700)
        self.now = dict.fromkeys(MANIFESTS, Settings())
        self.earlier: list[Settings] = []
        self.before: dict[str, list[dict[object, Request | None]]] = {name: [{}] for name in MANIFESTS}
        self.asked: Counter[Request] = Counter()
        self.perhaps: dict[str, set[Request]] = {name: set() for name in MANIFESTS}
        self.kills = 0
        self.detached: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what happens

    @initialize(edits=SEVERAL_EDITS)
    def begin(self, edits: list[Edit]) -> None:
        self._edit("b", edits)

    @rule(which=WHICH, edits=SEVERAL_EDITS)
    def edit_and_run(self, which: str, edits: list[Edit]) -> None:
        self._edit(which, edits)
        self._complete(which)

    @precondition(lambda self: self.detached)
    @rule()
    def run_after_detaching(self) -> None:
        self._complete(min(self.detached))

    @rule(which=WHICH, edits=SEVERAL_EDITS)
    def edit_and_detach(self, which: str, edits: list[Edit]) -> None:
        self._edit(which, edits)
        self._detach(which)

    @precondition(lambda self: self.earlier)
    @rule(which=WHICH, back=st.integers(0, 9))
    def go_back_and_run(self, which: str, back: int) -> None:
        self._happened("gone back to an earlier state")
        self.now[which] = self.earlier[-1 - back % len(self.earlier)]
        self._complete(which)

    @precondition(lambda self: self.kills < MAX_KILLS)
    @rule(which=WHICH, edits=SEVERAL_EDITS, at=KILL_AT, then=st.lists(EDITS, max_size=2), other=st.booleans())
    def kill(self, which: str, edits: list[Edit], at: str, then: list[Edit], other: bool) -> None:
        """Killed at an event; then perhaps edits, perhaps a run of the other manifest; then a whole run.

        The model is new, so that there is something to send. Without a fence an unproven create waits for a
        person's decision, which no model can predict: so it is always the first server.
        """
        self.kills += 1
        self._edit(which, [*edits, Edit("model", f"after {self.kills}"), Edit("server", 0)])
        self._killed(which, at)
        self._edit(which, then)
        if other:
            self._complete("a" if which == "b" else "b")
        self._complete(which)

    @precondition(lambda self: not self.detached and not any(self.perhaps.values()))
    @rule(which=WHICH)
    def refresh_and_run_the_other(self, which: str) -> None:
        """Everything that one manifest wants is asked once more, also what failed for good."""
        self._happened("run: everything once more")
        path, wanted = self._write(which), self.now[which]
        options = RunOptions(
            manifest=ManifestOptions(path=str(path)), environ=self.environ, refresh=True, workers=1
        )
        finished = run_command.run(options, reporter=Silent()).finished
        assert finished is not None
        assert finished.requests_sent == len(wanted.wanted())
        self.asked.update(wanted.wanted())
        self.before[which] = [wanted.keyed()]
        self._settle(which)
        self._complete("a" if which == "b" else "b")

    # ------------------------------------------------------------ how

    def _happened(self, what: str) -> None:
        self.world.happened[what] += 1
        if currently_in_test_context():
            event(what)

    def _edit(self, which: str, edits: list[Edit]) -> None:
        for edit in edits:
            changed = edited(self.now[which], edit)
            if changed != self.now[which]:
                self._happened(f"edit: {edit.kind}")
            self.now[which] = changed

    def _write(self, which: str) -> Path:
        return self.now[which].write(self.folder, which, self.world.addresses)

    def _detach(self, which: str) -> None:
        self._happened("run: detached")
        runner.run(self._write(which), environ=self.environ, detach=True)
        self._asked_once(self.now[which].wanted())
        self.before[which] = [self.now[which].keyed()]
        self.detached.add(which)

    def _killed(self, which: str, at: str) -> None:
        command = [sys.executable, "-m", "runner", "run", str(self._write(which)), "--json"]
        process = WarmPopen(
            command,
            env={**os.environ, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        seen = ""
        in_any_case = threading.Timer(RUN_TIMEOUT_S, process.kill)
        in_any_case.start()
        with process:
            for line in process.stdout:
                seen = json.loads(line)["event"]
                if seen in (at, "finished", "error"):
                    process.kill()
                    break
        in_any_case.cancel()
        self._happened(f"killed at: {seen}")
        assert seen not in ("", "error")
        self.perhaps[which] |= self.now[which].wanted() - self.asked.keys()
        self.before[which].append(self.now[which].keyed())
        self._let_time_pass()

    def _let_time_pass(self) -> None:
        """An intent whose process died is not looked into before its time to be sent is over."""
        ledger = self.folder / ".runner" / "ledger.db"
        with closing(sqlite3.connect(ledger, timeout=30)) as connection, connection:
            connection.execute("UPDATE shard SET send_by_s = send_by_s - ?", (CREATE_WINDOW_S,))

    def _complete(self, which: str) -> None:
        """A run to its end, and everything that must hold then."""
        wanted = self.now[which]
        path = self._write(which)
        self._happened("run: to its end" + (", after a detached one" if which in self.detached else ""))
        if currently_in_test_context():
            note(f"{which}: {wanted}")
        plan = runner.plan(path, environ=self.environ)
        finished = runner.run(path, environ=self.environ)
        assert finished is not None
        self._check_plan(which, plan)
        assert finished.requests_sent == plan.requests_to_send
        if not any(self.perhaps.values()):
            assert plan.requests_to_send == len(wanted.wanted() - self.asked.keys())
        self._happened("run: sent nothing" if plan.requests_to_send == 0 else "run: sent something")
        self._asked_once(wanted.wanted())
        self._settle(which)
        self.before[which] = [wanted.keyed()]
        self.detached.discard(which)
        self.earlier.append(wanted)
        results = self.folder / f"{which}-results.jsonl"
        assert comparable(results) == self.world.fresh_results(wanted)
        self._check_answers(path, results)
        self._check_repeat(path, results)

    def _settle(self, which: str) -> None:
        """The servers executed what was asked, each request once; of killed runs, what they had sent."""

        def is_complete() -> bool:
            return self.asked <= Counter(request for request, _ in self.world.executed(self.key))

        eventually(is_complete, what="the execution of all that was asked")
        executed = self.world.executed(self.key)
        requests = Counter(request for request, _ in executed)
        assert len({hash_part for _, hash_part in executed}) == len(requests)
        surprising = requests - self.asked
        assert surprising.keys() <= set().union(*self.perhaps.values())
        assert set(surprising.values()) <= {1}
        self.asked += surprising
        self.perhaps[which] = set()
        for name in MANIFESTS:
            self.perhaps[name] -= self.asked.keys()

    def _asked_once(self, requests: frozenset[Request]) -> None:
        for request in requests - self.asked.keys():
            self.asked[request] = 1

    def _check_answers(self, path: Path, results: Path) -> None:
        """What the table holds is what the ledger holds, whoever asked for it last."""
        with closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as connection:
            held = connection.execute(
                "SELECT response_id FROM results WHERE manifest = ? ORDER BY position", (path.stem,)
            ).fetchall()
        rows = [json.loads(line) for line in results.read_bytes().split(b"\n") if line]
        assert [row["_response_id"] for row in rows] == [response_id for (response_id,) in held]

    def _check_plan(self, which: str, plan: Plan) -> None:
        wanted = self.now[which]
        assert (plan.rows, plan.unsendable) == (
            len(wanted.rows),
            sum(wanted.request(row) is None for row in wanted.rows),
        )
        assert plan.duplicates == len(wanted.rows) - plan.unsendable - len(wanted.wanted())
        assert any(self._fits(plan, before, wanted.keyed()) for before in self.before[which])

    def _fits(
        self, plan: Plan, before: dict[object, Request | None], now: dict[object, Request | None]
    ) -> bool:
        """Rows that only a killed run wanted are new where it did not get so far as to ask them."""
        new, changed, removed, unchanged = compared(before, now)
        perhaps = set().union(*self.perhaps.values())
        unsure = sum(before.get(key) == request and request in perhaps for key, request in now.items())
        unasked = plan.new - new
        return (plan.changed, plan.removed, plan.unchanged + unasked) == (
            changed,
            removed,
            unchanged,
        ) and 0 <= unasked <= unsure

    def _check_repeat(self, path: Path, results: Path) -> None:
        """Also where the table must be written again, because somebody removed it."""
        data = results.read_bytes()
        if len(self.earlier) % 2:
            self._happened("table removed and written again")
            results.unlink()
        executed = len(self.world.executed(self.key))
        again = runner.run(path, environ=self.environ)
        assert again is not None
        assert again.requests_sent == 0
        assert results.read_bytes() == data
        if not self.detached:
            assert len(self.world.executed(self.key)) == executed


def compared(
    before: dict[object, Request | None], now: dict[object, Request | None]
) -> tuple[int, int, int, int]:
    """New, changed, removed, unchanged."""
    both = before.keys() & now.keys()
    unchanged = sum(before[key] == now[key] for key in both)
    return len(now.keys() - both), len(both) - unchanged, len(before.keys() - both), unchanged


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        servers = [stack.enter_context(running_server(tmp_path / f"server-{n}")) for n in range(2)]
        yield World(tmp_path, tuple(servers))


@pytest.mark.timeout(max(600, 3 * EXAMPLES * STEPS))
def test_an_edit_costs_what_it_changed_and_nothing_else(world: World) -> None:
    try:
        run_state_machine_as_test(
            lambda: Edits(world),  # type: ignore[arg-type]  # it asks for a factory, as documented
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        for what, times in sorted(world.happened.items()):
            print(f"{times:6} {what}")  # noqa: T201
    assert world.happened["run: sent something"], "the rules of `Edits` assert; they were played"


def test_batches_at_a_server_no_longer_named_wait_until_it_is_named_again(world: World) -> None:
    history = Edits(world)
    history.edit_and_detach("a", [])
    history.edit_and_run("a", [Edit("server", 1)])
    history.edit_and_run("a", [Edit("server", 0)])
    assert len(history.asked) == 6


def test_rows_that_only_wait_for_another_manifest_are_waited_for(world: World) -> None:
    history = Edits(world)
    history.edit_and_detach("a", [Edit("max_requests_per_file", 2)])
    history.edit_and_run("b", [Edit("remove")])
    assert len(history.asked) == 3


def test_a_refresh_of_one_manifest_is_in_the_table_of_the_other(world: World) -> None:
    history = Edits(world)
    history.edit_and_run("a", [Edit("change text", "x [[local:fail 400]]")])
    history.edit_and_run("b", [])
    history.refresh_and_run_the_other("a")
    assert sum(history.asked.values()) == 7


@pytest.mark.parametrize("at", ["planned", "uploaded", "batch_created", "answers_stored"])
def test_a_plan_after_a_kill_counts_what_was_never_sent(world: World, at: str) -> None:
    history = Edits(world)
    history.kill("a", [Edit("max_requests_per_file", 2)], at, [], other=False)
    assert len(history.asked) == 3
