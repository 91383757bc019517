"""What became of a request: a result line judged, an absence judged, and whether to ask again.

The rule: a success is a status of 2xx (or none given) *and* a body that holds an answer. Not `error is
null`, not the file it stood in, not the batch's word, not its counts. Sources: the Doubleword API,
section 5 (error lines carry JSON in a string; bodies may be strings or null), and what servers were seen
to do: a 4xx inside the output file, finish reasons of length and content filter at status 200, content
split over several parts.

Whether to ask again is decided by the cause, never by the place. *Permanent* (400, 403, 422, a content
filter, a body that holds no answer): the same request would fail the same way, and is paid again. *Passing*
(408, 429, 5xx, expired, cancelled, unaccounted): asked again in a new shard of only those requests, a
bounded number of times (`core.planning.stand`), each time after a longer pause (`pause_s`). *The account's*
(401, 402, a spent quota): nothing is wrong with the request, so the attempt does not count; but no
repetition helps before a person acts, so the run stops. *The queue's* (a batch that failed because too many
tokens waited at the server): nothing was begun, so the attempt does not count; `core.queueing` says how much
is sent next. A length is none of these: only a larger limit helps (`core.raising`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from runner.core.model import Backoff, Cause, Outcome, Provider, Status
from runner.core.wire import BatchObject, JsonError, ResultLine, decode_json, shown_json, text_or_none

_MESSAGE_LIMIT = 2000
WORD_LIMIT = 300
"""Ids, codes and names are short; what a server makes longer is cut, and the raw line keeps it whole."""
MAX_TOKENS = 2**53
"""So many tokens nobody counts: such a number is a lie, and no count."""
MAX_RETRY_AFTER_S = 3600.0
_TRANSIENT_STATUS = frozenset({404, 408, 409, 425, 429, 499})
_BLOCKING_STATUS = frozenset({401, 402})
_PAYMENT_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "spend_cap_exceeded"}
)
_PERMANENT_BATCH_CODES = frozenset(
    {"duplicate_custom_id", "empty_file", "mismatched_model", "model_not_found"}
)
_QUEUE_CODES = frozenset({"token_limit_exceeded"})
"""OpenAI's and Azure's; Doubleword queues without such a limit."""


class Answer(NamedTuple):
    """The usable part of a response body. `text` is None for embeddings, `embedding` for all else."""

    text: str | None
    embedding: tuple[float, ...] | None
    finish_reason: str | None
    refusal: str | None


def judge(line: ResultLine) -> Outcome:
    """What one result line means for its request. Never raises; no text in it is long."""
    outcome = _judged(line)
    cause = outcome.cause
    longest = max(
        len(outcome.finish_reason or ""),
        len(outcome.model or ""),
        len(outcome.response_id or ""),
        0 if cause is None else len(cause.code or ""),
    )
    if longest <= WORD_LIMIT:
        return outcome
    return outcome._replace(
        finish_reason=_cut(outcome.finish_reason),
        model=_cut(outcome.model),
        response_id=_cut(outcome.response_id),
        cause=None if cause is None else replace(cause, code=_cut(cause.code)),
    )


def _cut(word: str | None) -> str | None:
    return word if word is None else word[:WORD_LIMIT]


def _judged(line: ResultLine) -> Outcome:
    if line.status_code is not None and not 200 <= line.status_code < 300:
        return _failed_response(line)
    if line.body is None:
        return _failed_line(line)
    answer = read_answer(line.body)
    if answer is None:
        message = _short(f"no answer in the body: {shown_json(line.body)}")
        cause = Cause(error_class="unusable_body", message=message)
        return _paid(Outcome(status=Status.FAILED, cause=cause, response_id=line.line_id), line.body)
    status, cause_or_none = _answer_status(answer)
    input_tokens, output_tokens = usage_in(line.body)
    model = text_or_none(line.body.get("model"))
    return Outcome(
        status, answer.finish_reason, cause_or_none, input_tokens, output_tokens, model, line.line_id
    )


def _answer_status(answer: Answer) -> tuple[Status, Cause | None]:
    if answer.refusal is None and answer.finish_reason == "stop":
        return Status.SUCCEEDED, None  # said first, because nearly all are
    if answer.refusal is not None:
        return Status.REFUSED, Cause(error_class="refusal", message=_short(answer.refusal))
    if answer.finish_reason in ("content_filter", "refusal"):
        cause = Cause(error_class="content_filter", message="the provider's filter withheld the answer")
        return Status.REFUSED, cause
    if answer.finish_reason in ("length", "max_output_tokens", "max_tokens"):
        cause = Cause(error_class="length", message="the answer was cut at the token limit")
        return Status.TRUNCATED, cause
    return Status.SUCCEEDED, None


# ---------------------------------------------------------------- bodies


def read_answer(body: object) -> Answer | None:
    """The answer in a response body of any supported endpoint; None where there is none."""
    if not isinstance(body, dict):
        return None
    return _chat_or_completion(body) or _responses(body) or _embedding(body)


def _chat_or_completion(body: Mapping[str, Any]) -> Answer | None:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    choice = choices[0]
    finish_reason = text_or_none(choice.get("finish_reason"))
    message = choice.get("message")
    if isinstance(message, dict):
        content = message.get("content")
        text = content if isinstance(content, str) else _text(content)
        refusal = text_or_none(message.get("refusal"))
    else:
        text, refusal = _text(choice.get("text")), None
    if text is None and refusal is None and finish_reason not in ("content_filter", "length"):
        tool_calls = message.get("tool_calls") if isinstance(message, dict) else None
        if not tool_calls:
            return None
    return Answer(text, None, finish_reason, refusal)


def _responses(body: Mapping[str, Any]) -> Answer | None:
    output = body.get("output")
    if not isinstance(output, list):
        return None
    parts = [part for item in output if isinstance(item, dict) for part in _parts(item.get("content"))]
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    refusals = [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    finish_reason = text_or_none(reason) or ("stop" if body.get("status") == "completed" else None)
    if not texts and not refusals and reason is None:
        return None
    return Answer(
        text="".join(texts) if texts else None,
        embedding=None,
        finish_reason=finish_reason,
        refusal="".join(refusals) or None,
    )


def _embedding(body: Mapping[str, Any]) -> Answer | None:
    data = body.get("data")
    if not isinstance(data, list) or not data or not isinstance(data[0], dict):
        return None
    vector = data[0].get("embedding")
    if not isinstance(vector, list) or not all(isinstance(number, int | float) for number in vector):
        return None
    numbers = tuple(float(number) for number in vector)
    return Answer(text=None, embedding=numbers, finish_reason=None, refusal=None)


def _text(content: object) -> str | None:
    """Content as text: a string, or the joined text parts of a list."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in _parts(content) if isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def _parts(content: object) -> list[Mapping[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _paid(failure: Outcome, body: object) -> Outcome:
    """A failure with the tokens that its body owns up to: they may be on the bill."""
    input_tokens, output_tokens = usage_in(body)
    return failure._replace(input_tokens=input_tokens, output_tokens=output_tokens)


