"""`run cancel` beside what is in doubt, held, or still being sent: nothing more is bought."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.ledger import hold, locate
from tests.fault.run_factories import EXIT_FAILED_ROWS, EXIT_STILL_RUNNING, complete, project_of, rows_of
from tests.fault.run_hostile_server import (
    Batch,
    HostileServer,
    Look,
    Reply,
    Script,
    answer,
    failure,
    good,
    lines,
    well,
)
from tests.localserver_process import eventually
from tests.project_factory import Done, Project, finish

ALL_IDLE = {"request_counts": {"total": 4, "completed": 0, "failed": 0}}
ONE_DONE = {"request_counts": {"total": 4, "completed": 1, "failed": 0}}


class StoppableServer(HostileServer):
    """Batches can be told to stop; what that does is the script's affair. The first so many times it knows no
    such batch."""

    def __init__(
        self,
        script: Script = well,
        *,
        loses_first: bool = False,
        refusals: int = 0,
        uploaded: Callable[[int], Reply | None] = lambda number: None,
    ) -> None:
        super().__init__(script, created=lambda batch: self._reply(batch, loses_first), uploaded=uploaded)
        self.cancelled: list[str] = []
        self.refusals = refusals

    def _reply(self, batch: Batch, loses_first: bool) -> tuple[int, bytes] | None:
        return (502, b"<html>bad gateway</html>") if loses_first and batch.number == 1 else None

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if method == "POST" and target.endswith("/cancel"):
            if self.refusals:
                self.refusals -= 1
                return 404, b'{"error":{"message":"no such batch"}}'
            self.cancelled.append(target.split("/")[-2])
            return 200, json.dumps({"id": self.cancelled[-1], "status": "cancelling"}).encode()
        return super().answer(method, target, body)


def cut_short(batch: Batch, answered: int = 0) -> Look:
    """Told to stop: the first ones are answered, the rest never ran."""
    rest = [failure(one, code="batch_cancelled", message="cancelled") for one in batch.requests[answered:]]
    counts = {"total": len(batch.requests), "completed": answered, "failed": len(rest)}
    return Look(
        output=lines(*map(answer, batch.requests[:answered])) if answered else None,
        error=lines(*rest),
        fields={"status": "cancelled", "request_counts": counts},
    )


def cancel(project: Project) -> Done:
    return project.call("cancel", str(project.manifest_path), "--yes")


def test_a_batch_whose_create_was_in_doubt_is_stopped_once_it_is_found(tmp_path: Path) -> None:
    with StoppableServer(loses_first=True) as server:
        project = server.project(tmp_path / "p", 4)
        project.environ["RUNNER_FAILPOINT"] = "create.unknown_recorded"
        assert project.run().code == -9
        del project.environ["RUNNER_FAILPOINT"]
        told = cancel(project)
        assert told.code == 0, told.stderr
        assert "1 file that may be on the way" in told.stdout + told.stderr
        assert project.run().code == 0
        assert server.cancelled == ["batch-1"]
        assert len(server.batches) == 1
        complete(project, rows_of(4))


def state_shown(project: Project) -> str:
    """What `run status` says of the run, between its id and its begin."""
    (line,) = [one for one in project.call("status").stdout.split("\n") if one.startswith("  run ")]
    return line.partition(", ")[2].partition(", began")[0]


def test_the_status_says_that_a_run_was_cancelled_until_it_is_asked_for_again(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        return cut_short(batch) if batch.number == 1 else Look(output=good(batch))

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert state_shown(project) == "detached"
        assert cancel(project).code == 0
        assert state_shown(project) == "detached, cancelled"
        (shown,) = json.loads(project.call("status", "--json").stdout)["manifests"]
        assert shown["is_cancelled"] is True
        assert project.run().code == 0, "asked for again, it asks the rest"
        assert state_shown(project) == "finished"
        assert cancel(project).code == 0, "nothing is under way any more"
        assert state_shown(project) == "finished"


def test_a_run_of_some_rows_asks_nothing_again_of_the_others_that_were_cancelled(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        if batch.number > 1:
            return Look(output=good(batch))
        is_stopped = batch.id in server.cancelled
        return Look(fields={"status": "cancelled" if is_stopped else "in_progress", **ALL_IDLE})

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert cancel(project).code == 0
        assert project.run("--limit", "1").code == EXIT_FAILED_ROWS, "what it waited for was cancelled"
        assert [len(batch.requests) for batch in server.batches] == [4]
        project.run("--limit", "1")
        assert [len(batch.requests) for batch in server.batches] == [4, 1]
        assert project.run().code == 0
        assert [len(batch.requests) for batch in server.batches] == [4, 1, 3]
        complete(project, rows_of(4))


def test_the_same_command_repeats_what_failed_of_the_rows_that_it_chose(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        if batch.number > 1:
            return Look(output=good(batch))
        return Look(error=lines(*map(failure, batch.requests)))

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--limit", "2", "--detach").code == EXIT_STILL_RUNNING
        assert project.run("--limit", "2").code == 0
        assert [len(batch.requests) for batch in server.batches] == [2, 2]


def test_a_run_that_is_still_sending_sends_nothing_after_a_cancel(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        is_stopped = batch.id in server.cancelled
        return Look(fields={"status": "cancelled" if is_stopped else "in_progress", **ALL_IDLE})

    with StoppableServer(script) as server:
        batch = {"max_requests_per_file": 1, "max_open_batches": 1}
        project = server.project(tmp_path / "p", 4, batch=batch)
        process: subprocess.Popen[str] = project.start()
        eventually(lambda: server.batches and server.batches[0].looks > 1, what="a look at the first batch")
        told = cancel(project)
        assert told.code == 0, told.stderr
        assert "Traceback" not in finish(process).stderr
        assert server.cancelled == ["batch-1"]
        assert len(server.batches) == 1, "nothing was bought after the cancel"
        states = project.ledger("SELECT state FROM shard ORDER BY slot")
        assert states == [("done",), *[("discarded",)] * 3]
        assert project.ledger("SELECT count(*) FROM request WHERE open_shard_id IS NOT NULL") == [(0,)]


def test_a_file_that_is_too_large_goes_on_as_nothing_after_a_cancel(tmp_path: Path) -> None:
    """Its smaller parts would know nothing of the wish."""
    told: list[Done] = []

    def refused(_number: int) -> tuple[int, bytes]:
        told.append(cancel(project))
        return 413, b'{"error":{"message":"too large"}}'

    with HostileServer(uploaded=refused) as server:
        project = server.project(tmp_path / "p", 4)
        done = project.run()
        assert "Traceback" not in done.stderr
        assert [one.code for one in told] == [0]
        assert server.batches == []
        assert project.ledger("SELECT state FROM shard") == [("discarded",)]


def test_the_batch_of_a_held_shard_is_stopped_too(tmp_path: Path) -> None:
    """It seemed to be gone, because another account's key looked for it."""
    with StoppableServer(
        lambda batch, look: Look(reply=(404, b"{}")) if is_lost else well(batch, look)
    ) as server:
        is_lost = True
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == 4
        assert project.ledger("SELECT state FROM shard") == [("held",)]
        is_lost = False
        told = cancel(project)
        assert (told.code, server.cancelled) == (0, ["batch-1"]), told.stderr
        assert "nothing is under way" not in told.stdout + told.stderr
        assert project.run().code == 0
        assert len(server.batches) == 1


