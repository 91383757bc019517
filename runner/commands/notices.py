"""What somebody is told of the end of a run, as values: the occasion, a title, a text, and fields.

Pure. The text names counts, cost, where the results are and the command to look further; never the
address that it goes to. What others wrote (a server's words in an error) comes cleaned of control
characters and cut.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.commands.gate import BudgetError
from runner.commands.moments import Finished
from runner.core.model import Occasion, Status
from runner.core.planning import cost_text
from runner.core.wire import encode_json
from runner.errors import EXIT_DONE, EXIT_STILL_RUNNING, InterruptedRunError, RunnerError, StillRunningError

_MAX_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message. `fields` is for programs: the JSON object of a webhook, beside `text`."""

    occasion: Occasion
    title: str
    text: str
    fields: dict[str, Any]

    def as_json(self) -> bytes:
        """The body of a webhook. `text` is the key that most chat services read."""
        return encode_json({"text": f"{self.title}\n{self.text}", **self.fields})


def occasion_of(error: BaseException) -> Occasion | None:
    """What an error is an occasion of. None: the work goes on elsewhere, or somebody stopped it."""
    if isinstance(error, (InterruptedRunError, StillRunningError, KeyboardInterrupt, SystemExit)):
        return None
    return Occasion.BUDGET if isinstance(error, BudgetError) else Occasion.FAILED


def finished_notice(finished: Finished, *, manifest: str, error: RunnerError | None = None) -> Notice | None:
    """The end of a run that wrote its table; `error`: what it ended with all the same.

    `manifest` is the path to show in commands. None where nobody needs to know: it is still under way.
    """
    if finished.exit_code == EXIT_STILL_RUNNING:
        return None
    occasion = Occasion.COMPLETED if finished.exit_code == EXIT_DONE else Occasion.FAILED
    lines = [] if error is None else _error_lines(error.what, error.next_step)
    lines += _counts(finished)
    lines += [f"results: {path}" for path in finished.results]
    lines.append(f"look further: {_look_further(finished, manifest)}")
    fields = {**finished.as_json(), "event": occasion.value}
    if error is not None:
        fields |= {"error": _clean(error.what), "next_step": _clean(error.next_step)}
    return _notice(occasion, finished.manifest, lines, fields)


def error_notice(
    occasion: Occasion, *, name: str, manifest: str, what: str, next_step: str, exit_code: int
) -> Notice:
    """A run that ended before it had a table to write. `name` is the manifest's."""
    lines = _error_lines(what, next_step)
    lines.append(f"look further: {shlex.join(['run', 'status', manifest])}")
    fields = {
        "event": occasion.value,
        "manifest": name,
        "exit_code": exit_code,
        "error": _clean(what),
        "next_step": _clean(next_step),
    }
    return _notice(occasion, name, lines, fields)


_TITLES = {
    Occasion.FAILED: "failed",
    Occasion.COMPLETED: "completed",
    Occasion.BUDGET: "not run, over its budget",
}


def _notice(occasion: Occasion, name: str, lines: Sequence[str], fields: dict[str, Any]) -> Notice:
    title = f"{name}: {_TITLES[occasion]}"
    return Notice(occasion=occasion, title=title, text="\n".join(lines), fields=fields)


def _error_lines(what: str, next_step: str) -> list[str]:
    lines = [f"error: {_clean(what)}"]
    return [*lines, f"next: {_clean(next_step)}"] if next_step else lines


def _counts(finished: Finished) -> list[str]:
    counts = [(status.value, int(getattr(finished, status.value))) for status in Status]
    by_status = ", ".join(f"{number:,} {word}" for word, number in counts if number)
    lines = [f"{finished.rows:,} rows: {by_status}" if by_status else "no rows"]
    if finished.requests_sent:
        batches = "1 batch" if finished.batches == 1 else f"{finished.batches:,} batches"
        lines.append(f"requests sent: {finished.requests_sent:,} in {batches}")
    if finished.refresh_failed:
        lines.append(f"refreshed answers that failed, the old ones stay: {finished.refresh_failed:,}")
    return [*lines, *_cost(finished)]


def _cost(finished: Finished) -> list[str]:
    currency = f" {finished.currency}" if finished.currency else ""
    tokens = f"{finished.input_tokens:,} tokens in, {finished.output_tokens:,} out"
    if finished.cost is None:
        return [f"cost: unknown ({tokens})"]
    text = f"cost: {cost_text(finished.cost)}{currency} ({tokens})"
    if finished.paid_cost is not None and finished.paid_cost != finished.cost:
        text += f"; paid for in this run: {cost_text(finished.paid_cost)}{currency}"
    return [text]


def _look_further(finished: Finished, manifest: str) -> str:
    if finished.succeeded == finished.rows:
        return shlex.join(["run", "history", manifest])
    return shlex.join(["run", "results", manifest, "--where", "_status <> 'succeeded'"])


def _clean(text: str) -> str:
    """Printable, lines kept, at most 1,000 characters."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    whole = "\n".join("".join(mark for mark in line if mark.isprintable()) for line in lines if line)
    return whole if len(whole) <= _MAX_CHARACTERS else f"{whole[: _MAX_CHARACTERS - 1]}…"