def usage_in(body: object) -> tuple[int | None, int | None]:
    """Input and output tokens as a response body states them."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None, None
    return (
        _tokens(usage.get("prompt_tokens", usage.get("input_tokens"))),
        _tokens(usage.get("completion_tokens", usage.get("output_tokens"))),
    )


def _tokens(value: object) -> int | None:
    return (
        value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS else None
    )


# ---------------------------------------------------------------- failures


def _failed_response(line: ResultLine) -> Outcome:
    """A result line with an HTTP status that is no success, in whichever file it stood."""
    code, message = _error_text(line.body)
    message = message or line.error_message or f"HTTP status {line.status_code}"
    failure = _failure(line.status_code, code or line.error_code, message, line.line_id)
    return _paid(failure._replace(retry_after_s=_retry_after_s(line.body)), line.body)


def _failed_line(line: ResultLine) -> Outcome:
    """An error line. Doubleword packs `{type, details}` as JSON text into the message."""
    message = line.error_message or ""
    try:
        packed = decode_json(message)
    except JsonError:
        packed = None
    if isinstance(packed, dict) and isinstance(packed.get("type"), str):
        return _packed_failure(packed, line)
    if line.error_code in ("batch_expired", "request_expired"):
        cause = Cause(error_class="expired", code=line.error_code, message=_short(message))
        return Outcome(status=Status.EXPIRED, cause=cause, response_id=line.line_id, retryable=True)
    if line.error_code in ("batch_cancelled", "request_cancelled"):
        cause = Cause(error_class="cancelled", code=line.error_code, message=_short(message))
        return Outcome(status=Status.CANCELLED, cause=cause, response_id=line.line_id, retryable=True)
    if not message and line.error_code is None:
        cause = Cause(error_class="unusable_body", message="the line has neither an answer nor an error")
        return Outcome(status=Status.FAILED, cause=cause, response_id=line.line_id)
    return _failure(line.status_code, line.error_code, message, line.line_id)


def _packed_failure(packed: Mapping[str, Any], line: ResultLine) -> Outcome:
    kind = packed["type"]
    details = packed.get("details")
    details = details if isinstance(details, dict) else {}
    if kind in ("RetriableHttpStatus", "NonRetriableHttpStatus"):
        status = details.get("status")
        status_code = status if isinstance(status, int) else None
        code, message = _error_text(details.get("body"))
        failure = _failure(status_code, code, message or f"HTTP status {shown_json(status)}", line.line_id)
        return failure._replace(retry_after_s=_retry_after_s(details.get("body")))
    if kind == "BatchTerminated":
        cause = Cause(error_class="cancelled", code=kind, message="the batch was ended before this request")
        return Outcome(status=Status.CANCELLED, cause=cause, response_id=line.line_id, retryable=True)
    error_class = {"Timeout": "timeout", "RequestBuilderError": "invalid_request"}.get(kind, "server_error")
    message = text_or_none(details.get("error")) or kind
    cause = Cause(error_class=error_class, code=kind, message=_short(message))
    retryable = kind != "RequestBuilderError"
    return Outcome(status=Status.FAILED, cause=cause, response_id=line.line_id, retryable=retryable)


def _failure(status_code: int | None, code: str | None, message: str, line_id: str | None) -> Outcome:
    if code == "content_filter" or code == "content_policy_violation":
        cause = Cause(error_class="content_filter", code=code, message=_short(message))
        return Outcome(status=Status.REFUSED, cause=cause, response_id=line_id)
    blocked = status_code in _BLOCKING_STATUS or code in _PAYMENT_CODES
    retryable = blocked or status_code is None or status_code >= 500 or status_code in _TRANSIENT_STATUS
    cause = Cause(
        error_class="payment" if code in _PAYMENT_CODES else _class_of(status_code),
        code=code or (str(status_code) if status_code is not None else None),
        message=_short(message),
    )
    return Outcome(
        status=Status.FAILED, cause=cause, response_id=line_id, retryable=retryable, blocked=blocked
    )


def _class_of(status_code: int | None) -> str:
    match status_code:
        case 401 | 403:
            return "authentication"
        case 402:
            return "payment"
        case 429:
            return "rate_limited"
        case 408 | 499 | 504:
            return "timeout"
        case None:
            return "server_error"
        case _:
            return "invalid_request" if 400 <= status_code < 500 else "server_error"


def _error_text(body: object) -> tuple[str | None, str | None]:
    """Code and message of an error body: an object of the OpenAI kind, JSON in a string, or plain text."""
    if isinstance(body, str):
        try:
            decoded = decode_json(body)
        except JsonError:
            return None, body or None
        return _error_text(decoded) if isinstance(decoded, dict) else (None, body)
    if not isinstance(body, dict):
        return None, None
    error = body.get("error")
    if isinstance(error, str):
        return None, text_or_none(body.get("message")) or error
    inner = error if isinstance(error, dict) else body
    code = inner.get("code") or inner.get("type")
    if code is not None and not isinstance(code, str):
        code = shown_json(code)
    return code, text_or_none(inner.get("message"))


def _retry_after_s(body: object) -> float | None:
    """How long an error body asks to wait: Doubleword's and the OpenAI family's words, capped."""
    if isinstance(body, str):
        try:
            body = decode_json(body)
        except JsonError:
            return None
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    places = (body, inner if isinstance(inner, dict) else {})
    stated = [place.get(word) for place in places for word in ("retry_after_seconds", "retry_after")]
    waits = [
        float(wait)
        for wait in stated
        if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 < wait < 2**53
    ]
    return min(max(waits), MAX_RETRY_AFTER_S) if waits else None


def _short(message: str) -> str:
    """One line without control characters, of bounded length."""
    line = "".join(
        character if character.isprintable() else " " for character in message[: _MESSAGE_LIMIT + 1]
    )
    return line if len(line) <= _MESSAGE_LIMIT else line[:_MESSAGE_LIMIT] + "..."


# ---------------------------------------------------------------- absence and repetition


def judge_absence(word: str | None, batch_errors: str | None, *, is_unbegun: bool = False) -> Outcome:
    """A request that is in neither file of a batch that ended with `word` (see `states.terminal_word`).

    `is_unbegun`: nothing that the server says of the batch, or gave of it, shows that some of it ran.
    """
    if batch_errors:
        items = _error_items(batch_errors)
        if items and all(isinstance(item, dict) and str(item.get("code")) in _QUEUE_CODES for item in items):
            message = items[0].get("message")
            told = _short(message if isinstance(message, str) else batch_errors)
            cause = Cause(error_class="queue_full", code=str(items[0]["code"]), message=told)
            is_out = is_unbegun and word == "failed"
            return Outcome(status=Status.FAILED, cause=cause, retryable=True, queued_out=is_out)
        cause = Cause(error_class="batch_failed", message=_short(batch_errors))
        return Outcome(status=Status.FAILED, cause=cause, retryable=not _is_rejection(items))
    if word == "expired":
        cause = Cause(error_class="expired", message="the completion window ended before this request ran")
        return Outcome(status=Status.EXPIRED, cause=cause, retryable=True)
    if word == "cancelled":
        cause = Cause(error_class="cancelled", message="the batch was cancelled before this request ran")
        return Outcome(status=Status.CANCELLED, cause=cause, retryable=True)
    cause = Cause(error_class="unaccounted", message="in neither the output file nor the error file")
    return Outcome(status=Status.UNACCOUNTED, cause=cause, retryable=True)


def grace_left_s(batch: BatchObject, provider: Provider, *, seen_since_s: float, now_s: float) -> float:
    """How long what was in flight when the batch was cancelled may still be answered; 0 or less: no more.

    Counted from when we first saw it cancelled (`seen_since_s`, `now_s`: our clock), or by the server's own
    times, whichever ends sooner. Those have whole seconds, so one more is waited for.
    """
    left_s = seen_since_s + provider.cancel_grace_s - now_s
    if batch.cancelled_at_s is None or batch.told_at_s is None:
        return left_s
    return min(left_s, batch.cancelled_at_s + provider.cancel_grace_s + 1 - batch.told_at_s)


def _error_items(batch_errors: str) -> list[Any]:
    """What stands in a batch's `errors`; nothing where that has another shape."""
    try:
        errors = decode_json(batch_errors)
    except JsonError:
        return []
    items = errors.get("data") if isinstance(errors, dict) else errors
    return items if isinstance(items, list) else []


