"""How the live display looks: a board and the time become a few lines that fit the terminal.

    ticket-triage  Qwen/Qwen3.5-9B on doubleword, run 3
    uploaded   3 of 6 files                  ━━━━━━━━━━━━╺━━━━━━━━━━━  412 MB of 1.1 GB
    answered   81,203 of 300,000 requests    ━━━━━━╺━━━━━━━━━━━━━━━━━  27 %  3 failed
      1  batch_6f1c2a4…  in_progress  41,200/50,000  ━━━━━━━━━━━━━╺━━━   23h 41m left  3 failed
      and 5 more: 3 in_progress, 2 completed; 130,000 of 250,000
    4m 12s   Ctrl-C leaves the remote work running

Everything from outside is a `Text`, never markup, and was cleaned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runner.cli.board import BatchEntry, Board, requests_of
from runner.cli.summary import Line, Tone, short_run
from runner.cli.texts import clean, counted, size, span, time_left
from runner.commands.moments import Started

MAX_BATCH_LINES = 12
OTHER_LINES = 9
BAR_WIDTH, NARROW_BAR_WIDTH = 24, 8
WIDE, NARROW = 120, 96
"""From WIDE columns on a batch's whole id is shown; below NARROW everything shrinks."""
LABEL = 10

_STATUS_STYLES = {
    "created": "dim",
    "validating": "dim cyan",
    "in_progress": "cyan",
    "finalizing": "blue",
    "completed": "green",
    "failed": "red",
    "expired": "red",
    "cancelling": "yellow",
    "cancelled": "yellow",
}
FOOTER = "Ctrl-C leaves the remote work running"
STOPPING = "stopping in order; Ctrl-C again leaves at once"


def view(
    board: Board, *, now_s: float, elapsed_s: float, width: int, height: int, is_stopping: bool = False
) -> RenderableType:
    """The whole live region. `now_s` is Unix time, for the time left of windows."""
    parts: list[RenderableType] = []
    totals = _totals(board, width)
    if totals.row_count:
        parts += [Text(""), totals]
    if board.batches:
        most = max(1, min(MAX_BATCH_LINES, height - OTHER_LINES))
        parts.append(_batches(board, most, now_s, width))
    foot = Text(
        f"{span(int(elapsed_s)) if elapsed_s >= 10 else f'{int(elapsed_s)} s':<{LABEL}} ", style="bold"
    )
    foot.append(STOPPING if is_stopping else FOOTER, style="yellow" if is_stopping else "dim")
    parts.append(foot)
    return Group(*parts)


def header(started: Started) -> Text:
    """The run's first line."""
    line = Text(clean(started.manifest), style="bold")
    line.append(
        f"  {clean(started.model)} on {clean(started.provider)}, run {short_run(started.run)}", style="dim"
    )
    return line.append(", goes on with earlier work", style="dim") if started.is_resumed else line


