"""The live reporter: lines that stay scroll up, a small region below them is repainted.

What stays: the run's head, the plan, warnings, the end. What is repainted: progress. The region is drawn
by rich's own thread ten times a second at most, from a board that moments fill; telling a moment costs
a lock and a few assignments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import RLock

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from runner.cli.board import Board
from runner.cli.live_view import header, labelled, view
from runner.cli.signals import Interrupts
from runner.cli.summary import Explain, Line, Tone, finished_lines, planned_lines, unexplained
from runner.cli.texts import clean, counted, here
from runner.commands.moments import (
    BatchCreated,
    Finished,
    Moment,
    Planned,
    Retrying,
    Started,
    Submitted,
    Trouble,
)

REFRESH_PER_SECOND = 8


def stderr_console() -> Console:
    """A console on stderr that interprets nothing: no markup, no emoji codes, no guessing of colours."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)


class LiveReporter:
    """For a terminal. `clock` is Unix time, `monotonic` a clock that never jumps; both in seconds."""

    def __init__(
        self,
        ask: Callable[[str], bool],
        *,
        console: Console,
        interrupts: Interrupts | None = None,
        explain: Explain = unexplained,
        cwd: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._console = console
        self._interrupts = interrupts or Interrupts()
        self._explain = explain
        self._cwd = cwd if cwd is not None else here()
        self._clock, self._monotonic = clock, monotonic
        self._lock = RLock()
        self._board = Board()
        self._began_s = monotonic()
        self._live: Live | None = None
        self._told: set[str] = set()

    # ------------------------------------------------------------ the reporter

    def tell(self, moment: Moment) -> None:
        """Fold the moment into the board; print what stays."""
        if isinstance(moment, Started):
            self._stop()
            self._board, self._began_s, self._told = Board(), self._monotonic(), set()
        with self._lock:
            self._board.take(moment)
        lines = self._lines(moment)
        if isinstance(moment, (Finished, Submitted)):
            self._stop()
            self._print(lines)
            return
        self._start()
        self._print(lines)

    def confirm(self, question: str) -> bool:
        """The region steps aside while a person answers."""
        self._stop()
        try:
            return self._ask(question)
        finally:
            self._start()

    def close(self) -> None:
        """Take the region off the screen and give the cursor back."""
        self._stop()

    # ------------------------------------------------------------ what stays

    def _lines(self, moment: Moment) -> list[RenderableType]:
        match moment:
            case Started():
                return [header(moment)]
            case Planned():
                return [labelled(line) for line in planned_lines(moment.plan, moment.causes)]
            case Finished():
                explanation = self._explain(moment)
                return [
                    labelled(line) for line in finished_lines(moment, cwd=self._cwd, explanation=explanation)
                ]
            case _:
                return [labelled(line) for line in self._news(moment) if self._is_first(line)]

    def _news(self, moment: Moment) -> list[Line]:
        match moment:
            case Trouble():
                where = f"batch {moment.slot}: " if moment.slot is not None else ""
                return [Line(label="warning", text=where + clean(moment.what), tone=Tone.WARN)]
            case Retrying():
                text = f"{counted(moment.requests, 'request')} again in {counted(moment.shards, 'file')}"
                return [Line(label="retrying", text=text, tone=Tone.WARN)]
            case BatchCreated(is_adopted=True):
                return [
                    Line(label="found", text=f"batch {moment.slot} on the server: {clean(moment.batch_id)}")
                ]
            case Submitted():
                text = f"{counted(moment.batches, 'batch')} on the way; the same command collects the answers"
                return [Line(label="submitted", text=text, tone=Tone.GOOD)]
            case _:
                return []

    def _is_first(self, line: Line) -> bool:
        """The same warning, poll after poll, is told once."""
        is_new = line.tone is not Tone.WARN or line.text not in self._told
        self._told.add(line.text)
        return is_new

    # ------------------------------------------------------------ the region

    def _draw(self) -> RenderableType:
        with self._lock:
            return view(
                self._board,
                now_s=self._clock(),
                elapsed_s=self._monotonic() - self._began_s,
                width=self._console.width,
                height=self._console.height,
                is_stopping=self._interrupts.is_stopping,
            )

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=self._draw,
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=True,
            )
            self._live.start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, lines: Sequence[RenderableType]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=isinstance(line, Text))