def _is_rejection(items: list[Any]) -> bool:
    """Whether a batch failed for what stands in its file: the same file would fail the same way."""
    codes = [item.get("code") for item in items if isinstance(item, dict)]
    return bool(codes) and all(
        isinstance(code, str)
        and (code in _PERMANENT_BATCH_CODES or code.startswith(("invalid_", "missing_", "unsupported_")))
        for code in codes
    )


def judge_abandoned(why: str) -> Outcome:
    """A request of a shard that a person gave up: it may have run, so it is asked again on demand only."""
    return Outcome(status=Status.UNACCOUNTED, cause=Cause(error_class="abandoned", message=_short(why)))


_RANK = {Status.SUCCEEDED: 3, Status.TRUNCATED: 2, Status.REFUSED: 2, Status.INVALID: 2}


def is_better(new: Status, held: Status | None) -> bool:
    """Whether a later line may replace what is held: never an answer by a failure, never a success at all."""
    if held is None:
        return True
    return _RANK.get(new, 1) > _RANK.get(held, 1)


def pause_s(backoff: Backoff, attempts: int) -> float:
    """How long after its last failure a request that was sent `attempts` times is sent again.

    Bounded before the power is taken: a hundred attempts with factor 100 must not overflow.
    """
    if attempts < 1 or backoff.initial_s <= 0:
        return 0.0
    pause = backoff.initial_s
    for _ in range(attempts - 1):
        if pause >= backoff.max_s or backoff.factor <= 1:
            break
        pause *= backoff.factor
    return min(pause, backoff.max_s)


def due_s(backoff: Backoff, *, failed_at_s: float | None, attempts: int, now_s: float) -> float:
    """When a failed request may be sent again (Unix seconds). A function of what the ledger holds, so a run
    that was killed while it waited waits for the same moment when it goes on.

    A failure that lies in the future was stored before the clock was set back: it waits from now.
    """
    return 0.0 if failed_at_s is None else min(failed_at_s, now_s) + pause_s(backoff, attempts)
