"""One row explained: what was asked, every attempt, where the answer is, and its text."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from runner.cli.texts import clean, clean_text
from runner.core.model import Cause
from runner.core.states import ShardState

if TYPE_CHECKING:
    from runner.commands.explain import ExplainResult
    from runner.ledger import AttemptRecord


def explain_text(found: ExplainResult) -> list[str]:
    """The lines of `run explain`."""
    lines = list(_row_lines(found))
    for attempt in found.attempts:
        lines += ["", f"attempt {attempt.number}: {attempt.status}", *_attempt_lines(attempt)]
    return lines + list(_answer_lines(found))


def _fact(label: str, text: str) -> str:
    return f"  {label:<12} {text}".rstrip()


def _row_lines(found: ExplainResult) -> Iterator[str]:
    repeat = f", repeat {found.repeat} of {found.repeats}" if found.repeats > 1 else ""
    yield f"{clean(found.key)}: {found.status}"
    yield _fact("row", f"{found.position + 1:,} of the dataset{repeat}")
    if found.cause is not None:
        yield _fact("cause", _cause(found.cause))
    if found.custom_id is not None:
        yield _fact("custom_id", clean(found.custom_id))
    if found.fingerprint is not None:
        yield _fact("fingerprint", found.fingerprint)
    yield _fact("run", clean(found.run)[:8])
    if found.edited_since == ("manifest",):
        yield _fact("edited since", "the manifest can't be read now; below is what was asked")
    elif found.edited_since:
        yield _fact("edited since", f"{', '.join(found.edited_since)}; below is what was asked")
    yield from ("", "prompt")
    if found.prompt_problem is not None:
        yield f"  not shown: {clean(found.prompt_problem)}"
    for message in found.prompt or ():
        yield f"  {clean(message.role)}"
        yield from _block(message.content)


def _attempt_lines(attempt: AttemptRecord) -> Iterator[str]:
    facts = (
        ("asked by", f"run {clean(attempt.run)[:8]}, line {attempt.line + 1:,} of file {attempt.slot}"),
        ("input file", attempt.input_file_id),
        ("batch", attempt.batch_id and f"{attempt.batch_id} ({attempt.batch_status})"),
        ("output file", attempt.output_file_id),
        ("error file", attempt.error_file_id),
        ("response", attempt.response_id),
        ("uploaded", _moment(attempt.uploaded_at)),
        ("submitted", _moment(attempt.submitted_at)),
        ("answered", _moment_s(attempt.answered_at_s)),
        ("cause", attempt.cause and _cause(attempt.cause)),
        ("finish", attempt.finish_reason),
        ("model", attempt.model),
        ("tokens", _tokens(attempt)),
        ("file is", _state(attempt)),
    )
    for label, text in facts:
        if text:
            yield _fact(label, clean(text))


def _answer_lines(found: ExplainResult) -> Iterator[str]:
    if found.place is None:
        return
    place = found.place
    yield from ("", f"answer in .runner/{clean(place.path)}, offset {place.offset:,}, {place.length:,} bytes")
    if not place.is_there:
        yield "  this line is gone or is no longer the row's"
    elif found.embedding_length is not None:
        yield f"  an embedding of {found.embedding_length:,} numbers"
    elif found.answer is not None:
        yield from _block(found.answer)


def _block(text: str) -> Iterator[str]:
    for line in clean_text(text):
        yield f"    {line}".rstrip()


def _cause(cause: Cause) -> str:
    code = f" ({clean(cause.code)})" if cause.code else ""
    return f"{clean(cause.error_class)}{code}: {clean(cause.message)}"


def _state(attempt: AttemptRecord) -> str | None:
    """Where its file stands, as long as it is not done."""
    if attempt.shard_state == ShardState.DONE:
        return None
    return attempt.shard_state + (f": {attempt.problem}" if attempt.problem else "")


def _tokens(attempt: AttemptRecord) -> str | None:
    if attempt.input_tokens is None and attempt.output_tokens is None:
        return None
    counts = (
        "?" if number is None else f"{number:,}" for number in (attempt.input_tokens, attempt.output_tokens)
    )
    return "{} in, {} out".format(*counts)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _moment_s(seconds: int | None) -> str | None:
    return None if seconds is None else _moment(datetime.fromtimestamp(seconds, UTC))
