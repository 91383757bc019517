"""Every reporter survives every moment, and shows it as it should."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from runner.cli.board import Board, requests_of
from runner.cli.json_lines import JsonReporter
from runner.cli.live import LiveReporter
from runner.cli.live_view import FOOTER, MAX_BATCH_LINES, STOPPING, view
from runner.cli.plain import PlainReporter, QuietReporter
from runner.cli.reporting import Screen
from runner.cli.signals import Interrupts
from runner.cli.streams import ReaderLeftError
from runner.cli.summary import Explanation
from runner.commands.moments import BatchCreated, BatchDone, Finished, Moment, RowsRendered, Silent, Trouble
from runner.commands.options import ManifestOptions
from runner.core.wire import decode_json
from runner.errors import RunnerError
from tests.contract.cli_factories import (
    HOSTILE,
    a_run,
    every_kind,
    hostile,
    make_finished,
    make_seen,
    strange_moments,
)

Made = tuple[Screen, Callable[[], str]]


def explained(_finished: Finished) -> Explanation:
    return Explanation(
        manifest=ManifestOptions(path="manifests/triage.yaml", profile="prod"),
        causes=("2 missing_variable: `body` is undefined",),
    )


def yes(_question: str) -> bool:
    return True


def make_plain(kind: type[PlainReporter] = PlainReporter) -> Made:
    lines: list[str] = []
    reporter = kind(yes, write=lines.append, cwd="/project", explain=explained)
    return reporter, lambda: "\n".join(lines)


def make_json() -> Made:
    chunks: list[str] = []
    return JsonReporter(yes, write=chunks.append), lambda: "".join(chunks)


def make_live(*, width: int = 100, height: int = 30) -> Made:
    screen = io.StringIO()
    console = Console(
        file=screen,
        force_terminal=True,
        width=width,
        height=height,
        markup=False,
        emoji=False,
        highlight=False,
        color_system=None,
    )
    reporter = LiveReporter(yes, console=console, cwd="/project", explain=explained)
    return reporter, screen.getvalue


REPORTERS: dict[str, Callable[[], Made]] = {
    "plain": make_plain,
    "quiet": lambda: make_plain(QuietReporter),
    "json": make_json,
    "live": make_live,
    "live in a small window": lambda: make_live(width=20, height=5),
}
reporters = pytest.mark.parametrize("make", REPORTERS.values(), ids=REPORTERS.keys())


def test_the_run_of_the_factory_has_every_kind_of_moment() -> None:
    assert {moment.event for moment in a_run()} == every_kind()


@reporters
def test_a_reporter_survives_every_moment(make: Callable[[], Made]) -> None:
    reporter, shown = make()
    for moment in [*a_run(), *strange_moments(), *a_run()]:
        reporter.tell(moment)
    assert reporter.confirm("Go on?") is True
    reporter.close()
    reporter.close()
    assert "298" in shown() or reporter.__class__ is QuietReporter


@reporters
def test_foreign_text_can_not_steer_the_terminal(make: Callable[[], Made]) -> None:
    reporter, shown = make()
    for moment in a_run():
        reporter.tell(hostile(moment))
    reporter.close()
    text = shown()
    tricks = ["\x1b[2J", "\x1b[31m", "\x07"]
    if not isinstance(reporter, JsonReporter):  # data is exact; JSON itself escapes what terminals obey
        tricks += ["\u202e", "\x9b"]
    for trick in tricks:
        assert trick not in text
    assert "evil" in text
    assert "[bold red]" in text or isinstance(reporter, LiveReporter)


def test_markup_in_foreign_text_is_shown_as_it_is() -> None:
    reporter, shown = make_live(width=200)
    reporter.tell(Trouble(what=HOSTILE))
    reporter.close()
    assert "evil [bold red]markup[/] :smile: desrever next line" in shown()


def test_silent_hears_everything_and_goes_on() -> None:
    silent = Silent()
    for moment in a_run():
        silent.tell(moment)
    assert silent.confirm("?") is True


# ---------------------------------------------------------------- JSON


def test_the_json_stream_is_one_object_per_moment_in_order() -> None:
    reporter, shown = make_json()
    for moment in a_run():
        reporter.tell(moment)
    lines = shown().split("\n")
    assert lines.pop() == ""
    assert [decode_json(line)["event"] for line in lines] == [moment.event for moment in a_run()]


def test_the_finished_event_has_the_keys_of_the_interface() -> None:
    reporter, shown = make_json()
    reporter.tell(make_finished())
    event = decode_json(shown())
    statuses = "succeeded failed truncated refused unaccounted unsendable"
    promised = f"event rows {statuses} requests_sent batches results cost exit_code"
    assert set(promised.split()) <= set(event)
    assert event["results"] == ["/project/results/triage.parquet", "/elsewhere/triage.csv"]


def test_a_reader_of_the_json_stream_may_leave() -> None:
    calls: list[str] = []

    def write(text: str) -> None:
        calls.append(text)
        raise ReaderLeftError

    reporter = JsonReporter(yes, write=write)
    for moment in a_run():
        reporter.tell(moment)
    assert len(calls) == 1


def test_events_that_can_not_be_written_are_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    def write(_text: str) -> None:
        raise RunnerError("can't write to standard output: No space left on device")

    reporter = JsonReporter(yes, write=write)
    for moment in a_run():
        reporter.tell(moment)
    assert capsys.readouterr().err == (
        "warning: can't write to standard output: No space left on device; the work goes on, and the events "
        "from here on are lost\n"
    )


# ---------------------------------------------------------------- plain lines

A_RUN_IN_LINES = """\
triage: run 01234567, m-1 on local
plan      300 rows: 298 new; 2 not sendable
to send   298 requests in 1 file, 142 kB
estimate  about 35,500 tokens in, at most 59,600 out; at most 0.2500 USD
warning   2 rows can't be sent: 2 missing_variable
          row 7, key 'a': `body` is undefined