def test_a_shard_that_may_have_a_batch_is_named_and_no_success(tmp_path: Path) -> None:
    with StoppableServer(loses_first=True) as server:
        server.listed = lambda batches, query: {"object": "list", "data": [], "has_more": False}
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == 4
        assert project.ledger("SELECT state FROM shard") == [("held",)]
        told = cancel(project)
        assert told.code == 4
        assert "whether a batch was made of it is unknown" in told.stdout + told.stderr
        assert "run resolve" in told.stdout + told.stderr
        server.listed = None  # now it is found all the same
        assert project.run().code == 0
        assert server.cancelled == ["batch-1"]


def test_a_batch_that_was_stopped_before_it_had_a_line_does_not_hold_its_rows_for_ever(
    tmp_path: Path,
) -> None:
    def script(batch: Batch, _look: int) -> Look:
        is_stopped = batch.id in server.cancelled
        return Look(fields={"status": "cancelling", **ALL_IDLE}) if is_stopped else Look(output=good(batch))

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert cancel(project).code == 0
        codes = [project.run("--wait", "60s").code for _ in range(2)]
        assert codes[-1] == 0
        assert [batch.id for batch in server.batches] == ["batch-1", "batch-2"]
        complete(project, rows_of(4))


def test_a_cancel_leaves_the_batches_of_other_manifests_and_names_them(tmp_path: Path) -> None:
    def script(batch: Batch, look: int) -> Look:
        return well(batch, look) if is_over else Look(fields={"status": "in_progress", **ALL_IDLE})

    is_over = False
    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        sections = {"name": "small", "dataset": {"path": "few.csv", "key": "id"}}
        small = {**project.manifest, **sections, "output": {"path": "few.jsonl"}}
        (project.folder / "small.yaml").write_text(yaml.safe_dump(small))
        first_two = (project.folder / "rows.csv").read_text().splitlines()[:2]
        (project.folder / "few.csv").write_text("\n".join(first_two) + "\n")
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert project.call("run", "small.yaml", "--detach").code == EXIT_STILL_RUNNING
        told = project.call("cancel", "small.yaml", "--yes")
        assert (told.code, server.cancelled) == (0, [])
        assert "left        batch-1" in told.stderr
        assert "`run cancel manifest.yaml` stops it" in told.stderr
        is_over = True
        assert project.call("run", "small.yaml").code == 0
        assert project.run().code == 0
        complete(project, rows_of(4))
        assert len(server.batches) == 1


