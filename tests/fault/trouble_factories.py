"""A matrix of trouble: a few servers, many small projects, each with a key of its own and a fault of its own.

A case names its faults, the phase in which they act, and the end it must come to; `play` plays it in this
process and judges it by two things only: the published table, and the server's witness for the case's key.
"""

from __future__ import annotations

import itertools
import json
import queue
import shutil
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner
from runner.commands.moments import Finished
from runner.errors import DecisionNeededError, ProviderRefusedError, RunnerError, StillRunningError
from runner.ledger import Ledger, locate
from runner.localserver.faults import KINDS
from tests.localserver_process import ServerProcess, eventually

KEYS = ("k0", "k1", "k2")
PATIENCE_S = 40.0
"""No case may take longer: its run says then that it is still running."""

PHASES: Mapping[str, str] = {
    "upload": "POST /v1/files",
    "create": "POST /v1/batches",
    "poll": "GET /v1/batches/*",
    "download": "GET /v1/files/*/content",
    "list": "GET /v1/batches",
    "fence": "DELETE /v1/files/*",
    "execute": "*",
}
"""Where a run stands when the fault acts, as the route that it acts on."""

LEADS_TO: Mapping[str, Mapping[str, Any]] = {
    "list": {"kind": "lost-reply", "route": PHASES["create"]},
    "fence": {"kind": "gateway-502", "route": PHASES["create"]},
}
"""Only an unknown create is looked for in listings; only one that was not found leads to a fence."""


@dataclass(frozen=True)
class End:
    """What a case comes to. `error`: how the first run ends; without, it ends with a table.

    `rows`: status and error class of rows that did not succeed, by key (`*`: all; `?`: some one of them).
    `twice`: rows whose first answer was none, and that were therefore asked again, by key or `*`.
    `after`: what another run comes to once the server is well; None where the first was the last.
    """

    error: type[RunnerError] | None = None
    rows: Mapping[str, str] = field(default_factory=dict)
    twice: str = ""
    after: End | None = None

    def of(self, key: str) -> str:
        return self.rows.get(key) or self.rows.get("*") or "succeeded"


DONE = End()
REFUSED = End(error=ProviderRefusedError, after=DONE)
STILL_RUNNING = End(error=StillRunningError, after=DONE)
HELD_THEN_FOUND = End(error=DecisionNeededError, after=DONE)
HELD = End(error=DecisionNeededError, rows={"*": "pending"})
"""No proof that nothing was bought, so nothing is bought again: a person decides."""
STAYS_HELD = replace(HELD, after=HELD)


def rows(what: str, key: str = "*") -> End:
    """A table in which one row, or all, ended otherwise."""
    return End(rows={key: what})


