"""Each example manifest runs as it is, and each example file beside them is used by one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import runner
from tests.project_factory import RUN_TIMEOUT_S
from tests.warm_program import run_warm

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_every_example_runs_to_a_table_without_failures(tmp_path: Path, manifest: Path) -> None:
    project = tmp_path / "a folder with spaces"
    for name in ("manifests", "templates"):
        shutil.copytree(ROOT / name, project / name)
    path = project / "manifests" / manifest.name
    done = run_warm(
        [sys.executable, "-m", "runner", str(path), "--limit", "10", "--json"],
        cwd=tmp_path,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    finished = json.loads(done.stdout.strip().split("\n")[-1])
    assert finished["event"] == "finished"
    assert finished["succeeded"] == 10
    assert finished["results"]
    for table in finished["results"]:
        assert Path(table).stat().st_size > 0


def test_every_template_and_every_dataset_is_used() -> None:
    used: set[str] = set()
    for manifest in MANIFESTS:
        loaded = runner.load(manifest)
        used |= {*loaded.dataset.paths, loaded.prompt.template, loaded.output.schema_path or ""}
    shipped = {str(path) for folder in ("templates", "manifests/data") for path in (ROOT / folder).iterdir()}
    assert shipped <= used


def test_what_every_example_writes_is_left_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split("\n")
    assert "/results/" in ignored
    for manifest in MANIFESTS:
        for path in runner.load(manifest).output.paths:
            assert Path(path).parent == ROOT / "results"