# ---------------------------------------------------------------- a server that does not stop it at once


def until_stopped(server: StoppableServer) -> Script:
    """The first batch goes on until it was told to stop, or a hundred looks are over; the others end."""

    def script(batch: Batch, look: int) -> Look:
        if batch.id in server.cancelled:
            return cut_short(batch)
        is_going_on = batch.number == 1 and look < 100
        return Look(fields={"status": "in_progress", **ALL_IDLE}) if is_going_on else well(batch, look)

    return script


@pytest.mark.parametrize("point", ["", "adopt.recorded"])
def test_a_batch_that_is_found_later_is_told_to_stop_until_it_was_heard(tmp_path: Path, point: str) -> None:
    with StoppableServer(loses_first=True, refusals=0 if point else 1) as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4)
        project.environ["RUNNER_FAILPOINT"] = "create.unknown_recorded"
        assert project.run().code == -9
        assert cancel(project).code == 0
        project.environ["RUNNER_FAILPOINT"] = point
        assert project.run().code == (-9 if point else 0)
        del project.environ["RUNNER_FAILPOINT"]
        assert project.run().code == 0
        assert (server.cancelled, server.refusals) == (["batch-1"], 0)


def test_a_run_tells_a_batch_to_stop_where_the_cancel_beside_it_was_refused(tmp_path: Path) -> None:
    with StoppableServer() as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4)
        process = project.start()
        eventually(lambda: server.batches and server.batches[0].looks > 1, what="a look at the batch")
        server.refusals = 2
        assert cancel(project).code == 4
        assert finish(process).code == EXIT_FAILED_ROWS
        assert (server.cancelled, server.refusals) == (["batch-1"], 0)
        assert len(server.batches) == 1


def test_a_schedules_look_tells_it_to_stop_and_asks_nothing_again(tmp_path: Path) -> None:
    with StoppableServer() as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4, schedule={"cron": "0 0 1 1 *"})
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        server.refusals = 1
        assert cancel(project).code == 4
        for _ in range(3):
            assert project.call("schedule", "tick", str(project.manifest_path)).code in (0, EXIT_FAILED_ROWS)
        assert server.cancelled == ["batch-1"]
        assert len(server.batches) == 1
        assert [row["_status"] for row in project.results()] == ["cancelled"] * 4


def test_a_run_that_only_submits_stops_what_was_cancelled_meanwhile(tmp_path: Path) -> None:
    """The cancel comes while the batch is being made, and no later run may come for hours."""

    class Server(StoppableServer):
        def answer(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
            if (method, target) == ("POST", "/v1/batches"):
                told.append(cancel(project))
            return super().answer(method, target, body)

    told: list[Done] = []
    with Server(refusals=1) as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4)
        project.run("--detach")
        assert [one.code for one in told] == [0]
        assert server.cancelled == ["batch-1"]
        assert len(server.batches) == 1


def test_a_run_that_only_submits_leaves_a_batch_that_no_server_stops(tmp_path: Path) -> None:
    with StoppableServer(refusals=1_000) as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert cancel(project).code == 4
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert 0 < server.batches[0].looks < 10
        assert project.ledger("SELECT state FROM shard") == [("submitted",)], "a 404 to that is no proof"


def test_what_an_edit_cancelled_is_told_to_stop_until_it_was_heard(tmp_path: Path) -> None:
    with StoppableServer(refusals=1) as server:
        server.script = until_stopped(server)
        project = server.project(tmp_path / "p", 4, on_edit="cancel")
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        project.write_template("{% block user %}other {{ text }}{% endblock %}")
        project.run("--detach")
        assert server.cancelled == ["batch-1"]


# ---------------------------------------------------------------- what a run would send once more


def test_a_failure_is_not_sent_again_after_a_cancel(tmp_path: Path) -> None:
    """Its second file was about to be sent; the first, which holds the same line, was never cancelled."""

    def script(batch: Batch, _look: int) -> Look:
        first, *others = batch.requests
        is_failed = batch.number == 1
        return Look(output=lines(failure(first) if is_failed else answer(first), *map(answer, others)))

    def uploaded(number: int) -> None:
        if number == 2:
            told.append(cancel(project))

    told: list[Done] = []
    with StoppableServer(script, uploaded=uploaded) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == EXIT_FAILED_ROWS
        assert [one.code for one in told] == [0]
        assert len(server.batches) == 1
        assert project.ledger("SELECT state FROM shard ORDER BY slot") == [("done",), ("discarded",)]
        assert project.run().code == 0
        assert [len(batch.requests) for batch in server.batches] == [4, 1], "the next run asks it"
        complete(project, rows_of(4))


