"""Values to lines of text: the plan and the end of a run.

A `Line` is a label, a text and a tone; plain reporters print label and text, the live display adds colour.
Numbers that are zero and facts that are unknown are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runner.cli.texts import clean, counted, money, path_here, size, span
from runner.commands.moments import Cut, Finished, Raising, Retrying
from runner.commands.options import ManifestOptions, command_line
from runner.core.planning import Estimate, Plan
from runner.errors import EXIT_DONE, EXIT_REFUSED, EXIT_STILL_RUNNING

LABEL_WIDTH = 9
CAUSES_SHOWN = 5


class Tone(StrEnum):
    """How a line is meant; the live display has a style for each."""

    PLAIN = ""
    GOOD = "green"
    WARN = "yellow"
    BAD = "red"
    DIM = "dim"
    NEXT = "cyan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line for people. `label` may be empty: the text then continues the line above."""

    label: str = ""
    text: str
    tone: Tone = Tone.PLAIN

    def plain(self) -> str:
        """Label and text, aligned."""
        return f"{self.label:<{LABEL_WIDTH}} {self.text}".rstrip()


def short_run(run: str) -> str:
    """A run's id as people see it: enough to tell it from others; `--json` and the ledger have it whole."""
    return clean(run)[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a reporter can't know of an end: the manifest as it was typed and bent, and why rows failed."""

    manifest: ManifestOptions | None = None
    causes: tuple[str, ...] = ()


Explain = Callable[[Finished], Explanation]


def unexplained(_finished: Finished) -> Explanation:
    """For reporters that have nobody to ask."""
    return Explanation()


# ---------------------------------------------------------------- the plan

_CHANGES = (
    ("unchanged", "unchanged"),
    ("new", "new"),
    ("changed", "changed"),
    ("removed", "removed"),
)
"""Rows against the rows of the last run."""
_STANDINGS = (
    ("failed before", "failed_before"),
    ("in flight", "in_flight"),
    ("not sendable", "unsendable"),
    ("duplicates", "duplicates"),
)
"""How those same rows stand; not a second set of rows."""


def plan_changes(plan: Plan) -> list[tuple[str, int]]:
    """Rows that are unchanged, new, changed, removed: the counts that are not zero, with their words."""
    return _counts(plan, _CHANGES)


def plan_standings(plan: Plan) -> list[tuple[str, int]]:
    """Rows that failed before, are in flight, can't be sent or repeat another's request, where not zero."""
    return _counts(plan, _STANDINGS)


def _counts(plan: Plan, words: Sequence[tuple[str, str]]) -> list[tuple[str, int]]:
    return [(word, number) for word, name in words if (number := int(getattr(plan, name)))]


def plan_line(plan: Plan) -> str:
    """The plan in one line: rows, their changes; and how they stand."""
    groups = (plan_changes(plan), plan_standings(plan))
    texts = [", ".join(f"{number:,} {word}" for word, number in group) for group in groups if group]
    rows = counted(plan.rows, "row")
    return f"{rows}: {'; '.join(texts)}" if texts else rows


def to_send(plan: Plan) -> str:
    """What would go out: requests, files, bytes."""
    if not plan.requests_to_send:
        return "nothing; the table is written again" if plan.writes_table else "nothing"
    files = counted(plan.shards, "file")
    text = f"{counted(plan.requests_to_send, 'request')} in {files}, {size(plan.size_bytes)}"
    return f"{text}; {plan.raised:,} of them with a larger token limit" if plan.raised else text


def estimate_text(estimate: Estimate) -> str:
    """Tokens and cost of an estimate, with `about` and `at most` where they belong."""
    text = f"about {estimate.input_tokens:,} tokens in"
    if estimate.output_tokens is not None:
        text += f", at most {estimate.output_tokens:,} out"
    if estimate.cost is None:
        return f"{text}; cost unknown"
    if estimate.cost == 0:
        return f"{text}; costs nothing"
    bound = "at most " if estimate.output_tokens is not None else ""
    return f"{text}; {bound}{money(estimate.cost, estimate.currency)}"


def retrying_text(moment: Retrying) -> str:
    """What is sent again, and when."""
    again = f"sending {counted(moment.requests, 'request')} again in {counted(moment.shards, 'file')}"
    return again if moment.pause_s < 1 else f"{again}, after {span(moment.pause_s)}"


def raising_text(moment: Raising) -> str:
    """What is asked with a larger token limit."""
    asked = f"asking {counted(moment.requests, 'request')} again in {counted(moment.shards, 'file')}"
    return f"{asked}, with a larger token limit"


def cut_text(moment: Cut) -> str:
    """What became of a file that was too large."""
    if moment.failed:
        return f"a request is too large for the server and was given up ({clean(moment.why)})"
    return f"too large for the server, goes on as {counted(moment.shards, 'file')} ({clean(moment.why)})"


def planned_lines(plan: Plan, causes: Sequence[str]) -> list[Line]:
    """The plan as a run tells it: rows, what goes, what that may cost, what can't go."""
    lines = [Line(label="plan", text=plan_line(plan))]
    lines.append(
        Line(label="to send", text=to_send(plan), tone=Tone.PLAIN if plan.requests_to_send else Tone.DIM)
    )
    if plan.requests_to_send:
        lines.append(Line(label="estimate", text=estimate_text(plan.estimate), tone=Tone.DIM))
    return lines + unsendable_lines(plan, causes)


def unsendable_lines(plan: Plan, causes: Sequence[str]) -> list[Line]:
    """Rows that can't be sent: how many of each cause, and examples."""
    if not plan.unsendable:
        return []
    by_class = ", ".join(f"{number:,} {clean(word)}" for word, number in sorted(plan.causes.items()))
    head = f"{counted(plan.unsendable, 'row')} can't be sent" + (f": {by_class}" if by_class else "")
    examples = [Line(text=clean(cause, limit=200), tone=Tone.DIM) for cause in causes[:CAUSES_SHOWN]]
    return [Line(label="warning", text=head, tone=Tone.WARN), *examples]


# ---------------------------------------------------------------- the end

_STATUSES = (
    ("succeeded", Tone.GOOD),
    ("truncated", Tone.WARN),
    ("refused", Tone.WARN),
    ("invalid", Tone.BAD),
    ("failed", Tone.BAD),
    ("expired", Tone.BAD),
    ("cancelled", Tone.WARN),
    ("unaccounted", Tone.BAD),
    ("unsendable", Tone.BAD),
    ("pending", Tone.WARN),
)


def status_counts(finished: Finished) -> list[tuple[str, int]]:
    """The counts by status that are not zero, in a fixed order."""
    counts = ((word, int(getattr(finished, word))) for word, _ in _STATUSES)
    return [(word, number) for word, number in counts if number]


def finished_tone(finished: Finished) -> Tone:
    """Good where every row succeeded, bad where the exit code says so, else a warning."""
    if finished.exit_code not in (EXIT_DONE, EXIT_STILL_RUNNING):
        return Tone.BAD
    is_well = finished.succeeded == finished.rows and not finished.refresh_failed
    return Tone.GOOD if is_well else Tone.WARN


def finished_lines(finished: Finished, *, cwd: str, explanation: Explanation) -> list[Line]:
    """The end of a run: counts, cost, where the results are, why rows failed, the next command."""
    counts = ", ".join(f"{number:,} {word}" for word, number in status_counts(finished)) or "no rows"
    sent = (
        f"{counted(finished.requests_sent, 'request')} sent in {counted(finished.batches, 'batch')}"
        if finished.requests_sent
        else "nothing was sent"
    )
    tone = finished_tone(finished)
    took = span(finished.duration_s)
    word = {Tone.GOOD: "done", Tone.WARN: "done", Tone.BAD: "failed"}[tone]
    word = "pending" if finished.exit_code == EXIT_STILL_RUNNING else word
    lines = [Line(label=word, text=f"{counts}; {sent}; {took}", tone=tone)]
    if finished.input_tokens or finished.output_tokens:
        lines.append(
            Line(label="tokens", text=f"{finished.input_tokens:,} in, {finished.output_tokens:,} out")
        )
    if finished.cost:
        lines.append(Line(label="cost", text=money(finished.cost, finished.currency)))
    lines += _paid_lines(finished)
    if finished.refresh_failed:
        what = f"{counted(finished.refresh_failed, 'refreshed answer')} failed, the old ones stay"
        lines.append(Line(label="warning", text=what, tone=Tone.WARN))
    lines += _labelled("results", [path_here(path, cwd) for path in finished.results])
    lines += _labelled("causes", [clean(cause, limit=200) for cause in explanation.causes], tone=Tone.BAD)
    return lines + _next_lines(finished, explanation.manifest)


def _paid_lines(finished: Finished) -> list[Line]:
    """What this run paid, where that is something else than what the answers in the table cost."""
    paid = (finished.paid_input_tokens, finished.paid_output_tokens)
    if paid in ((0, 0), (finished.input_tokens, finished.output_tokens)):
        return []
    text = f"{paid[0]:,} tokens in, {paid[1]:,} out in all attempts that this run collected"
    if finished.paid_cost:
        text = f"{money(finished.paid_cost, finished.currency)}: {text}"
    return [Line(label="paid", text=text)]


def _labelled(label: str, texts: Sequence[str], *, tone: Tone = Tone.PLAIN) -> list[Line]:
    return [Line(label="" if index else label, text=text, tone=tone) for index, text in enumerate(texts)]


def _next_lines(finished: Finished, manifest: ManifestOptions | None) -> list[Line]:
    """The one command that helps now, or none. Where the run was refused its error has told that already;
    a schedule's look needs none."""
    if finished.exit_code == EXIT_REFUSED or manifest is None:
        return []
    if finished.pending or finished.cancelled:
        command = command_line("", manifest)
    elif finished.succeeded < finished.rows:
        command = f"{command_line('results', manifest)} --where \"_status <> 'succeeded'\""
    elif finished.refresh_failed:
        command = command_line("retry", manifest)
    else:
        return []
    return [Line(label="next", text=clean(command), tone=Tone.NEXT)]