def asked_again(key: str) -> End:
    """All is well in the end; a row, or all, needed a second attempt."""
    return End(twice=key)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault in one phase, for one profile, and its end.

    `also`: further faults. `texts`: what stands in a row's prompt besides its name, by key. `begun`: the
    batch is bought, and the rows that end at once are executed, before the faults are armed. `hours`: time
    passes between the first run and the one after. `lands`: so does a late effect.
    """

    kind: str
    phase: str
    profile: str
    end: End
    nth: int = 1
    times: int = 1
    token: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[Mapping[str, Any], ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1
    begun: bool = False
    hours: bool = False
    lands: bool = False
    settle_s: float = 0.3
    wait_s: float = PATIENCE_S

    @property
    def name(self) -> str:
        return "-".join([self.kind, *map(str, self.params.values()), self.phase, self.profile]).replace(
            "/", "_"
        )

    @property
    def faults(self) -> list[dict[str, Any]]:
        params = dict(self.params)
        if self.profile == "unknown" and "openai" in KINDS[self.kind].params:
            params["openai"] = True
        fault: dict[str, Any] = {"kind": self.kind, "nth": self.nth, "times": self.times, "params": params}
        fault |= {"route": PHASES[self.phase], "token": self.token}
        lead = LEADS_TO.get(self.phase)
        is_led = lead is not None and not any(one.get("route") == PHASES["create"] for one in self.also)
        return [*([dict(lead)] if is_led and lead is not None else []), *map(dict, self.also), fault]


class World:
    """Servers and projects. Cases are played beside each other, each with a server of its own meanwhile."""

    def __init__(self, folder: Path, servers: Sequence[ServerProcess]) -> None:
        self.folder = folder
        self._servers = servers
        self._free: queue.SimpleQueue[ServerProcess] = queue.SimpleQueue()
        for server in servers:
            self._free.put(server)
        self._numbers = itertools.count(1)
        self._blank = folder / "blank"
        (self._blank / ".runner").mkdir(parents=True, mode=0o700)
        with Ledger.open(locate(str(self._blank / "manifest.yaml"), {})):
            pass

    def play(self, cases: Sequence[Case]) -> int:
        """Play all; so many came to their end. Fails with every case that did not."""
        with ThreadPoolExecutor(len(self._servers)) as pool:
            failures = [failure for failure in pool.map(self._caught, cases) if failure is not None]
        if failures:
            raise ExceptionGroup(f"{len(failures)} of {len(cases)} cases", failures)
        return len(cases)

    def _caught(self, case: Case) -> Exception | None:
        try:
            self._play(case)
        except (Exception, pytest.fail.Exception) as error:
            failure = error if isinstance(error, Exception) else AssertionError(str(error))
            failure.add_note(f"in the case {case.name}")
            return failure
        return None

    def _play(self, case: Case) -> None:
        """From an empty ledger to the end, judged."""
        number = next(self._numbers)
        server = self._free.get()
        played = _Played(case, server, self.folder / f"project-{number}", number)
        shutil.copytree(self._blank, played.folder)
        try:
            played.go()
        finally:
            server.call("DELETE", "//faults")
            self._free.put(server)
        shutil.rmtree(played.folder)


class _Played:
    """One case under way."""

    def __init__(self, case: Case, server: ServerProcess, folder: Path, number: int) -> None:
        self.case = case
        self.server = server
        self.folder = folder
        self.number = number
        self.key = f"key-{number}"

    def go(self) -> None:
        self._write()
        if self.case.begun:
            assert self._run(detach=True) is None
            fast = sum(key not in self.case.texts for key in KEYS)
            eventually(lambda: self._executed().total() >= fast, what="the rows that end at once")
        for fault in self.case.faults:
            self.server.arm(**fault)
        self._come_to(self.case.end, self.case.wait_s)
        wait_s = self.case.wait_s
        while self.case.end is STILL_RUNNING and self._idle() and wait_s < PATIENCE_S:
            wait_s *= 2  # a loaded machine: the time was over before the fault could act
            self._come_to(self.case.end, wait_s)
        assert not self._idle(), f"never acted: {self._idle()}"
        if self.case.end.after is not None:
            self.server.call("DELETE", "//faults")
            if self.case.lands:
                eventually(lambda: self._executed().total() == len(KEYS), what="the late effect")
            if self.case.hours:
                self._let_hours_pass()
            self._come_to(self.case.end.after, PATIENCE_S)
        self._judge_witness()

    # ------------------------------------------------------------ the project

    def _write(self) -> None:
        texts = {key: f"case-{self.number}-{key}-end {self.case.texts.get(key, '')}" for key in KEYS}
        data = "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())
        (self.folder / "rows.jsonl").write_text(data)
        (self.folder / "prompt.j2").write_text("{{ text }}")
        known = {"name": "doubleword"} if self.case.profile == "doubleword" else {}
        provider = {
            **known,
            "base_url": self.server.base_url,
            "api_key_env": "TEST_KEY",
            "poll_interval_s": 0.02,
            "settle_s": self.case.settle_s,
        }
        manifest = {
            "version": 1,
            "dataset": {"path": "rows.jsonl", "key": "id"},
            "prompt": {"template": "prompt.j2"},
            "model": {"provider": provider, "name": "m"},
            "retry": {"attempts": self.case.attempts, "backoff": {"initial": 0}},
            "output": {"path": "results.jsonl"},
        }
        (self.folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))

    def _run(self, **options: Any) -> Finished | None:
        return runner.run(self.folder / "manifest.yaml", environ={"TEST_KEY": self.key}, **options)

    def _let_hours_pass(self) -> None:
        """What the server asked to wait for is over; the ledger's times are moved instead of the clock."""
        with (
            closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as connection,
            connection,
        ):
            connection.execute("UPDATE shard SET not_before_s = not_before_s - 7200")

    # ------------------------------------------------------------ judging

    def _come_to(self, end: End, wait_s: float) -> None:
        if end.error is None:
            finished = self._run(wait_s=wait_s)
            assert finished is not None
            assert finished.exit_code == (3 if end.rows else 0)
        else:
            with pytest.raises(end.error) as caught:
                self._run(wait_s=wait_s)
            assert caught.value.what, "an error says what is wrong"
            assert caught.value.next_step, "and what to do next"
        if end.error is None or end.rows:
            self._judge_table(end)

    def _judge_table(self, end: End) -> None:
        data = (self.folder / "results.jsonl").read_bytes()
        found = [json.loads(line) for line in data.split(b"\n") if line]
        assert [row["_key"] for row in found] == list(KEYS), "every row once, in the dataset's order"
        said = {row["_key"]: " ".join(filter(None, (row["_status"], row["_error_class"]))) for row in found}
        if "?" in end.rows:
            assert sorted(said.values()) == sorted([end.rows["?"], *["succeeded"] * (len(KEYS) - 1)])
        else:
            assert said == {key: end.of(key) for key in KEYS}
        for row in found:
            if row["_status"] == "succeeded":
                assert f"case-{self.number}-{row['_key']}-end" in row["_answer"], row

    def _idle(self) -> list[str]:
        """Faults that have not acted."""
        return [one["kind"] for one in self.server.get("//faults")["armed"] if not one["fired"]]

    def _executed(self) -> Counter[str]:
        """How often each row was executed for this key."""
        owner = sha256(b"owner:" + self.key.encode()).hexdigest()[:16]  # as the witness writes it
        database = self.server.state_dir / "server.db"
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            found = connection.execute(
                "SELECT custom_id FROM witness_execution JOIN witness_create USING (batch_id) "
                "WHERE owner = ?",
                (owner,),
            )
            return Counter(custom_id.partition("-")[0] for (custom_id,) in found)

    def _judge_witness(self) -> None:
        """Nothing was executed twice but what had to be asked again, and no answer was made up."""
        end = self.case.end
        often = {
            key: 2 if end.twice in (key, "*") or (end.twice and key in end.twice.split()) else 1
            for key in KEYS
        }
        executed = self._executed()
        for key in KEYS:
            assert executed[key] <= often[key], f"{key} was executed {executed[key]} times"
        last = end.after or end
        for key in KEYS:
            if last.error is None and last.of(key) == "succeeded":
                assert executed[key] == often[key], f"{key} was executed {executed[key]} times"


def both(case: Case, unknown: End | None = None) -> list[Case]:
    """The case for the hosted service's profile and for a server that nothing is known of."""
    return [
        replace(case, profile="doubleword"),
        replace(case, profile="unknown", end=case.end if unknown is None else unknown),
    ]
