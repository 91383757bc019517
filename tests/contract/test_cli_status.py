"""Status and plan as text: pinned, aligned, the same facts with colour and without."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from typing import Any

from rich.console import Console

from runner.cli.plan_text import plan_text, validate_text
from runner.cli.status_text import MOST_BATCHES, is_over, section, status_text
from runner.cli.watching import drawn
from runner.commands.options import ManifestOptions, Narrowing, RunOptions, run_line
from runner.commands.status import BatchStatus, ManifestStatus
from runner.commands.validate import ValidateResult
from runner.core.planning import Reason
from runner.errors import Mistake
from tests.contract.cli_factories import HOSTILE, make_plan


def make_batch(**changes: Any) -> BatchStatus:
    """Batch 1, under way."""
    batch = BatchStatus(
        slot=1,
        batch_id="batch_aaa",
        state="submitted",
        status="in_progress",
        requests=50_000,
        completed=1_200,
        failed=3,
        expires_at="2026-11-25T10:04:00.000Z",
        input_file_id="file_in",
        output_file_id=None,
        error_file_id=None,
        problem=None,
    )
    return replace(batch, **changes)


def make_status(*batches: BatchStatus, **changes: Any) -> ManifestStatus:
    """A detached run of `triage`."""
    one = ManifestStatus(
        manifest="manifests/triage.yaml",
        name="triage",
        run="0123456789abcdef",
        state="detached",
        started_at="2026-11-24T10:04:00.000Z",
        finished_at="2026-11-24T10:08:10.000Z",
        by_status={"pending": 48_000, "succeeded": 2_000},
        batches=batches,
    )
    return replace(one, **changes)


STATUS = """\
triage  manifests/triage.yaml
  run      01234567, detached, began 2026-11-24 10:04 UTC, took 4m 10s
  rows     2,000 succeeded, 48,000 pending
  #  batch      state      status         completed  failed  ends (UTC)
  1  batch_aaa  submitted  in_progress  1,200/50,000       3  11-25 10:04
  2  -          held       -                    -/10       -
  batch 2: the reply was lost
  next: `run manifests/triage.yaml` collects what is there
"""


def test_status_in_a_pipe() -> None:
    held = make_batch(
        slot=2,
        batch_id=None,
        state="held",
        status="",
        requests=10,
        completed=None,
        failed=None,
        problem="the reply was lost",
    )
    lines = status_text([make_status(make_batch(), held)]).split("\n")
    assert [line.split() for line in lines] == [line.split() for line in STATUS.split("\n")]
    heads = lines[3]
    assert lines[4].index("in_progress") == heads.index("status")
    assert lines[4].index("1,200/50,000") + len("1,200/50,000") == heads.index("completed") + len("completed")


def test_status_with_colour_says_the_same() -> None:
    found = [make_status(make_batch()), make_status(make_batch(state="done", status="completed"))]
    console = Console(file=io.StringIO(), width=120, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(drawn(found, 120))
    assert capture.get().split() == status_text(found).split()


def test_only_the_id_gives_way_to_a_narrow_window() -> None:
    found = [make_status(make_batch(batch_id="batch_" + "a" * 40))]
    console = Console(file=io.StringIO(), width=80, color_system=None)
    with console.capture() as capture:
        console.print(drawn(found, 80))
    [line] = [line for line in capture.get().split("\n") if "batch_a" in line]
    assert line.split()[0] == "1"
    assert line.split()[-2:] == ["11-25", "10:04"]
    assert "…" in line


def test_many_finished_batches_are_summed() -> None:
    done = [make_batch(slot=slot, state="done", status="completed", requests=10) for slot in range(30)]
    shown = section(make_status(*done))
    assert len(shown.batches) == MOST_BATCHES
    assert ("others", f"{30 - MOST_BATCHES} batches, {10 * (30 - MOST_BATCHES)} requests") in shown.facts
    assert [cells[0] for cells in section(make_status(*done, make_batch(slot=99))).batches] == ["99"]


def test_of_a_collected_batch_only_the_last_word_of_the_server_is_shown() -> None:
    early = make_batch(state="done", requests=7, completed=4, failed=0)
    ended = make_batch(slot=2, state="done", status="completed", requests=7, completed=7, failed=0)
    shown = section(make_status(early, ended)).batches
    assert [cells[3:6] for cells in shown] == [("-", "-/7", "-"), ("completed", "7/7", "0")]


def test_what_was_never_bought_is_sent_and_not_collected() -> None:
    waiting = make_batch(batch_id=None, state="ready", status="", completed=None, failed=None)
    assert "next: `run manifests/triage.yaml` sends what is left" in status_text([make_status(waiting)])


def test_watching_ends_when_nothing_is_under_way() -> None:
    over = make_status(make_batch(state="done"), state="finished")
    assert is_over([])
    assert is_over([over])
    assert not is_over([over, make_status(make_batch())])
    assert not is_over([make_status(state="running")])


def test_foreign_text_in_a_status_is_cleaned() -> None:
    batch = make_batch(batch_id=HOSTILE, status=HOSTILE, problem=HOSTILE)
    text = status_text([make_status(batch, name=HOSTILE, manifest=HOSTILE, run=HOSTILE, state=HOSTILE)])
    assert "evil" in text
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(text)


PLAN = """\
m.yaml: 300 rows
  unchanged     100
  changed       198
  removed         1
  of these:
    not sendable    2
  because       prompt.template changed (abcdefab00 to 1234567800): 198 rows
  to send       198 requests in 1 file, 142 kB
  estimate      about 35,500 tokens in, at most 59,600 out; at most 0.2500 USD
                (input: body bytes / 4)
  warning   2 rows can't be sent: 2 missing_variable
            row 7, key 'a': `body` is undefined