def test_a_refresh_that_failed_is_not_asked_a_third_time_after_a_cancel(tmp_path: Path) -> None:
    """The answer of before is kept, so that the last failure stands in a file that nobody cancelled."""

    def script(batch: Batch, _look: int) -> Look:
        if batch.number == 2:
            return Look(output=lines(*map(failure, batch.requests)))
        if batch.number == 3 and batch.id not in server.cancelled:
            return Look(fields={"status": "in_progress", **ALL_IDLE})
        return cut_short(batch) if batch.number == 3 else Look(output=good(batch))

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run().code == 0
        process = project.start("--refresh")
        eventually(lambda: len(server.batches) == 3 and server.batches[2].looks > 0, what="the third batch")
        assert cancel(project).code == 0
        assert "Traceback" not in finish(process).stderr
        assert len(server.batches) == 3
        complete(project, rows_of(4))


def test_what_was_cut_stays_so_after_a_cancel(tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        line = answer(request)
        reason = "length" if request["body"]["max_tokens"] <= 100 else "stop"
        line["response"]["body"]["choices"][0]["finish_reason"] = reason
        return line

    def uploaded(number: int) -> None:
        if number == 2:
            told.append(cancel(project))

    def script(batch: Batch, _look: int) -> Look:
        return Look(output=lines(*map(reply, batch.requests)))

    told: list[Done] = []
    with StoppableServer(script, uploaded=uploaded) as server:
        project = server.project(tmp_path / "p", 2, on_truncated={"max_tokens_factor": 4, "ceiling": 1000})
        project.manifest["model"]["parameters"] = {"max_tokens": 100}
        project.write_manifest()
        assert project.run().code == EXIT_FAILED_ROWS
        assert [one.code for one in told] == [0]
        assert len(server.batches) == 1
        assert [row["_status"] for row in project.results()] == ["truncated"] * 2, "paid for, so shown"
        assert project.run().code == 0
        assert len(server.batches) == 2


def test_a_cancel_says_that_it_reached_a_run_that_has_nothing_under_way(tmp_path: Path) -> None:
    project = project_of(tmp_path / "p", 1)
    assert project.run().code == 0
    assert "nothing is under way" in cancel(project).stderr
    with hold(locate(str(project.manifest_path), {}).manifest_lock("manifest.yaml")):
        assert "sends nothing more" in cancel(project).stderr


# ---------------------------------------------------------------- before and after a run was asked for


def test_a_second_cancel_counts_too(tmp_path: Path) -> None:
    """Who cancels, runs it again and cancels that as well wants nothing more of the same batch either."""
    has_ended = threading.Event()

    def script(batch: Batch, _look: int) -> Look:
        if has_ended.is_set():
            return cut_short(batch, answered=1)
        return Look(fields={"status": "cancelling" if server.cancelled else "in_progress", **ONE_DONE})

    with StoppableServer(script) as server:
        project = server.project(tmp_path / "p", 4)
        assert project.run("--detach").code == EXIT_STILL_RUNNING
        assert cancel(project).code == 0
        process = project.start()
        eventually(lambda: server.batches[0].looks > 1, what="a look at the batch")
        assert cancel(project).code == 0
        has_ended.set()
        assert finish(process).code == EXIT_FAILED_ROWS
        assert len(server.batches) == 1
        assert [row["_status"] for row in project.results()] == ["succeeded", *["cancelled"] * 3]


def test_a_cancel_counts_whatever_the_clock_said_when_the_run_began(tmp_path: Path) -> None:
    an_hour_ahead = (
        "import functools, time\n"
        "from runner.commands import run as room\n"
        "room.SteadyClock = functools.partial(room.SteadyClock, wall=lambda: time.time() + 3600)"
    )

    def script(batch: Batch, _look: int) -> Look:
        return cut_short(batch) if server.cancelled else Look(fields={"status": "in_progress", **ALL_IDLE})

    with StoppableServer(script) as server:
        project, ended = server.project(tmp_path / "p", 4), list[Done]()
        running = threading.Thread(target=lambda: ended.append(project.run_changed(an_hour_ahead)))
        running.start()
        eventually(lambda: server.batches and server.batches[0].looks > 1, what="a look at the batch")
        assert cancel(project).code == 0
        running.join()
        assert [one.code for one in ended] == [EXIT_FAILED_ROWS], ended
        assert len(server.batches) == 1
