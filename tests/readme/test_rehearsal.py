"""The rehearsal of the README: its faults, its two commands, and what it says comes of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from tests.localserver_process import ServerProcess
from tests.project_factory import RUN_TIMEOUT_S
from tests.readme.test_readme_truth import ROOT, marked


@contextmanager
def served(folder: Path, command: str) -> Iterator[ServerProcess]:
    """The command that serves, on a free port; ended with the block."""
    words = [*shlex.split(command)[1:], "--port", "0", "--state", str(folder / "state")]
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip()
        assert base_url, process.communicate(timeout=RUN_TIMEOUT_S)
        yield ServerProcess(state_dir=folder / "state", process=process, base_url=base_url)  # type: ignore[arg-type]
    finally:
        process.terminate()
        process.communicate(timeout=RUN_TIMEOUT_S)


def test_the_rehearsal_of_the_readme_ends_as_it_says(tmp_path: Path) -> None:
    for name in ("manifests", "templates"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "pyproject.toml").touch()
    faults = marked("trouble.jsonl")
    (tmp_path / "trouble.jsonl").write_text(faults)
    serving, running = (line.removeprefix("$ ") for line in marked("rehearsal").splitlines())
    with served(tmp_path, serving) as server:
        address = server.base_url.removeprefix("http://127.0.0.1")
        assert ":8720/v1" in running
        variable, _, *words = shlex.split(running.replace(":8720/v1", address))
        quick = ["--set", "model.provider.poll_interval_s=0.2"]
        done = subprocess.run(
            [sys.executable, "-m", "runner", *words, *quick],
            cwd=tmp_path,
            env={**os.environ, **dict([variable.split("=")])},
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        armed = server.get("//faults")["armed"]
    assert [(one["kind"], one["fired"]) for one in armed] == [
        (fault["kind"], fault.get("times", 1)) for fault in map(json.loads, faults.splitlines())
    ]
    table = str(tmp_path / "results/quickstart.parquet")
    counted = "SELECT count(*), count(DISTINCT _key) FROM read_parquet(?) WHERE _status = 'succeeded'"
    assert duckdb.execute(counted, [table]).fetchone() == (300, 300)
    times = Counter(Counter(one["custom_id"] for one in server.witness.executions()).values())
    assert times == {1: 299, 2: 1}


def test_wrong_faults_are_told_all_at_once_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "trouble.jsonl").write_text('{"kind": "lost-repli"}\n{"kind": "drip", "nth": 0}\n')
    done = subprocess.run(
        [sys.executable, "-m", "runner", "local-server", "--faults", "trouble.jsonl", "--state", "state"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "trouble.jsonl:1: unknown kind 'lost-repli'; did you mean 'lost-reply'?" in done.stderr
    assert "trouble.jsonl:2: drip: nth is a whole number from 1" in done.stderr
    assert not (tmp_path / "state").exists()
