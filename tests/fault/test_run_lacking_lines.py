"""A batch that ended without all its lines: what a person is told, and when nothing is waited for."""

from __future__ import annotations

from pathlib import Path

import runner
from runner.commands.moments import Trouble
from runner.ledger import Ledger, locate
from tests.fault.run_hostile_server import Batch, HostileServer, Look
from tests.fault.test_run_hostile_output import ROWS, Notes, all_but_last, done, go, only_first


def lacking(notes: Notes) -> list[str]:
    """What a run told of batches that ended without all their lines."""
    troubles = [one.what for one in notes.moments if isinstance(one, Trouble)]
    return [what for what in troubles if "reading again until" in what]


def test_it_is_told_once_what_is_waited_for_and_until_when(tmp_path: Path) -> None:
    notes = Notes()
    with HostileServer(lambda batch, _: done(all_but_last(batch), status="expired")) as server:
        go(server.project(tmp_path / "p", ROWS, retry={"attempts": 1}), notes)
    (said,) = lacking(notes)
    assert said.startswith(f"batch 0 ended (expired) with {ROWS - 1} of {ROWS} answers; ")


def test_after_our_own_cancel_counts_that_agree_are_not_waited_for(tmp_path: Path) -> None:
    def script(batch: Batch, _look: int) -> Look:
        counts = {"total": ROWS, "completed": ROWS - 1, "failed": 0}
        return done(all_but_last(batch), status="cancelled", request_counts=counts)

    notes = Notes()
    with HostileServer(only_first(script)) as server:
        project = server.project(tmp_path / "p", ROWS)
        provider = project.manifest["model"]["provider"]
        provider["settle_s"] = 3600  # ten minutes between two readings, which this test would not survive
        project.write_manifest()
        assert runner.run(project.manifest_path, detach=True) is None
        with Ledger.open(locate(str(project.manifest_path), {})) as ledger:
            ledger.request_cancel(1)
        assert go(project, notes).exit_code == 0
    assert (len(server.batches), lacking(notes)) == (2, [])
