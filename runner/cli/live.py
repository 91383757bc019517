"""The live reporter: lines that stay scroll up, a small region below them is repainted.

What stays: the run's head, the plan, warnings, the end. What is repainted: progress. The region is drawn
by a thread of its own, eight times a second, from a board that moments fill; telling a moment costs a
lock and a few assignments.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from runner.cli.board import Board
from runner.cli.live_view import header, labelled, view
from runner.cli.signals import Interrupts, cursor_hidden_on
from runner.cli.summary import (
    Explain,
    Line,
    Tone,
    cut_text,
    finished_lines,
    planned_lines,
    raising_text,
    retrying_text,
    unexplained,
)
from runner.cli.texts import clean, counted, here
from runner.commands.moments import (
    BatchCreated,
    Cut,
    Finished,
    Moment,
    Planned,
    Raising,
    Retrying,
    Started,
    Submitted,
    Trouble,
)

REFRESH_S = 0.125

LockType = AbstractContextManager[Any]
"""An RLock: the painter and the command's thread take turns."""


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
        self._lock: LockType = threading.RLock()
        self._board = Board()
        self._began_s = monotonic()
        self._region: _Region | None = None
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
                return [Line(label="retrying", text=retrying_text(moment), tone=Tone.WARN)]
            case Raising():
                return [Line(label="retrying", text=raising_text(moment), tone=Tone.WARN)]
            case Cut():
                text = f"file {moment.slot}: {cut_text(moment)}"
                return [Line(label="warning", text=text, tone=Tone.WARN)]
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
        with self._lock:
            if self._region is None:
                self._region = _Region(self._console, self._draw, self._lock)

    def _stop(self) -> None:
        region, self._region = self._region, None
        if region is not None:
            region.close()

    def _print(self, lines: Sequence[RenderableType]) -> None:
        with self._lock:
            for line in lines:
                self._console.print(line, soft_wrap=isinstance(line, Text))


class _Region:
    """rich's Live with a painter of our own.

    rich computes how far to move the cursor up in one step and writes in another, and its refresh thread
    may paint in between; where the region then has another height, lines that should stay are painted
    over (seen with a 1-second run). Here every print and every repaint holds one lock.
    """

    def __init__(self, console: Console, draw: Callable[[], RenderableType], lock: LockType) -> None:
        self._lock = lock
        self._live = Live(
            console=console,
            get_renderable=draw,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._hiding = ExitStack()
        self._hiding.enter_context(cursor_hidden_on(2))
        self._is_closed = threading.Event()
        self._painter = threading.Thread(target=self._paint, name="live-display", daemon=True)
        try:
            self._live.start(refresh=True)
            self._painter.start()
        except BaseException:
            self._hiding.close()
            raise

    def _paint(self) -> None:
        while not self._is_closed.wait(REFRESH_S):
            with self._lock:
                if not self._is_closed.is_set():
                    self._live.refresh()

    def close(self) -> None:
        """Take it off the screen. The painter is told, not waited for: it paints nothing any more."""
        self._is_closed.set()
        with self._lock:
            self._live.stop()
        self._hiding.close()
