"""Paths that lead elsewhere or never end: devices, pipes, links, and files that are somebody's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner.commands.options import ManifestOptions
from runner.commands.validate import validate
from runner.errors import InputError
from tests.fault.run_factories import project_of
from tests.project_factory import Project

PLACES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "template": lambda manifest, path: manifest["prompt"].update(template=path),
    "schema": lambda manifest, path: manifest["output"].update(schema=path),
    "dataset": lambda manifest, path: manifest["dataset"].update(path=path),
    "extends": lambda manifest, path: manifest.update(extends=path),
    "output": lambda manifest, path: manifest["output"].update(path=path),
}
SUFFIXES = {"template": ".j2", "schema": ".json", "dataset": ".csv", "extends": ".yaml", "output": ".csv"}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def silent(path: Path) -> None:
    path.symlink_to("/dev/full")


def circle(path: Path) -> None:
    path.symlink_to(path)


def refused(project: Project) -> str:
    with pytest.raises(InputError) as caught:
        validate(ManifestOptions(path=str(project.manifest_path)), environ={})
    assert all(mistake.where for mistake in caught.value.mistakes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "make"),
    [
        (place, make)
        for place in PLACES
        for make in (pipe, folder, endless, silent, circle)
        if (place, make) != ("output", circle)  # a broken link is replaced by the table
    ],
)
def test_what_is_no_file_is_a_mistake_and_never_waited_for(
    tmp_path: Path, place: str, make: Callable[[Path], None]
) -> None:
    project = project_of(tmp_path / "p", 2)
    odd = project.folder / f"odd{SUFFIXES[place]}"
    make(odd)
    PLACES[place](project.manifest, odd.name)
    project.write_manifest()
    assert "odd" in refused(project)
    assert not (project.folder / ".runner").exists()


@pytest.mark.parametrize("make", [pipe, endless])
def test_a_manifest_that_is_no_file_is_a_mistake(tmp_path: Path, make: Callable[[Path], None]) -> None:
    project = project_of(tmp_path / "p", 2)
    project.manifest_path.unlink()
    make(project.manifest_path)
    assert "not a file" in refused(project)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".db"])
def test_a_manifest_can_not_name_a_users_file_as_its_output(tmp_path: Path, suffix: str) -> None:
    project = project_of(tmp_path / "p", 2)
    diary = tmp_path / f"diary{suffix}"
    diary.write_bytes(b"dear diary\n")
    project.manifest["output"]["path"] = f"../{diary.name}"
    project.write_manifest()
    done = project.run()
    assert done.code == 2
    assert "would be lost" in done.stderr or "not a SQLite database" in done.stderr
    assert diary.read_bytes() == b"dear diary\n"
    assert not project.witness.creates() if project.state.exists() else True


LINKS = ("ids.jsonl", "local-server/server.log", "locks/opening.lock", "ledger.db", "scratch/1-output.part")


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_folder_from_elsewhere_does_not_choose_what_is_written(tmp_path: Path, name: str) -> None:
    """An archive may bring a `.runner/` with links in it."""
    project = project_of(tmp_path / "p", 2)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine\n")
    link = project.folder / ".runner" / name
    link.parent.mkdir(parents=True, mode=0o700)
    link.symlink_to(victim)
    done = project.run("--wait", "20")
    assert done.code != 0
    assert victim.read_bytes() == b"mine\n"
    assert "Traceback" not in done.stderr
    assert list(project.folder.rglob("internal-error-*")) == [], done.stderr


def test_a_raw_file_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    assert project.run().code == 0
    [raw] = (project.folder / ".runner" / "raw").glob("*output*")
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine\n")
    raw.unlink()
    raw.symlink_to(victim)
    project.run()
    assert victim.read_bytes() == b"mine\n"
