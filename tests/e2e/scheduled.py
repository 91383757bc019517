"""A folder of scheduled manifests, a server whose model answers when it may, and a clock that is set by hand.

stage.manifest("nightly", cron="0 2 * * *")
stage.tick("2026-01-01T02:00")       # in this process, at that moment
stage.release()                      # let the model answer, and wait until every batch has ended
stage.kill("due.claimed", "2026-01-02T02:00")      # a tick of its own process, killed there
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from runner.commands.moments import Silent
from runner.ledger import Ledger, locate
from runner.schedule.reports import TickReport
from runner.schedule.ticking import tick
from tests.e2e.changing_model import ChangingModel, changing_model
from tests.kills.hurried.__main__ import CLOCK_VARIABLE
from tests.localserver_process import KEY, ServerProcess, eventually, running_server
from tests.warm_program import WarmPopen, run_warm

TIMEOUT_S = 60.0


def seconds(text: str) -> float:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@dataclass
class Stage:
    """The folder `jobs` and the server behind it, which knows this stage by its key."""

    folder: Path
    server: ServerProcess
    model: ChangingModel
    key: str = KEY
    deaths: int = 0

    @property
    def environ(self) -> dict[str, str]:
        return {"SCHEDULED_KEY": self.key}

    # ------------------------------------------------------------ what there is

    def manifest(self, name: str = "nightly", *, cron: str | None = "0 2 * * *", **sections: Any) -> Path:
        """A manifest NAME.yaml; `sections` of it, and with `schedule__` before them keys of its schedule."""
        keys = {key[10:]: sections.pop(key) for key in list(sections) if key.startswith("schedule__")}
        provider = {
            "name": "doubleword",
            "base_url": self.server.base_url,
            "api_key_env": "SCHEDULED_KEY",
            "poll_interval_s": 0.05,
            "settle_s": 0.1,
        }
        manifest = {
            "version": 1,
            "name": name,
            "dataset": {"path": f"{name}.jsonl", "key": "id"},
            "prompt": {"template": f"{name}.j2"},
            "model": {"provider": provider, "name": "m"},
            "output": {"path": f"{name}.results.jsonl"},
            "retry": {"attempts": 2, "backoff": {"initial": "20ms", "max": "20ms"}},
            **sections,
        }
        if cron is not None:
            manifest["schedule"] = {"cron": cron, **keys}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest, sort_keys=False))
        template = self.folder / f"{name}.j2"
        if not template.exists():
            template.write_text("{{ text }}")
        if not (self.folder / f"{name}.jsonl").exists():
            self.rows(name, 3)
        return path

    def rows(self, name: str, count: int, **more: Any) -> None:
        """A dataset of so many rows; `more` columns hold the same in each."""
        self.write_rows(name, [{"id": f"k{at}", "text": f"{name} {at}", **more} for at in range(count)])

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / f"{name}.jsonl").write_text(text)

    # ------------------------------------------------------------ what happens

    def tick(self, at: str, *targets: Path) -> TickReport:
        """One tick at this moment."""
        return tick(
            targets or (self.folder,), environ=self.environ, reporter=Silent(), clock=lambda: seconds(at)
        )

    def program(self, *arguments: str, at: str = "", point: str = "") -> tuple[int, str, str]:
        """The program in a process of its own: exit code (negative: killed), stdout, stderr."""
        ours = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
        environ = {**ours, **self.environ, "COLUMNS": "120"}
        if at:
            environ[CLOCK_VARIABLE] = str(seconds(at))
        if point:
            environ["RUNNER_FAILPOINT"] = point
        command = [sys.executable, "-m", "tests.kills.hurried", *arguments]
        done = run_warm(command, cwd=self.folder, env=environ, timeout=TIMEOUT_S)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    @contextmanager
    def dying(self, point: str, at: str) -> Iterator[None]:
        """While a tick of its own process runs, that dies at a named point if it gets so far."""
        ours = {name: text for name, text in os.environ.items() if not name.startswith("RUNNER_")}
        moment = {CLOCK_VARIABLE: str(seconds(at)), "RUNNER_FAILPOINT": point}
        command = [sys.executable, "-m", "tests.kills.hurried", "schedule", "tick", "--quiet"]
        with WarmPopen(
            command, cwd=self.folder, env={**ours, **self.environ, **moment}, stdin=subprocess.DEVNULL
        ) as process:
            yield
            process.wait(TIMEOUT_S)
        self.deaths += process.returncode == -9

    def kill(self, point: str, at: str) -> None:
        """A tick that dies at a named point."""
        code, _, stderr = self.program("schedule", "tick", ".", at=at, point=point)
        assert code == -9, (code, stderr)

    def hold(self) -> None:
        """The model answers nothing until it is released."""
        self.model.is_slow = True

    def release(self) -> None:
        """The model answers, and every batch comes to its end."""
        self.model.is_slow = False
        self.settle()

    def settle(self) -> None:
        """Wait until every batch has its last word."""

        def all_ended() -> bool:
            found = [self.server.get(f"/batches/{batch}", key=self.key) for batch in self.batches()]
            return all(batch["status"] in ("completed", "failed", "cancelled") for batch in found)

        eventually(all_ended, what="the end of every batch")

    def age_answers(self, age_s: int) -> None:
        """Make the answers that are held so much older, in place of waiting."""
        with closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
            ledger.execute(f"UPDATE attempt SET answered_at = answered_at - {age_s}")
            oldest = f"json_extract(published, '$.oldest_s') - {age_s}"
            ledger.execute(
                f"UPDATE run SET published = json_set(published, '$.oldest_s', {oldest}) "
                "WHERE json_extract(published, '$.oldest_s') IS NOT NULL"
            )

    def age_begun_due(self, age_s: int) -> None:
        """Make it so much longer ago that the last due time was first tried."""
        (held,) = self.ledger("SELECT begun_at FROM due ORDER BY due_at DESC LIMIT 1")
        begun = datetime.fromisoformat(held[0]) - timedelta(seconds=age_s)
        text = begun.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert len(text) == len(held[0]), held
        with closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as ledger, ledger:
            ledger.execute("UPDATE due SET begun_at = ? WHERE begun_at = ?", (text, held[0]))

    # ------------------------------------------------------------ what came of it

    def dues(self, name: str = "nightly") -> list[tuple[str, str]]:
        """Due time (UTC, `MM-DD HH:MM`) and state of every due time on record, in order."""
        found = self.ledger(
            "SELECT due_at, state FROM due JOIN manifest ON manifest.id = manifest_id "
            f"WHERE manifest.path = '{name}.yaml' ORDER BY due_at"
        )
        return [(f"{due_at[5:10]} {due_at[11:16]}", state) for due_at, state in found]

    def ledger(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as connection:
            return connection.execute(sql).fetchall()

    def results(self, name: str = "nightly") -> dict[str, dict[str, Any]]:
        """The published table, by key."""
        path = self.folder / f"{name}.results.jsonl"
        found = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        return {row["_key"]: row for row in found}

    def statuses(self, name: str = "nightly") -> Counter[str]:
        return Counter(row["_status"] for row in self.results(name).values())

    def batches(self) -> list[str]:
        """The ids of all batches, in order, those too whose creation nobody heard of."""
        owner = sha256(b"owner:" + self.key.encode()).hexdigest()[:16]  # as the witness writes it
        return [one["batch_id"] for one in self.server.witness.creates() if one["owner"] == owner]

    def executed(self) -> Counter[str]:
        """How often each request was executed, by custom_id."""
        ours = set(self.batches())
        found = self.server.witness.executions()
        return Counter(one["custom_id"] for one in found if one["batch_id"] in ours)

    def cancelled(self) -> list[str]:
        """The ids of batches that were told to stop."""
        ours = set(self.batches())
        found = self.server.witness.changes()
        return [one["id"] for one in found if one["action"] == "cancel" and one["id"] in ours]


@dataclass
class Theatre:
    """A server, its model and an empty ledger with all its tables, for one stage after another."""

    folder: Path
    server: ServerProcess
    model: ChangingModel
    ledger: Path
    stages: int = 0

    def stage(self) -> Stage:
        """A new one: a folder and a key of its own, the model as it was in the beginning, no faults."""
        self.stages += 1
        jobs = self.folder / f"jobs-{self.stages}"
        (jobs / ".runner").mkdir(parents=True, mode=0o700)
        shutil.copyfile(self.ledger, jobs / ".runner" / "ledger.db")
        self.server.call("DELETE", "//faults")
        self.model.is_slow, self.model.status, self.model.word = False, 200, "yes"
        self.model.statuses.clear()
        return Stage(folder=jobs, server=self.server, model=self.model, key=f"key-{self.stages}")


@contextmanager
def theatre(folder: Path, *, answers_itself: bool = False) -> Iterator[Theatre]:
    """As long as the block lasts. `answers_itself`: the server, with each row's own text."""
    empty = folder / "empty" / ".runner"
    empty.mkdir(parents=True, mode=0o700)
    Ledger.open(locate(str(empty.parent / "manifest.yaml"), {})).close()
    with (
        changing_model() as model,
        running_server(
            folder / "server",
            upstream=None if answers_itself else model.address,
            finaliser_interval_s=0.1,
            max_attempts=1,
        ) as server,
    ):
        yield Theatre(folder=folder, server=server, model=model, ledger=empty / "ledger.db")
        model.is_slow = False
