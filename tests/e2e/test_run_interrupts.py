"""Ctrl-C, SIGTERM, --detach and --wait: leaving in order, leaving at once, and going on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.fault.run_factories import (
    EXIT_INTERRUPTED,
    EXIT_STILL_RUNNING,
    all_gone,
    all_well,
    arm,
    children_of,
    end,
    named,
    project_of,
    rows_of,
    server_of,
    until_done,
    watch,
    work_off,
)
from tests.localserver_process import eventually
from tests.project_factory import finish

SLOW = "[[local:slow 2]]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("shards", [1, 3])
def test_an_interrupt_leaves_in_order_and_the_same_command_goes_on(
    tmp_path: Path, shards: int, number: int
) -> None:
    project = project_of(tmp_path / "p", 6, shards=shards, token=SLOW)
    process = project.start()
    assert watch(process, named("batch_created")) is not None
    asked = time.monotonic()
    done = end(process, number)
    assert time.monotonic() - asked < 5
    assert done.code == EXIT_INTERRUPTED
    assert "same command" in done.stderr
    all_gone(project.folder)
    assert project.ledger("SELECT state FROM run") == [("interrupted",)]
    until_done(project)
    all_well(project, rows_of(6, SLOW))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_while_the_program_is_loaded_is_answered(tmp_path: Path, name: str) -> None:
    project = project_of(tmp_path / "p", 1)
    asked = (
        "import builtins, os, signal\n"
        "load = builtins.__import__\n"
        "def signalled(module, *rest):\n"
        f"    if module == 'runner.cli.app': os.kill(os.getpid(), signal.{name})\n"
        "    return load(module, *rest)\n"
        "builtins.__import__ = signalled\n"
    )
    done = project.run_changed(asked)
    assert (done.code, done.stderr) == (EXIT_INTERRUPTED, "interrupted; nothing was begun\n")


@pytest.mark.parametrize("moment", ["started", "rows_read", "planned", "uploaded"])
def test_an_interrupt_before_anything_was_bought_costs_nothing(tmp_path: Path, moment: str) -> None:
    project = project_of(tmp_path / "p", 4, shards=2)
    process = project.start()
    assert watch(process, named(moment)) is not None
    assert end(process, signal.SIGINT).code == EXIT_INTERRUPTED
    all_gone(project.folder)
    until_done(project)
    all_well(project, rows_of(4))


def test_an_interrupt_while_many_rows_are_rendered_stops_soon_and_leaves_no_worker(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 60_000, shards=1)
    process = project.start()
    assert watch(process, named("rows_rendered")) is not None
    asked = time.monotonic()
    assert end(process, signal.SIGINT).code == EXIT_INTERRUPTED
    assert time.monotonic() - asked < 10
    all_gone(project.folder)
    assert not project.state.exists()
    assert not list((project.folder / ".runner" / "shards").iterdir())


def test_a_create_under_way_is_recorded_before_leaving(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    arm(project, "slow-request", route="POST /v1/batches", params={"seconds": 1.5})
    process = project.start()
    assert watch(process, named("uploaded")) is not None
    eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'creating'"), what="the intent")
    assert end(process, signal.SIGTERM).code == EXIT_INTERRUPTED
    assert project.ledger("SELECT state FROM shard") == [("submitted",)]
    until_done(project)
    all_well(project, rows_of(2))


def test_sigterm_ends_the_program_within_5_seconds_even_while_a_create_hangs(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4)
    arm(project, "slow-request", route="POST /v1/batches", params={"seconds": 60})
    process = project.start()
    assert watch(process, named("uploaded")) is not None
    eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'creating'"), what="the create")
    asked = time.monotonic()
    done = end(process, signal.SIGTERM)
    assert time.monotonic() - asked < 5
    assert done.code == EXIT_INTERRUPTED
    all_gone(project.folder)
    until_done(project)
    all_well(project, rows_of(4))


def test_a_second_interrupt_leaves_at_once_even_from_a_slow_create(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 2)
    arm(project, "slow-request", route="POST /v1/batches", params={"seconds": 20})
    process = project.start()
    assert watch(process, named("uploaded")) is not None
    eventually(lambda: project.ledger("SELECT id FROM shard WHERE state = 'creating'"), what="the intent")
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    try:
        process.wait(timeout=0.5)
    except Exception:
        process.send_signal(signal.SIGINT)
    done = finish(process)
    assert time.monotonic() - asked < 4
    assert done.code == EXIT_INTERRUPTED
    assert "Traceback" not in done.stderr
    all_gone(project.folder)
    until_done(project)
    all_well(project, rows_of(2))


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """`nohup run ...` and background jobs of a script ignore SIGINT; so does the program then."""
    project = project_of(tmp_path / "p", 2, token="[[local:slow 1]]")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = project.start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert watch(process, named("batch_created")) is not None
    assert end(process, signal.SIGINT).code == 0
    all_well(project, rows_of(2, "[[local:slow 1]]"))


@pytest.mark.parametrize("moment", ["uploaded", "batch_created"])
def test_no_process_is_left_after_a_kill(tmp_path: Path, moment: str) -> None:
    project = project_of(tmp_path / "p", 4, token=SLOW)
    process = project.start()
    assert watch(process, named(moment)) is not None
    assert len(children_of(project.folder)) >= 2
    process.kill()
    process.communicate()
    all_gone(project.folder)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_detached_run_is_collected_by_the_same_command(tmp_path: Path, shards: int) -> None:
    project = project_of(tmp_path / "p", 6, shards=shards, token="[[local:slow 1]]")
    detached = project.run("--detach")
    assert detached.code == EXIT_STILL_RUNNING
    assert detached.event("submitted")["batches"] == shards
    all_gone(project.folder)
    with server_of(project) as server:
        work_off(server)
    done = project.run()
    assert (done.code, done.event("finished")["requests_sent"]) == (0, 0)
    assert done.event("started")["is_resumed"] is True
    assert done.event("started")["run"] == detached.event("started")["run"]
    assert not any(event["event"] == "planned" for event in done.events)
    all_well(project, rows_of(6, "[[local:slow 1]]"))
    assert len(project.witness.creates()) == shards


def test_detaching_twice_buys_once(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, shards=2, token=SLOW)
    assert project.run("--detach").code == EXIT_STILL_RUNNING
    assert project.run("--detach").code in (EXIT_STILL_RUNNING, 0)
    assert len(project.witness.creates()) == 2
    until_done(project)
    all_well(project, rows_of(4, SLOW))


def test_a_short_wait_ends_with_75_and_the_next_run_collects(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 4, token=SLOW)
    done = project.run("--wait", "0.1")
    assert done.code == EXIT_STILL_RUNNING
    assert "same command" in done.stderr
    until_done(project)
    all_well(project, rows_of(4, SLOW))