file 1 uploaded: file_aaa, 298 requests, 142 kB
batch 1 created: batch_aaa, 298 requests
batch 1: in_progress, 0 of 298 completed
batch 1: completed, 297 of 298 completed, 1 failed
batch 1 done: completed
warning: batch 1: the server said 503; again in 30 s
sending 1 request again in 1 file, after 30 s
asking 2 requests again in 1 file, with a larger token limit
warning: file 1: too large for the server, goes on as 2 files (413 Request Entity Too Large)
warning: file 3: a request is too large for the server and was given up (413 Request Entity Too Large)
writing results: 300 of 300 rows
failed    297 succeeded, 1 failed, 2 unsendable; 298 requests sent in 1 batch; 4m 10s
tokens    30,123 in, 4,567 out
cost      0.1234 USD
results   results/triage.parquet
          /elsewhere/triage.csv
causes    2 missing_variable: `body` is undefined
next      run results manifests/triage.yaml --profile prod --where "_status <> 'succeeded'"
submitted: 1 batch on the way; the same command collects the answers"""


def lines_of(moments: list[Moment], kind: type[PlainReporter] = PlainReporter) -> list[str]:
    reporter, shown = make_plain(kind)
    for moment in moments:
        reporter.tell(moment)
    return shown().split("\n") if shown() else []


def test_a_run_in_plain_lines() -> None:
    assert lines_of(a_run()) == A_RUN_IN_LINES.split("\n")


def test_an_unchanged_batch_is_not_told_again() -> None:
    assert len(lines_of([make_seen(), make_seen(), make_seen()])) == 1


def test_a_batch_gets_a_line_for_every_tenth() -> None:
    lines = lines_of([make_seen(requests=1_000, completed=done) for done in range(1_001)])
    assert len(lines) == 11
    assert lines[-1] == "batch 1: in_progress, 1,000 of 1,000 completed"


def test_the_first_failed_request_is_told_at_once() -> None:
    lines = lines_of([make_seen(), make_seen(failed=1), make_seen(failed=2)])
    assert lines[1:] == ["batch 1: in_progress, 0 of 298 completed, 1 failed"]


def test_the_same_trouble_is_told_once() -> None:
    trouble = Trouble(what="the server said 503")
    assert lines_of([trouble, trouble]) == ["warning: the server said 503"]


def test_rendering_is_told_only_where_it_takes_long() -> None:
    assert lines_of([RowsRendered(rows=rows, total=5_000) for rows in range(0, 5_001, 500)]) == []
    lines = lines_of([RowsRendered(rows=rows, total=1_000_000) for rows in range(0, 1_000_001, 2_000)])
    assert len(lines) == 10


def test_quiet_says_nothing_of_a_success_and_the_end_of_a_failure() -> None:
    done = make_finished(succeeded=300, failed=0, unsendable=0, exit_code=0)
    assert lines_of([*a_run()[:10], done], QuietReporter) == []
    assert lines_of([make_finished()], QuietReporter)[0].startswith("failed    297 succeeded, 1 failed")


def test_a_full_success_has_no_next_step() -> None:
    done = make_finished(succeeded=300, failed=0, unsendable=0, exit_code=0, cost=None, results=())
    first, *others = lines_of([done])
    assert first == "done      300 succeeded; 298 requests sent in 1 batch; 4m 10s"
    assert not any(
        line.startswith(("next", "causes", "cost")) for line in [first, *others] if "missing" not in line
    )


def test_a_run_that_was_refused_leaves_the_next_step_to_its_error() -> None:
    lines = lines_of([make_finished(succeeded=290, failed=0, unsendable=0, pending=10, exit_code=4)])
    assert not any(line.startswith("next") for line in lines)


def test_pending_rows_ask_for_the_same_command() -> None:
    lines = lines_of([make_finished(succeeded=290, failed=0, unsendable=0, pending=10, exit_code=75)])
    assert lines[0].startswith("pending   290 succeeded, 10 pending")
    assert lines[-1] == "next      run manifests/triage.yaml --profile prod"


# ---------------------------------------------------------------- the live display


def drawn(board: Board, **options: Any) -> str:
    width, height = options.pop("width", 100), options.pop("height", 30)
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    settings = {"now_s": 1_799_990_000.0, "elapsed_s": 61.0, "width": width, "height": height} | options
    with console.capture() as capture:
        console.print(view(board, **settings))
    return capture.get()


def board_of(moments: list[Moment]) -> Board:
    board = Board()
    for moment in moments:
        board.take(moment)
    return board


def test_a_batch_line_says_what_is_done_and_what_time_is_left() -> None:
    text = drawn(board_of([make_seen(completed=149, failed=3)]))
    assert re.search(r"1  batch_aaa  in_progress  152/298  .*2h 46m left  3 failed", text)
    assert f"1m 01s     {FOOTER}" in text


def test_the_display_says_that_it_is_stopping() -> None:
    assert STOPPING in drawn(Board(), is_stopping=True)


def test_many_batches_fit_the_window_and_the_rest_is_summed() -> None:
    board = board_of([make_seen(slot=slot, batch_id=f"batch_{slot}", completed=100) for slot in range(1, 61)])
    lines = drawn(board, height=50).rstrip().split("\n")
    assert sum("batch_" in line for line in lines) == MAX_BATCH_LINES - 1
    assert any("and 49 more: 49 in_progress; 4,900 of 14,602" in line for line in lines)
    assert len(drawn(board, width=80, height=16).rstrip().split("\n")) <= 16


def test_open_batches_are_shown_before_finished_ones() -> None:
    moments: list[Moment] = [make_seen(slot=slot, batch_id=f"batch_{slot:03}") for slot in range(1, 41)]
    moments += [BatchDone(slot=slot, batch_id="", status="completed") for slot in range(1, 31)]
    text = drawn(board_of(moments))
    assert all(f"batch_{slot:03}" in text for slot in range(31, 41))


def test_stored_answers_count_where_the_server_counts_less() -> None:
    board = board_of([moment for moment in a_run() if not isinstance(moment, BatchDone)][:8])
    assert requests_of(board.batches.values()) == (0, 0, 298)
    board = board_of(a_run()[:9])
    assert requests_of(board.batches.values()) == (297, 0, 298)


def test_a_found_batch_is_told_on_the_live_display() -> None:
    reporter, shown = make_live()
    reporter.tell(BatchCreated(slot=2, batch_id="batch_x", requests=5, is_adopted=True))
    reporter.close()
    assert "found      batch 2 on the server: batch_x" in shown()


def test_the_cursor_is_given_back_when_the_display_closes() -> None:
    reporter, shown = make_live()
    reporter.tell(a_run()[0])
    assert "\x1b[?25l" in shown()
    reporter.close()
    assert shown().rindex("\x1b[?25h") > shown().rindex("\x1b[?25l")


def test_the_region_steps_aside_for_a_question() -> None:
    asked: list[bool] = []
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=20)

    def ask(_question: str) -> bool:
        asked.append(screen.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in screen.getvalue()[-40:])
        return False

    reporter = LiveReporter(ask, console=console, interrupts=Interrupts())
    reporter.tell(a_run()[0])
    assert reporter.confirm("Send?") is False
    reporter.close()
    assert asked == [True]


def screen_after(output: str) -> list[str]:
    """What a terminal of endless height shows: just enough of one for cursor up, erase line and newline."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A") and part.startswith("\x1b"):
            row = max(row - int(part[2:-1] or 1), 0)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


def test_lines_that_stay_are_never_painted_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.cli.live.REFRESH_S", 0.0001)
    reporter, shown = make_live(height=60)
    for number in range(400):
        # The region grows and shrinks between prints while the painter is as busy as it can be.
        reporter.tell(make_seen(slot=number % 7, status="in_progress"))
        reporter.tell(RowsRendered(rows=number, total=400))
        reporter.tell(Trouble(what=f"stays {number}"))
        if number % 7 == 6:
            reporter.tell(a_run()[0])
    reporter.close()
    stayed = [line for line in screen_after(shown()) if line.startswith("warning")]
    assert stayed == [f"warning    stays {number}" for number in range(400)]
    assert screen_after(shown())[-1] == ""
