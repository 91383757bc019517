"""Whole runs through the command line: plain, JSON, quiet, at a terminal, interrupted."""

from __future__ import annotations

import csv
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import runner
from runner.errors import StillRunningError
from tests.localserver_process import ServerProcess, running_server
from tests.warm_program import run_warm

WAIT_S = 60.0
PROGRAM = (sys.executable, "-m", "runner")


def run_program(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m runner ...`, no terminal anywhere."""
    return run_warm([*PROGRAM, *words], cwd=cwd, timeout=WAIT_S)


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter project, run once."""
    folder = tmp_path_factory.mktemp("starter")
    assert run_program("init", cwd=folder).returncode == 0
    return folder


def write_project(folder: Path, *, provider: str, rows: int = 12, template: str = "Say {{ text }}") -> Path:
    """A manifest `m.yaml` with a dataset of so many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.csv").write_text("id,text\n" + "".join(f"{n},word {n}\n" for n in range(rows)))
    (folder / "t.j2").write_text(template)
    (folder / "m.yaml").write_text(
        "version: 1\n"
        "dataset: {path: rows.csv, key: id}\n"
        "prompt: {template: t.j2}\n"
        f"model: {{provider: {provider}, name: m}}\n"
        "output: {path: out.csv}\n"
    )
    return folder


def at(server: ServerProcess) -> str:
    """A provider for a running server."""
    return f'{{base_url: "{server.base_url}", api_key_env: RUN_TEST_KEY, poll_interval_s: 0.1}}'


# ---------------------------------------------------------------- off a terminal


def test_the_starter_runs_and_a_second_run_sends_nothing(starter: Path) -> None:
    first = run_program("reviews.yaml", cwd=starter)
    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert "done      8 succeeded; 8 requests sent in 1 batch; " in first.stderr
    assert "results   results/reviews.csv\n" in first.stderr
    with (starter / "results/reviews.csv").open(newline="") as table:
        assert [row["review_id"] for row in csv.DictReader(table)] == [f"r-00{n}" for n in range(1, 9)]
    second = run_program("reviews.yaml", "--json", cwd=starter)
    assert (second.returncode, second.stderr) == (0, "")
    events = [json.loads(line) for line in second.stdout.rstrip("\n").split("\n")]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert (events[-1]["succeeded"], events[-1]["requests_sent"]) == (8, 0)
    quiet = run_program("reviews.yaml", "--quiet", cwd=starter)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_looking_at_a_run(starter: Path) -> None:
    assert run_program("reviews.yaml", "-q", cwd=starter).returncode == 0
    status = run_program("status", cwd=starter)
    assert "reviews  reviews.yaml\n" in status.stdout
    assert "rows     8 succeeded\n" in status.stdout
    told = json.loads(run_program("status", "reviews.yaml", "--json", cwd=starter).stdout)
    assert told["manifests"][0]["by_status"] == {"succeeded": 8}
    watched = run_program("status", "--watch", cwd=starter)
    assert (watched.returncode, watched.stdout) == (0, status.stdout)
    plan = run_program("plan", "reviews.yaml", "--exit-code", cwd=starter)
    assert (plan.returncode, plan.stderr) == (0, "")
    assert plan.stdout.endswith("nothing to do\n")
    sql = "SELECT count(*) AS n FROM results"
    found = run_program("results", "reviews.yaml", "--sql", sql, "--format", "jsonl", cwd=starter)
    assert json.loads(found.stdout) == {"n": 8}


def test_a_plan_with_work_exits_with_10_where_asked(tmp_path: Path) -> None:
    write_project(tmp_path, provider="local")
    plan = run_program("plan", "m.yaml", "--exit-code", cwd=tmp_path)
    assert plan.returncode == 10
    assert plan.stdout.startswith("m.yaml: 12 rows\n  new           12\n")
    assert plan.stdout.endswith("next: run m.yaml\n")
    told = run_program("plan", "m.yaml", "--json", "--limit", "5", cwd=tmp_path)
    assert (told.returncode, json.loads(told.stdout)["requests_to_send"]) == (0, 5)
    assert not (tmp_path / ".runner").exists()


def test_failures_are_explained_and_the_next_command_works(tmp_path: Path) -> None:
    write_project(
        tmp_path, provider="local", template="{% if id == 3 %}{{ text.nothing }}{% endif %}Say {{ text }}"
    )
    done = run_program("m.yaml", cwd=tmp_path)
    assert done.returncode == 3
    assert "failed    11 succeeded, 1 unsendable; 11 requests sent in 1 batch; " in done.stderr
    assert "\ncauses    1 missing_variable: " in done.stderr
    assert "next      run results m.yaml --where \"_status <> 'succeeded'\"\n" in done.stderr
    found = run_program("results", "m.yaml", "--where", "_status <> 'succeeded'", "-f", "jsonl", cwd=tmp_path)
    assert json.loads(found.stdout)["id"] == 3


def test_one_bad_manifest_does_not_stop_the_others(starter: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nname: [\n")
    done = run_program("reviews.yaml", str(tmp_path / "bad.yaml"), cwd=starter)
    assert done.returncode == 2
    assert "8 succeeded" in done.stderr
    assert "bad.yaml:" in done.stderr.split("error: ")[1]
    assert f"(nothing of {tmp_path / 'bad.yaml'} was sent; exit 2)" in done.stderr


def test_a_server_that_never_answers_is_given_up_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens on this port. The clock between attempts is the only thing that is not real."""
    monkeypatch.setattr("runner.core.states._backoff_s", lambda attempt: 0.0)
    path = (
        write_project(tmp_path, provider="{base_url: 'http://127.0.0.1:9/v1', api_key_env: KEY}") / "m.yaml"
    )
    with pytest.raises(StillRunningError, match=r"http://127\.0\.0\.1:9/v1 can't be reached"):
        runner.run(path, environ={"KEY": "x"})


def test_a_missing_key_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    provider = '{base_url: "http://127.0.0.1:9/v1", api_key_env: RUN_TEST_KEY}'
    write_project(tmp_path, provider=provider)
    done = run_program("m.yaml", cwd=tmp_path)
    assert done.returncode == 4
    assert "error: " in done.stderr
    assert "RUN_TEST_KEY" in done.stderr
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- at a terminal

_AT_TERMINAL = """
import os, sys
os.login_tty(0)
os.execv(sys.executable, [sys.executable, "-m", "runner", *sys.argv[1:]])
"""


class Terminal:
    """A child on a pseudo terminal: what it wrote, and what a person types."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self.seen = process, master, ""

    def wait_for(self, text: str) -> None:
        """Read until the text appears."""
        end = time.monotonic() + WAIT_S
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} did not come: {self.seen!r}"
            self._read()

    def type(self, keys: str) -> None:
        """As a person would."""
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, self.seen
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the child's side is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(*words: str, cwd: Path) -> Iterator[Terminal]:
    """The program at a terminal of 100 columns; Ctrl-C reaches it as from a keyboard."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_TERMINAL, *words],
        cwd=cwd,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait(WAIT_S)
        os.close(master)


@pytest.fixture
def slow_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project on a server that needs seconds for its answers."""
    monkeypatch.setenv("RUN_TEST_KEY", "a-key")
    with running_server(tmp_path / "server", request_latency_s=0.2, concurrency=1) as server:
        yield write_project(tmp_path / "project", provider=at(server), rows=15)


def test_a_no_sends_nothing(slow_project: Path) -> None:
    with terminal("m.yaml", cwd=slow_project) as screen:
        screen.wait_for("[y/N]: ")
        screen.type("\n")
        assert screen.end() == 130
    assert "nothing was sent" in screen.seen
    assert run_program("plan", "m.yaml", "--exit-code", cwd=slow_project).returncode == 10


def test_ctrl_c_at_the_question_is_a_no(slow_project: Path) -> None:
    with terminal("m.yaml", cwd=slow_project) as screen:
        screen.wait_for("[y/N]: ")
        screen.type("\x03")
        assert screen.end() == 130
    assert "nothing was sent" in screen.seen


def test_ctrl_c_leaves_the_work_running_and_the_same_command_collects(slow_project: Path) -> None:
    with terminal("m.yaml", cwd=slow_project) as screen:
        screen.wait_for("[y/N]: ")
        screen.type("y\n")
        screen.wait_for("Ctrl-C leaves the remote work running")
        screen.wait_for("in_progress")
        screen.type("\x03")
        assert screen.end() == 130
    assert "note:" in screen.seen
    assert "1 batch goes on at the provider" in screen.seen
    assert "\x1b[?25h" in screen.seen.rpartition("\x1b[?25l")[2]
    assert "Traceback" not in screen.seen
    with terminal("m.yaml", cwd=slow_project) as screen:
        assert screen.end() == 0
    assert "15 succeeded" in screen.seen
    assert "[y/N]" not in screen.seen


def test_sigterm_is_the_same_orderly_stop(slow_project: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "m.yaml"],
        cwd=slow_project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert process.stderr is not None
        line = ""
        while "created" not in line:
            line = process.stderr.readline()
            assert line, "the program ended before its batch was created"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait(WAIT_S)
    assert process.returncode == 130
    assert "1 batch goes on at the provider" in said
    assert "Traceback" not in said


def test_detach_submits_and_the_same_command_collects(slow_project: Path) -> None:
    done = run_program("m.yaml", "--detach", cwd=slow_project)
    assert done.returncode == 75
    assert "submitted: 1 batch on the way" in done.stderr
    waited = run_program("m.yaml", "--wait", "0.1s", cwd=slow_project)
    assert waited.returncode == 75
    assert waited.stderr.rstrip().endswith("exit 75)")
    assert run_program("m.yaml", cwd=slow_project).returncode == 0
