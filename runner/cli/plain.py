"""The plain reporter: lines on stderr for logs and pipes, one for each moment that matters.

No timestamps (logs add their own), no repainting. What is told often is thinned: a batch gets a line when
its status changes, when its first request fails and at every tenth of its requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatchmethod

from runner.cli.streams import say
from runner.cli.summary import (
    Explain,
    cut_text,
    finished_lines,
    planned_lines,
    raising_text,
    retrying_text,
    short_run,
    unexplained,
)
from runner.cli.texts import clean, counted, here, size
from runner.commands.moments import (
    BatchCreated,
    BatchDone,
    BatchSeen,
    Cut,
    Finished,
    Moment,
    Planned,
    Publishing,
    Raising,
    Retrying,
    RowsRendered,
    Started,
    Submitted,
    Trouble,
    Uploaded,
)

STEPS = 10
ROWS_WORTH_STEPS = 100_000


class PlainReporter:
    """Tells moments as lines. `write` takes one line; `cwd` is where paths are shown from."""

    def __init__(
        self,
        ask: Callable[[str], bool],
        *,
        explain: Explain = unexplained,
        write: Callable[[str], None] = say,
        cwd: str | None = None,
    ) -> None:
        self._ask = ask
        self._explain = explain
        self._write = write
        self._cwd = cwd if cwd is not None else here()
        self._run = _RunSoFar()

    def tell(self, moment: Moment) -> None:
        """Zero or more lines."""
        for line in self._lines(moment):
            self._write(line)

    def confirm(self, question: str) -> bool:
        """As `ask` says."""
        return self._ask(question)

    def close(self) -> None:
        """Nothing is held open."""

    @singledispatchmethod
    def _lines(self, moment: Moment) -> list[str]:
        return []

    @_lines.register
    def _(self, moment: Started) -> list[str]:
        self._run = _RunSoFar()
        goes_on = ", goes on with earlier work" if moment.is_resumed else ""
        who = f"{clean(moment.model)} on {clean(moment.provider)}"
        return [f"{clean(moment.manifest)}: run {short_run(moment.run)}, {who}{goes_on}"]

    @_lines.register
    def _(self, moment: RowsRendered) -> list[str]:
        if moment.total < ROWS_WORTH_STEPS or not self._run.crossed("rows", moment.rows, moment.total):
            return []
        return [f"rendered {moment.rows:,} of {counted(moment.total, 'row')}"]

    @_lines.register
    def _(self, moment: Planned) -> list[str]:
        return [line.plain() for line in planned_lines(moment.plan, moment.causes)]

    @_lines.register
    def _(self, moment: Uploaded) -> list[str]:
        what = f"{counted(moment.requests, 'request')}, {size(moment.size_bytes)}"
        return [f"file {moment.slot} uploaded: {clean(moment.file_id)}, {what}"]

    @_lines.register
    def _(self, moment: BatchCreated) -> list[str]:
        verb = "found again" if moment.is_adopted else "created"
        return [
            f"batch {moment.slot} {verb}: {clean(moment.batch_id)}, {counted(moment.requests, 'request')}"
        ]

    @_lines.register
    def _(self, moment: BatchSeen) -> list[str]:
        if not self._run.is_news(moment):
            return []
        counts = ""
        if moment.completed is not None:
            failed = f", {moment.failed:,} failed" if moment.failed else ""
            counts = f", {moment.completed:,} of {moment.requests:,} completed{failed}"
        return [f"batch {moment.slot}: {clean(moment.status) or 'status unknown'}{counts}"]

    @_lines.register
    def _(self, moment: BatchDone) -> list[str]:
        return [f"batch {moment.slot} done: {clean(moment.status)}"]

    @_lines.register
    def _(self, moment: Trouble) -> list[str]:
        where = f"batch {moment.slot}: " if moment.slot is not None else ""
        text = f"warning: {where}{clean(moment.what)}"
        return [text] if self._run.is_first(text) else []

    @_lines.register
    def _(self, moment: Retrying) -> list[str]:
        return [retrying_text(moment)]

    @_lines.register
    def _(self, moment: Raising) -> list[str]:
        return [raising_text(moment)]

    @_lines.register
    def _(self, moment: Cut) -> list[str]:
        return [f"warning: file {moment.slot}: {cut_text(moment)}"]

    @_lines.register
    def _(self, moment: Submitted) -> list[str]:
        return [
            f"submitted: {counted(moment.batches, 'batch')} on the way; the same command collects the answers"
        ]

    @_lines.register
    def _(self, moment: Publishing) -> list[str]:
        if not self._run.crossed("publishing", moment.rows, moment.total):
            return []
        return [f"writing results: {moment.rows:,} of {counted(moment.total, 'row')}"]

    @_lines.register
    def _(self, moment: Finished) -> list[str]:
        lines = finished_lines(moment, cwd=self._cwd, explanation=self._explain(moment))
        return [line.plain() for line in lines]


class QuietReporter(PlainReporter):
    """Says nothing but warnings, and the end where it is not a full success: what cron should mail."""

    def tell(self, moment: Moment) -> None:
        """A warning, or an end with failures."""
        if isinstance(moment, Trouble) or (isinstance(moment, Finished) and moment.exit_code):
            super().tell(moment)


@dataclass(slots=True)
class _RunSoFar:
    """What was told already, so that nothing is told twice."""

    steps: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, tuple[str, bool]] = field(default_factory=dict)
    troubles: set[str] = field(default_factory=set)

    def crossed(self, what: str, part: int, whole: int) -> bool:
        """Whether another tenth is complete."""
        step = part * STEPS // whole if whole > 0 else 0
        if step <= self.steps.get(what, 0):
            return False
        self.steps[what] = step
        return True

    def is_news(self, seen: BatchSeen) -> bool:
        """Whether the status changed, the first request failed, or another tenth is complete."""
        facts = (seen.status, bool(seen.failed))
        is_changed = self.statuses.get(seen.slot) != facts
        self.statuses[seen.slot] = facts
        is_further = self.crossed(
            f"batch {seen.slot}", (seen.completed or 0) + (seen.failed or 0), seen.requests
        )
        return is_changed or is_further

    def is_first(self, trouble: str) -> bool:
        """The same trouble, poll after poll, is told once."""
        is_new = trouble not in self.troubles
        self.troubles.add(trouble)
        return is_new
