"""A canary key, looked for in everything that whole runs under trouble leave, say and show (I30)."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.fault.run_factories import end, named, project_of, watch
from tests.fault.run_hostile_server import Batch, HostileServer
from tests.localserver_process import running_server
from tests.project_factory import Done, Project
from tests.security.artefacts import command_lines_with, files_with, pieces, watch_command_lines

KEY = "sk-canary-9f3e17/b2c84d+06a5"
LOOKS = (
    ("status",),
    ("plan",),
    ("plan", "--json"),
    ("history",),
    ("explain", "k0"),
    ("results",),
    ("validate",),
)


def project_with_key(folder: Path, base_url: str) -> Project:
    provider = {
        "base_url": base_url,
        "api_key_env": "CANARY_API_KEY",
        "poll_interval_s": 0.05,
        "settle_s": 0.3,
    }
    project = project_of(folder, 4, model={"provider": provider, "name": "m"})
    project.environ["CANARY_API_KEY"] = KEY
    return project


def look(project: Project) -> list[Done]:
    """Every command that shows something."""
    path = str(project.manifest_path)
    return [project.call(word, path, *rest) for word, *rest in LOOKS]


def is_clean(project: Project, done: list[Done], *folders: Path) -> None:
    said = "".join(one.stdout + one.stderr for one in done).encode()
    assert [piece for piece in pieces(KEY) if piece in said] == []
    assert files_with(KEY, project.folder, *folders) == []
    assert all("Traceback" not in one.stderr for one in done)


def test_a_run_with_faults_kills_and_a_wrong_key_shows_its_key_nowhere(tmp_path: Path) -> None:
    with running_server(tmp_path / "state") as server:
        project = project_with_key(tmp_path / "p", server.base_url)
        server.arm("unauthorized-401", times=1)
        done = [project.run()]
        assert done[0].code == 4
        server.arm("internal-500", route="GET /v1/batches/*", times=2)
        process = project.start()
        watch(process, named("batch_created"))
        assert command_lines_with(KEY) == []
        done.append(end(process, signal.SIGKILL))
        process = project.start()
        assert watch_command_lines(process, KEY) == []
        done.append(end(process))
        done += [project.run(), *look(project)]
        assert done[3].code == 0
    is_clean(project, done, tmp_path / "state")


@pytest.mark.parametrize("status", [200, 201, 400, 401, 402, 403, 429, 500])
def test_a_server_that_echoes_the_key_brings_it_nowhere(tmp_path: Path, status: int) -> None:
    echo = json.dumps(
        {"id": "batch-1", "request": {"authorization": f"Bearer {KEY}"}, "error": {"message": f"no: {KEY}"}}
    )
    if status < 300:
        echo = json.dumps({"id": "batch-1", "headers": {"authorization": f"Bearer {KEY}"}, "errors": KEY})

    def created(batch: Batch) -> tuple[int, bytes] | None:
        return (status, echo.encode()) if batch.number == 1 else None

    with HostileServer(created=created) as server:
        project = project_with_key(tmp_path / "p", server.base_url)
        done = [project.run("--wait", "2"), *look(project)]
    is_clean(project, done)


def test_a_key_in_a_manifest_or_an_option_is_refused_and_shown_nowhere(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 1)
    path = str(project.manifest_path)
    literal = "sk-proj-abcdefghij0123456789"
    option = f"model.provider.api_key_env={literal}"
    done = [project.call(word, path, "--set", option) for word in ("run", "plan", "validate")]
    project.manifest["model"]["provider"] = {"base_url": "https://x.example/v1", "api_key_env": literal}
    project.write_manifest()
    done.append(project.call("run", path, "--json"))
    for one in done:
        assert one.code == 2
        assert "looks like an API key" in one.stderr
        assert literal not in one.stdout + one.stderr
    assert not (project.folder / ".runner").exists()