next: run 'm y.yaml'"""


def test_a_plan_as_text() -> None:
    reason = Reason(what="prompt.template", was="abcdefab00", now="1234567800", rows=198)
    plan = make_plan(new=0, unchanged=100, changed=198, removed=1, requests_to_send=198, reasons=(reason,))
    lines = plan_text(
        plan, ("row 7, key 'a': `body` is undefined",), path="m y.yaml", command="run 'm y.yaml'"
    )
    assert "\n".join(["m.yaml: 300 rows", *lines[1:]]) == PLAN
    assert lines[0] == "m y.yaml: 300 rows"


def test_a_plan_without_work_says_so() -> None:
    plan = make_plan(new=0, unchanged=300, requests_to_send=0, shards=0, unsendable=0, causes={})
    assert plan_text(plan, (), path="m.yaml", command="run m.yaml") == [
        "m.yaml: 300 rows",
        "  unchanged     300",
        "  to send       nothing",
        "nothing to do",
    ]


def test_a_valid_manifest_as_text() -> None:
    found = ValidateResult(
        manifest="m",
        rows=8,
        columns=tuple((f"column_{number}", "VARCHAR") for number in range(10)),
        messages=2,
        warnings=(Mistake(where="t.j2:1:4", what="`tone` is never used"),),
    )
    lines = validate_text(found, "m.yaml")
    assert lines[0] == "m.yaml: valid"
    assert lines[2].endswith("column_7 VARCHAR, and 2 more")
    assert lines[-1] == "  warning: t.j2:1:4: `tone` is never used"


def test_the_line_of_a_run_is_bent_and_narrowed_as_the_run_is() -> None:
    manifest = ManifestOptions(path="m y.yaml", set_values=("params.tone=very formal",), profile="prod")
    narrowing = Narrowing(only="failed", where="lang = 'de'", sample=9, seed=3, limit=2)
    line = run_line(RunOptions(manifest=manifest, narrowing=narrowing, refresh=True))
    assert shlex.split(line) == [
        *("run", "m y.yaml", "--set", "params.tone=very formal", "--profile", "prod", "--refresh"),
        *("--only", "failed", "--where", "lang = 'de'", "--sample", "9", "--seed", "3", "--limit", "2"),
    ]
    assert run_line(RunOptions(manifest=ManifestOptions(path="m.yaml"))) == "run m.yaml"
