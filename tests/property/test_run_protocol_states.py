"""Random histories of the submission protocol: whatever happens to it, everything is paid once.

One small project with two manifests that share requests, two or three shards each, one long-lived server.
What may happen, in any order: plan, submit, tick, crash, resume, edit, rotate the key, run out of credit,
a second process, cancel, a retry at the server by somebody else, a jump of the clock; and with them a
decision of a person, and troubles of the server that no protocol may pay for. Runs are played in this
process; those that crash, or run beside another, are processes of their own.

Each invariant of the protocol is judged here or where it says:

    after every step    I1 I3 I4 I6 I7 I16 I21 I22 I23 I26 (`judge_step`)
    after a whole run   I17 I18 I19 I24 (`judge_table`)
    at the end          I2 I11 I12 I30 I31 (`judge_end`), I13 (`Protocol.end`)
    in one rule         I8 (`run_out_of_credit`), I10 (`plan`), I28 (`crash`)
    by their effect     I5, I14, I15, I20, I25: a violation would pay twice, lose an answer or end a run

Held elsewhere: I5 fault/test_run_protocol.py; I7's budget security/test_spending.py; I9's server
test_run_edits.py; I14, I15 fault/test_server_trouble.py; I20, I25 test_results_join.py and
fault/test_run_lacking_lines.py; I27 fault/test_run_stopped.py; I29 fault/test_provider_memory.py; I32
fault/test_provider_tls.py; I33 test_manifest_fuzz.py. I34 is no matter here: polls are hurried.

RUNNER_STATES_EXAMPLES is how many histories are played, RUNNER_STATES_STEPS how long each is:

    RUNNER_STATES_EXAMPLES=200 RUNNER_STATES_STEPS=50 pytest -s tests/property/test_run_protocol_states.py
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, currently_in_test_context, event, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import runner
from runner.commands import cancel as cancel_command
from runner.commands import resolve as resolve_command
from runner.commands.moments import Finished, Silent
from runner.commands.options import ManifestOptions
from runner.errors import DecisionNeededError, ProviderRefusedError, RunnerError, StillRunningError
from tests.localserver_process import ServerProcess, eventually, running_server
from tests.property.edit_factories import MANIFESTS, Edit, edited
from tests.property.states_factories import (
    CREATE,
    FRESH,
    KEY_VARIABLE,
    KILLED,
    MOST_ROWS,
    NO_CREDIT,
    NO_CREDIT_FOR_ROWS,
    POINT,
    SLOW,
    SOME_EDITS,
    TROUBLES,
    WHICH,
    Books,
    Evidence,
    Trouble,
    clock_set,
    first_settings,
    left_well,
    owner_of,
    short_waits,
    started,
    write_project,
)
from tests.property.states_judge import HELD_SHARDS, OPEN_SHARDS, Past, judge_end, judge_step, judge_table

pytestmark = pytest.mark.usefixtures("lent_duckdb")

EXAMPLES = int(os.environ.get("RUNNER_STATES_EXAMPLES", "8"))
STEPS = int(os.environ.get("RUNNER_STATES_STEPS", "12"))
LONG_WAIT_S = 30.0
MOST_ROUNDS = 8
DAY_S = 86_400.0


@dataclass
class World:
    """What outlives one history: the server, and counts of what happened."""

    folder: Path
    server: ServerProcess
    histories: int = 0
    happened: Counter[str] = field(default_factory=Counter)


class Protocol(RuleBasedStateMachine):
    """One history of one project. `keys`: the first is the one whose batches are collected at the end."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.histories += 1
        self.keys = tuple(f"canary-{letter}-{world.histories}-of-{os.getpid()}" for letter in "ab")
        self.key = self.keys[0]
        self.folder = world.folder / f"project-{world.histories}"
        (self.folder / ".runner").mkdir(parents=True, mode=0o700)
        self.now = dict.fromkeys(MANIFESTS, first_settings(0))
        self.books = Books(world.server, self.keys)
        self.evidence = Evidence(self.folder)
        self.past = Past()
        self.offset_s = 0.0
        self.has_credit = True
        self.had_rows_without_credit = False
        self.were_keys_rotated = False
        self.armed: list[Trouble] = []

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            self.world.server.call("DELETE", "//faults")
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what happens

    @initialize(has_fence=st.booleans(), edits=SOME_EDITS)
    def begin(self, has_fence: bool, edits: list[Edit]) -> None:
        self.now = dict.fromkeys(MANIFESTS, first_settings(0 if has_fence else 1))
        self._edit("b", edits)

    @rule(which=WHICH, edits=SOME_EDITS)
    def plan(self, which: str, edits: list[Edit]) -> None:
        """I10: no POST, and no file is left."""
        path = self._edit(which, edits)
        before = self.evidence.files(), len(self.books.posts())
        with clock_set(self.offset_s):
            runner.plan(path, environ=self._environ)
        assert (self.evidence.files(), len(self.books.posts())) == before, "I10"
        self._happened("plan")

    @rule(which=WHICH, edits=FRESH)
    def submit(self, which: str, edits: list[Edit]) -> None:
        self._run(self._edit(which, edits), "submit", detach=True)

    @rule(which=WHICH, edits=SOME_EDITS, wait_s=st.sampled_from([0.0, 0.1, 0.3]))
    def tick(self, which: str, edits: list[Edit], wait_s: float) -> None:
        self._run(self._edit(which, edits), "tick", wait_s=wait_s)

    @rule(which=WHICH)
    def resume(self, which: str) -> None:
        self._run(self._edit(which, []), "resume")

    @rule(which=WHICH, edits=FRESH)
    def edit(self, which: str, edits: list[Edit]) -> None:
        self._run(self._edit(which, edits), "edit")

    @rule(which=WHICH, edits=FRESH, point=POINT)
    def crash(self, which: str, edits: list[Edit], point: str) -> None:
        """I28: the locks of a killed process are free at once."""
        self._edit(which, edits)
        with started(self.folder, which, self._environ, point) as process:
            left_well(self.folder, process)
        name = point.partition(":")[0].partition(".")[0]
        self._happened(f"crash: {name}" if process.returncode == KILLED else "crash: ended before")
        for lock in (self.folder / ".runner" / "locks").glob("*.lock"):
            with lock.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @rule(which=WHICH, beside=WHICH, edits=FRESH, others=FRESH, point=st.one_of(st.just(""), POINT))
    def second_process(
        self, which: str, beside: str, edits: list[Edit], others: list[Edit], point: str
    ) -> None:
        """Two at once: of one manifest, or of two that share requests; the other one may be killed."""
        path = self._edit(which, edits)
        if beside != which:
            self._edit(beside, others)
        with started(self.folder, beside, self._environ, point) as process:
            self._run(path, "second process")
            left_well(self.folder, process)

    @rule(which=WHICH, edits=SOME_EDITS)
    def rotate_key(self, which: str, edits: list[Edit]) -> None:
        """What the other key bought is not to be seen; it waits until that key is back."""
        self._submit_some(which, edits)
        self.key = self.keys[1 - self.keys.index(self.key)]
        self.were_keys_rotated = True
        self._run(self._edit(which, []), "rotate key")

    @rule(which=WHICH, edits=FRESH, of_rows=st.booleans(), pays=st.booleans())
    def run_out_of_credit(self, which: str, edits: list[Edit], of_rows: bool, pays: bool) -> None:
        """I8: a refusal for lack of credit leaves no create in the open."""
        path = self._edit(which, edits)
        self.has_credit = False
        self.had_rows_without_credit |= of_rows
        self.past.failing_rows += of_rows
        self.world.server.arm(**(NO_CREDIT_FOR_ROWS if of_rows else NO_CREDIT).fault)
        open_before = set(self.evidence.ledger(OPEN_SHARDS))
        is_refused = self._run(path, "run out of credit") is ProviderRefusedError
        if is_refused and not self.armed and not of_rows:
            for shard in set(self.evidence.ledger(OPEN_SHARDS)) - open_before:
                assert shard[1] not in ("creating", "unknown"), "I8: a refusal left a create in the open"
        if pays:
            self.get_well()

    @precondition(lambda self: self.armed or not self.has_credit)
    @rule()
    def get_well(self) -> None:
        """Credit is added, and the server's troubles are over."""
        self.world.server.call("DELETE", "//faults")
        self.armed, self.has_credit = [], True
        self._happened("get well")

    @precondition(lambda self: len(self.armed) < 2)
    @rule(which=WHICH, edits=SOME_EDITS, trouble=st.sampled_from(TROUBLES))
    def get_into_trouble(self, which: str, edits: list[Edit], trouble: Trouble) -> None:
        self.world.server.arm(**trouble.fault)
        self.armed.append(trouble)
        self.past.failing_rows += trouble.kind == "row-retriable-status"
        self._submit_some(which, edits)
        self._happened(f"trouble: {trouble.kind}")

    @rule(which=WHICH, edits=SOME_EDITS)
    def cancel(self, which: str, edits: list[Edit]) -> None:
        self._submit_some(which, edits)
        self.past.cancels += 1
        result = cancel_command.cancel(self._options(which), environ=self._environ, reporter=Silent())
        self._happened(f"cancel: {'some' if result.cancelled else 'none'}")

    @rule(which=WHICH, edits=SOME_EDITS, back=st.integers(0, 3), verb=st.sampled_from(["cancel", "retry"]))
    def somebody_else(self, which: str, edits: list[Edit], back: int, verb: str) -> None:
        """At the server, with the key that the batch was bought with."""
        self._submit_some(which, edits)
        created = self.books.created()
        if not created:
            return
        batch = created[-1 - back % len(created)]
        key = next(key for key in self.keys if owner_of(key) == batch.owner)
        self.past.cancels += verb == "cancel"
        status, _, _ = self.world.server.call("POST", f"/batches/{batch.batch_id}/{verb}", key=key)
        self._happened(f"somebody else: {verb} {status // 100}xx")

    @rule(which=WHICH, edits=SOME_EDITS, offset_s=st.sampled_from([-DAY_S, -3600.0, 0.0, 3600.0, DAY_S]))
    def set_clock(self, which: str, edits: list[Edit], offset_s: float) -> None:
        self._submit_some(which, edits)
        self.offset_s = offset_s
        self.past.was_clock_set = True
        self._run(self._edit(which, []), "clock jump", wait_s=0.3)

    @precondition(lambda self: not self.armed and self.evidence.ledger(HELD_SHARDS))
    @rule(which=WHICH)
    def decide(self, which: str) -> None:
        """A person who looked at the server's own page: adopts what is there, sends again what is not."""
        self.books.wait_until_quiet()
        created = {(one.run, one.slot, one.attempt): one for one in self.books.created()}
        for held in resolve_command.held_shards(self._options(which), environ=self._environ):
            if self.books.owner_of_file(held.input_file_id) != owner_of(self.key):
                continue
            found = created.get((held.run, held.slot, held.attempt))
            if found is None:
                decided = resolve_command.resubmit(
                    self._options(which), shard=held.shard, environ=self._environ
                )
            else:
                decided = resolve_command.adopt(
                    self._options(which), found.batch_id, shard=held.shard, environ=self._environ
                )
            self._happened(f"decide: {decided.decided.partition(' ')[0]}")

    @invariant()
    def all_is_well(self) -> None:
        judge_step(self.books, self.evidence, self.past)

    # ------------------------------------------------------------ the end

    def end(self) -> None:
        """Nothing is wrong any more: then it all comes to its end, and stays there (I12, I13)."""
        self.get_well()
        self.offset_s = 0.0
        self.books.wait_until_quiet()
        keys = (self.keys[1], self.keys[0]) if self.were_keys_rotated else self.keys[:1]
        assert any(self._come_to_rest(keys) for _ in range(MOST_ROUNDS)), (
            f"I12: no end: {self.evidence.ledger(OPEN_SHARDS)}"
        )
        for which in MANIFESTS:
            results, posts = self.folder / f"{which}-results.jsonl", len(self.books.posts())
            data = results.read_bytes()
            again = runner.run(self._edit(which, []), environ=self._environ)
            assert again is not None
            assert (again.requests_sent, len(self.books.posts())) == (0, posts), "I13: it sent something"
            assert results.read_bytes() == data, "I13: other bytes"
        judge_step(self.books, self.evidence, self.past)
        judge_end(self.now, self.books, self.evidence, self.past, self.keys)

    def _come_to_rest(self, keys: tuple[str, ...]) -> bool:
        """One round with every key; True where nothing was left to do."""
        moved = False
        for key in keys:
            self.key = key
            for which in MANIFESTS:
                ended = self._run(self._edit(which, []), "end")
                moved |= not isinstance(ended, Finished) or ended.requests_sent > 0
                self.decide(which)
        return not moved and not self.evidence.ledger(OPEN_SHARDS)

    # ------------------------------------------------------------ how

    @property
    def _environ(self) -> dict[str, str]:
        return {KEY_VARIABLE: self.key}

    def _options(self, which: str) -> ManifestOptions:
        return ManifestOptions(path=str(self._edit(which, [])))

    def _happened(self, what: str) -> None:
        self.world.happened[what] += 1
        if currently_in_test_context():
            event(what)

    def _edit(self, which: str, edits: list[Edit]) -> Path:
        for one in edits:
            if one.kind not in ("add", "duplicate") or len(self.now[which].rows) < MOST_ROWS:
                self.now[which] = edited(self.now[which], one)
        wanted = self.now[which]
        self.past.wanted |= {request.body_sha256 for request in wanted.wanted()}
        keys = [row.id for row in wanted.rows]
        if keys not in self.past.rows[which]:
            self.past.rows[which].append(keys)
        return write_project(wanted, self.folder, which, self.world.server.base_url)

    def _run(
        self, path: Path, why: str, *, detach: bool = False, wait_s: float = LONG_WAIT_S
    ) -> Finished | type[RunnerError] | None:
        """A run in this process, and how it ended. An end that nothing explains is a failure."""
        try:
            with clock_set(self.offset_s):
                finished = runner.run(path, environ=self._environ, detach=detach, wait_s=wait_s)
        except StillRunningError as error:
            ended: type[RunnerError] = StillRunningError
            self._explain(error, is_explained=wait_s < LONG_WAIT_S or bool(self.armed))
        except ProviderRefusedError as error:
            ended = ProviderRefusedError
            self._explain(error, is_explained=not self.has_credit or self.had_rows_without_credit)
        except DecisionNeededError as error:
            ended = DecisionNeededError
            is_explained = self.were_keys_rotated or self.now[path.stem].server == 1 or bool(self.armed)
            self._explain(error, is_explained=is_explained)
        else:
            self._happened(f"{why}: {'to the end' if finished else 'detached'}")
            if finished is not None:
                judge_table(path.stem, self.now[path.stem], self.books, self.evidence)
            return finished
        self._happened(f"{why}: {ended.__name__}")
        return ended

    def _explain(self, error: RunnerError, *, is_explained: bool) -> None:
        if currently_in_test_context():
            note(f"{type(error).__name__}: {error.what}")
        if not is_explained:
            raise AssertionError("nothing in this history explains this end") from error

    def _submit_some(self, which: str, edits: list[Edit]) -> None:
        """So that something is under way; without edits, what happens to be."""
        if edits:
            self._run(self._edit(which, edits), "submit", detach=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("states")
    with short_waits(), running_server(folder / "server", finaliser_interval_s=0.5) as server:
        yield World(folder, server)


@pytest.mark.timeout(max(600, 3 * EXAMPLES * STEPS))
def test_whatever_happens_everything_is_paid_once(world: World) -> None:
    try:
        run_state_machine_as_test(
            lambda: Protocol(world),  # type: ignore[arg-type]  # it asks for a factory, as documented
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
    ended = [what for what in world.happened if what.endswith("to the end")]
    assert ended, "the rules of `Protocol` assert; they were played"


@pytest.mark.parametrize("has_fence", [True, False])
def test_what_one_key_bought_waits_until_that_key_is_back(world: World, has_fence: bool) -> None:
    with history(world, has_fence) as played:
        played.submit("a", [Edit("change text", f"word 7{SLOW}")])
        bought = len(played.books.created())
        played.rotate_key("a", [])
        assert world.happened.pop("rotate key: DecisionNeededError") == 1
        assert len(played.books.created()) == bought


def test_a_fence_that_another_key_was_to_draw_is_not_believed(world: World) -> None:
    """Killed before the delete, then another account's key, which sees no such file; and only then does the
    create arrive, long after it was given up."""
    with history(world, has_fence=True) as played:
        played.now["a"] = replace(played.now["a"], max_requests_per_file=4)
        world.server.arm("late-effect", route=CREATE, params={"seconds": 3})
        played.crash("a", [], "fence.sending")
        assert world.happened.pop("crash: fence") == 1
        played.rotate_key("a", [])
        assert world.happened.pop("rotate key: DecisionNeededError") == 1
        eventually(played.books.created, what="the late create")
        played.all_is_well()


def test_a_held_shard_is_looked_at_again_after_the_clock_was_set_back(world: World) -> None:
    """Its times are a day ahead then; the next run does not wait for them."""
    with history(world, has_fence=False) as played:
        world.server.arm("reset", route=CREATE, times=0)
        played.offset_s, played.past.was_clock_set = DAY_S, True
        played.edit("a", [])
        assert world.happened.pop("edit: DecisionNeededError") == 1
        played.offset_s = 0.0
        played.resume("a")
        assert world.happened.pop("resume: DecisionNeededError") == 1


@contextmanager
def history(world: World, has_fence: bool) -> Iterator[Protocol]:
    """One that is told step by step; its end is judged as any other's."""
    world.happened.clear()
    played = Protocol(world)
    try:
        played.begin(has_fence, [])
        yield played
        played.all_is_well()
    finally:
        played.teardown()
