"""A batch that ended without all its lines: what a person is told, and when nothing is waited for."""

from __future__ import annotations

from pathlib import Path

from runner.commands.moments import Trouble
from tests.fault.run_hostile_server import Batch, HostileServer, Look, good
from tests.fault.test_run_hostile_output import ROWS, Notes, all_but_last, done, go


def lacking(notes: Notes) -> list[str]:
    """What a run told of batches that ended without all their lines."""
    troubles = [one.what for one in notes.moments if isinstance(one, Trouble)]
    return [what for what in troubles if "reading again until" in what]


def test_it_is_told_once_what_is_waited_for_and_until_when(tmp_path: Path) -> None:
    notes = Notes()
    with HostileServer(lambda batch, _: done(all_but_last(batch), status="expired")) as server:
        go(server.project(tmp_path / "p", ROWS, retry={"attempts": 1}), notes)
    (said,) = lacking(notes)
    assert said.startswith(f"the batch ended (expired) with {ROWS - 1} of {ROWS} answers; ")


def test_after_a_cancel_counts_that_agree_end_nothing(tmp_path: Path) -> None:
    """What was in flight may be answered after the batch says `cancelled` and was read in full twice."""

    def script(batch: Batch, look: int) -> Look:
        if look > 2:
            return done(good(batch), status="cancelled")
        counts = {"total": ROWS, "completed": ROWS - 1, "failed": 0}
        return done(all_but_last(batch), status="cancelled", request_counts=counts)

    notes = Notes()
    with HostileServer(script) as server:
        assert go(server.project(tmp_path / "p", ROWS), notes).exit_code == 0
    (said,) = lacking(notes)
    assert said.startswith(f"the batch ended (cancelled) with {ROWS - 1} of {ROWS} answers; ")
    assert len(server.batches) == 1
