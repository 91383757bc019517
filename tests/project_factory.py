"""A small project on disk, and the program run over it as a user would: a subprocess, real files, real HTTP.

project = make_project(tmp_path, rows=[{"id": "a", "text": "hello"}])
done = project.run()                 # python -m runner run manifest.yaml --json
project.results()                    # the table, as dicts
project.witness.executions()         # what the local server really executed
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.localserver_process import Witness
from tests.warm_program import WarmPopen, run_warm

RUN_TIMEOUT_S = 90.0
TEMPLATE = "{% block system %}Be brief.{% endblock %}{% block user %}{{ text }}{% endblock %}"
ROWS = tuple({"id": f"k{number}", "text": f"question {number}"} for number in range(5))


@dataclass(frozen=True)
class Done:
    """A finished process: exit code, texts, and the JSON events of its standard output."""

    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.split("\n") if line.startswith("{")]

    def event(self, name: str) -> dict[str, Any]:
        """The last event of this name."""
        found = [event for event in self.events if event["event"] == name]
        assert found, (name, self.stdout, self.stderr)
        return found[-1]


@dataclass
class Project:
    """A folder with a manifest, a template and a dataset."""

    folder: Path
    manifest: dict[str, Any]
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.yaml"

    @property
    def state(self) -> Path:
        """The state folder of the local server that `provider: local` starts."""
        return self.folder / ".runner" / "local-server"

    @property
    def witness(self) -> Witness:
        return Witness(self.state)

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self.folder / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def write_template(self, text: str) -> None:
        (self.folder / "prompt.j2").write_text(text)

    def write_manifest(self) -> None:
        self.manifest_path.write_text(yaml.safe_dump(self.manifest, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "runner", *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "COLUMNS": "120", **self.environ}

    def call(self, *arguments: str, cwd: Path | None = None) -> Done:
        """Run the program to its end."""
        process = run_warm(
            self.command(*arguments),
            cwd=cwd or self.folder,
            env=self.environment(),
            timeout=RUN_TIMEOUT_S,
        )
        return Done(process.returncode, process.stdout, process.stderr)

    def run(self, *options: str) -> Done:
        """`run manifest.yaml --json`; no traceback whatever happens."""
        done = self.call("run", str(self.manifest_path), "--json", *options)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def run_changed(self, change: str) -> Done:
        """`run manifest.yaml --json` in an interpreter of its own, after `change`, which is Python."""
        script = self.folder / "changed.py"
        script.write_text(f"{change}\nfrom runner.__main__ import main\nmain()\n")
        process = subprocess.run(
            [sys.executable, str(script), "run", str(self.manifest_path), "--json"],
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            cwd=self.folder,
            env=self.environment(),
        )
        return Done(process.returncode, process.stdout, process.stderr)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """The same, in the background. The caller ends it."""
        return WarmPopen(
            self.command("run", str(self.manifest_path), "--json", *options),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def results(self) -> list[dict[str, Any]]:
        """The published table (JSONL), in its order."""
        data = (self.folder / "results.jsonl").read_bytes()
        return [json.loads(line) for line in data.split(b"\n") if line]

    def ledger(self, sql: str) -> list[tuple[Any, ...]]:
        """A query of the ledger, as a person with sqlite3 would ask it."""
        with closing(sqlite3.connect(self.folder / ".runner" / "ledger.db", timeout=30)) as connection:
            return connection.execute(sql).fetchall()


def make_project(
    folder: Path,
    *,
    rows: Sequence[Mapping[str, Any]] = ROWS,
    template: str = TEMPLATE,
    **sections: Any,
) -> Project:
    """A project for the local server. `sections` replace or add top-level keys of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "version": 1,
        "name": "test",
        "dataset": {"path": "rows.csv", "key": "id"},
        "prompt": {"template": "prompt.j2"},
        "model": {"provider": "local", "name": "m", "parameters": {"temperature": 0}},
        "output": {"path": "results.jsonl"},
        **sections,
    }
    project = Project(folder=folder, manifest=manifest)
    project.write_rows(rows)
    project.write_template(template)
    project.write_manifest()
    return project


def finish(process: subprocess.Popen[str]) -> Done:
    """Wait for a started process; it is killed if it does not end."""
    try:
        stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
    return Done(process.returncode, stdout, stderr)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
