"""The local server is killed, starved of input, stopped: nothing acknowledged is lost, nothing runs twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.localserver_process import (
    WAIT_S,
    ServerProcess,
    chat_line,
    eventually,
    running_server,
    start_server,
)


def wait_for_executions(server: ServerProcess, count: int) -> None:
    eventually(lambda: len(server.witness.executions()) >= count, what=f"{count} executions")


@pytest.mark.parametrize("latency_s", [0.0, 0.02])
def test_a_killed_server_goes_on_and_every_request_is_recorded_once(tmp_path: Path, latency_s: float) -> None:
    count = 6_000 if latency_s == 0 else 300
    settings = {"request_latency_s": latency_s, "concurrency": 20}
    last = chat_line(f"r{count - 1}", "[[local:slow 2]]")  # so that it is under way at every kill
    data = b"".join(chat_line(f"r{number}") for number in range(count - 1)) + last
    server = start_server(tmp_path, **settings)
    batch_id = server.start_batch(data)["id"]
    kills = 0
    for share in (0.1, 0.4, 0.7):
        wait_for_executions(server, int(count * share))
        server.kill()
        kills += len(server.witness.executions()) < count
        server.stop()
        server = start_server(tmp_path, **settings)
    done = server.finished(batch_id)
    assert done["request_counts"] == {"total": count, "completed": count, "failed": 0}
    everyone = Counter(f"r{number}" for number in range(count))
    assert Counter(line["custom_id"] for line in server.content(done["output_file_id"])) == everyone
    assert Counter(row["custom_id"] for row in server.witness.executions()) == everyone
    assert server.stop() == 0
    assert kills > 0


def test_an_acknowledged_upload_and_create_survive_a_kill(tmp_path: Path) -> None:
    server = start_server(tmp_path, validating_delay_s=30)
    batch = server.start_batch(chat_line("a"))
    server.kill()
    server.stop()
    with running_server(tmp_path) as again:
        assert again.finished(batch["id"])["status"] == "completed"
        assert len(again.witness.uploads()) == len(again.witness.creates()) == 1


def test_an_upload_cut_by_a_kill_leaves_no_file_in_the_listing(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        server.upload(chat_line("a"))
        partial = server.state_dir / "files" / "partial.jsonl"
        partial.write_bytes(b"half of a li")
        assert len(server.get("/files")["data"]) == 1


def test_the_server_ends_with_its_standard_input(tmp_path: Path) -> None:
    server = start_server(tmp_path, request_latency_s=5)
    server.start_batch(chat_line("a"))
    started_at = time.monotonic()
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(WAIT_S) == 0
    assert time.monotonic() - started_at < 1.5
    with running_server(tmp_path) as again:
        (batch,) = again.get("/batches")["data"]
        assert again.finished(batch["id"])["status"] == "completed"
        assert len(again.witness.executions()) == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--settings", "missing.json"], 2, "missing.json: No such file or directory"),
        (["--host", "203.0.113.7"], 1, "203.0.113.7"),
        (["--upstream", "nonsense"], 2, "upstream must be an http or https URL"),
    ],
)
def test_a_wrong_start_says_why_without_a_traceback(
    tmp_path: Path, options: list[str], code: int, words: str
) -> None:
    command = [sys.executable, "-m", "runner.localserver", "--state", str(tmp_path / "state"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_settings_file_lists_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"concurency": 1, "max_file_bytes": "x", "windows": ["3h"]}))
    command = [sys.executable, "-m", "runner.localserver", "--state", str(tmp_path), "--settings", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 2
    for word in (
        "concurency: unknown setting",
        "max_file_bytes: expected a whole number",
        "unknown window '3h'",
    ):
        assert word in done.stderr
