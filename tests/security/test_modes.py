"""Everything below `.runner` is private, whatever the umask, after whole runs, kills and looks (I31)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fault.run_factories import end, named, project_of, watch
from tests.security.artefacts import open_to_others


def test_nothing_of_a_run_is_open_to_other_users(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 6, shards=2)
    process = project.start()
    watch(process, named("batch_created"))
    while_running = open_to_others(project.folder / ".runner")
    end(process)
    after_kill = open_to_others(project.folder / ".runner")
    assert project.run().code == 0
    assert project.run("--refresh").code == 0
    assert (while_running, after_kill, open_to_others(project.folder / ".runner")) == ({}, {}, {})


def test_nothing_of_a_run_is_open_to_other_users_without_a_umask(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    subprocess.run(
        project.command("run", str(project.manifest_path)),
        cwd=project.folder,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        umask=0,
        check=True,
    )
    assert open_to_others(project.folder / ".runner") == {}