def labelled(line: Line) -> RenderableType:
    """A summary line with its tone. Prose wraps below itself; commands and paths stay in one piece."""
    style = "bold" if line.tone in (Tone.PLAIN, Tone.DIM) else f"bold {line.tone}"
    label, text = Text(line.label, style=style), Text(line.text, style=str(line.tone))
    if line.tone in (Tone.PLAIN, Tone.NEXT):
        return label.append(" " * (LABEL + 1 - len(line.label))).append_text(text)
    row = Table.grid(padding=0)
    row.add_column(width=LABEL + 1, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(label, text)
    return row


def _totals(board: Board, width: int) -> Table:
    """Rendering, uploading, answering, writing: what has begun and matters now."""
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(style="bold", width=LABEL - 1, no_wrap=True)
    for _ in range(4):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    if board.plan is None and board.rows:
        bar = _bar(board.rendered, board.rows, width)
        grid.add_row(
            "rendered", _of(board.rendered, board.rows, "row"), bar, _share(board.rendered, board.rows)
        )
    if board.uploads and board.uploaded < board.shards:
        sent = f"{size(board.sent_bytes)} of {size(board.upload_bytes)}"
        bar = _bar(board.sent_bytes, board.upload_bytes, width)
        grid.add_row("uploaded", _of(board.uploaded, board.shards, "file"), bar, sent)
    if board.batches:
        ended, failed, requests = requests_of(board.batches.values())
        planned = board.plan.requests_to_send if board.plan is not None else 0
        whole = max(requests, planned)
        bar = _bar(ended, whole, width)
        grid.add_row("answered", _of(ended, whole, "request"), bar, _share(ended, whole), _failures(failed))
    if board.is_publishing:
        bar = _bar(board.published, board.rows, width)
        grid.add_row(
            "writing", _of(board.published, board.rows, "row"), bar, _share(board.published, board.rows)
        )
    return grid


def _of(part: int, whole: int, noun: str) -> Text:
    return Text(f"{part:,} of {counted(whole, noun)}")


def _share(part: int, whole: int) -> Text:
    return Text(f"{100 * part // whole if whole > 0 else 0} %", style="dim")


def _failures(failed: int) -> Text:
    return Text(f"{failed:,} failed", style="red") if failed else Text("")


def _bar(part: int, whole: int, width: int) -> ProgressBar:
    bar_width = BAR_WIDTH if width >= NARROW else NARROW_BAR_WIDTH
    return ProgressBar(total=max(whole, 1), completed=part, width=bar_width, complete_style="cyan")


def _batches(board: Board, most: int, now_s: float, width: int) -> Table:
    """One line for each batch that deserves one, and one for the rest."""
    shown, rest = board.shown(most)
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(no_wrap=True, justify="right", style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis", max_width=_id_width(width))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    for _ in range(3):
        grid.add_column(no_wrap=True)
    for entry in shown:
        grid.add_row(*_batch_cells(entry, now_s, width))
    if not rest:
        return _indented(grid)
    return _indented(grid, _rest_line(rest))


def _id_width(width: int) -> int | None:
    if width >= WIDE:
        return None
    return 18 if width >= NARROW else 10


def _indented(*parts: RenderableType) -> Table:
    outer = Table.grid(padding=0)
    outer.add_column(width=1)
    outer.add_column()
    for part in parts:
        outer.add_row("", part)
    return outer


def _batch_cells(entry: BatchEntry, now_s: float, width: int) -> tuple[RenderableType, ...]:
    status = clean(entry.status, limit=16)
    style = _STATUS_STYLES.get(status, "")
    name = Text(clean(entry.batch_id), style="dim" if entry.is_done else "")
    counts = Text(f"{entry.ended:,}/{entry.requests:,}")
    bar = _bar(entry.ended, entry.requests, width)
    bar.complete_style = "green" if entry.is_done else "cyan"
    return (
        Text(str(entry.slot)),
        name,
        Text(status, style=style),
        counts,
        bar,
        _left(entry, now_s),
        _failures(entry.failed),
    )


def _left(entry: BatchEntry, now_s: float) -> Text:
    if entry.is_done:
        return Text("stored", style="dim")
    if entry.expires_at_s is None:
        return Text("")
    left_s = entry.expires_at_s - now_s
    return Text(
        "window over" if left_s <= 0 else f"{time_left(left_s)} left",
        style="yellow" if left_s < 3600 else "dim",
    )


def _rest_line(rest: Sequence[BatchEntry]) -> Text:
    ended, failed, requests = requests_of(rest)
    words = Counter(clean(entry.status, limit=16) or "unknown" for entry in rest)
    statuses = ", ".join(f"{number:,} {word}" for word, number in words.most_common())
    failures = f", {failed:,} failed" if failed else ""
    return Text(f"and {len(rest):,} more: {statuses}; {ended:,} of {requests:,}{failures}", style="dim")
