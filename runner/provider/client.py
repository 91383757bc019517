"""The client: one method for each thing that the batch API can do.

Theory. Two sorts of calls, and nothing between them. `upload` and `create_batch` change the world: one
request, sent once, and the outcome is a value that says whether the server can have acted (`outcome`).
All others can be repeated: they try again by themselves for a short while, with jitter and as the server
asks, and then raise one error class for each thing that a person does about it (`errors`). The whole of
that patience is bounded and small, because the engine above polls again anyway.

Nothing here knows the ledger, the manifest or the command line. Safe for several threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from runner.core.model import (
    Accepted,
    Download,
    Problem,
    ProblemKind,
    Provider,
    Refused,
    Scan,
    Unknown,
)
from runner.core.wire import (
    BatchObject,
    FileObject,
    JsonError,
    batch_from,
    decode_json,
    encode_json,
    file_from,
    read_batch,
    read_file,
    text_or_none,
)
from runner.errors import LedgerError
from runner.provider.classify import http_date, readable
from runner.provider.download import receive
from runner.provider.errors import (
    InvalidRequestError,
    NotFoundYetError,
    ProviderError,
    error_for,
)
from runner.provider.exchange import Call, Exchange, Lost, Reply, Timeouts
from runner.provider.keys import ApiKey
from runner.provider.listing import PAGE_SIZE, Listed, Page, read_page, walk
from runner.provider.multipart import UploadForm
from runner.provider.outcome import ID, judge, problem_of

_Value = TypeVar("_Value")

_PASSING: Final = frozenset({ProblemKind.CAPACITY, ProblemKind.SERVER_TROUBLE, ProblemKind.UNREACHABLE})
"""What may be gone in a moment. Volume, payment and refusals are not cured by asking again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often and how long a repeatable call tries. A wait that would end after `total_s` isn't begun.

    Waits are random, from 0 to `first_wait_s` doubled with each try, plus what the server asks for.
    """

    attempts: int = 4
    total_s: float = 30.0
    first_wait_s: float = 0.5
    max_wait_s: float = 10.0


class Client:
    """The batch API of one provider. A context manager; close it when done."""

    def __init__(
        self,
        provider: Provider,
        *,
        api_key: ApiKey | None,
        transport: httpx.BaseTransport | None = None,
        timeouts: Timeouts | None = None,
        patience: Patience | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`transport` and `sleep` are for tests. Raises ValueError if the provider has no address yet,
        ServerTroubleError if the environment's proxy can't be used."""
        if not provider.base_url:
            raise ValueError(f"provider {provider.name} has no address yet: start the local server first")
        self._provider = provider
        self._patience = patience or Patience()
        self._timeouts = timeouts or Timeouts()
        self._sleep = sleep
        self._exchange = Exchange(provider, api_key=api_key, timeouts=self._timeouts, transport=transport)

    @property
    def provider(self) -> Provider:
        """The profile that this client talks to."""
        return self._provider

    @property
    def server_clock_offset_s(self) -> float | None:
        """The server's clock minus ours by its latest Date header (exact to about a second), else None."""
        return self._exchange.clock_offset_s

    def key_digest(self, salt: str) -> str:
        """8 hex digits that tell this client's key from another one; empty where it has none."""
        return self._exchange.key_digest(salt)

    # ------------------------------------------------------------ calls that are sent once

    def upload(
        self,
        path: Path,
        filename: str,
        *,
        expires_after_s: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Accepted | Refused | Unknown:
        """Send an input file, once, streamed from disk.

        `filename` is what the server stores: letters, digits, `.`, `_`, `-`. `on_progress` gets the
        bytes handed over so far. Raises LedgerError if the file can't be opened, ValueError for a
        filename that would need quoting; nothing was sent then.
        """
        try:
            source = path.open("rb")
        except OSError as error:
            raise LedgerError(
                f"{path}: the input file can't be read: {error.strerror or error}",
                next_step="mend the permissions, or run the same command again to write it anew",
            ) from error
        with source:
            form = UploadForm(source, filename, expires_after_s=expires_after_s, on_progress=on_progress)
            call = Call(
                method="POST",
                path="/files",
                headers=form.headers,
                content=form.pieces(),
                read_s=self._timeouts.upload_read_s,
                total_s=self._upload_limit_s(form.size_bytes),
            )
            return judge(self._exchange.send(call), self._provider)

    def create_batch(
        self, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str]
    ) -> Accepted | Refused | Unknown:
        """Buy a batch: one request, on a connection of its own, never repeated."""
        body = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            "metadata": dict(metadata),
        }
        call = self._call(
            "POST", "/batches", content=encode_json(body), headers={"Content-Type": "application/json"}
        )
        return judge(self._exchange.send(call), self._provider)

    # ------------------------------------------------------------ calls that can be repeated

    def retrieve_batch(self, batch_id: str) -> BatchObject:
        """The batch as it is now (reads may lag). Raises ProviderError."""
        call = self._call("GET", f"/batches/{self._checked(batch_id)}")
        batch, reply = self._repeat(lambda: self._ask_once(call, read_batch))
        told_at = http_date(reply.headers.get("date", ""))
        return replace(batch, told_at_s=told_at.timestamp() if told_at else None)

    def cancel_batch(self, batch_id: str) -> BatchObject:
        """Cancel; the returned object may be older than the cancellation. Raises ProviderError."""
        return self._ask(
            self._call("POST", f"/batches/{self._checked(batch_id)}/cancel", content=b""), read_batch
        )

    def retrieve_file(self, file_id: str) -> FileObject:
        """The file's description. Raises ProviderError."""
        return self._ask(self._call("GET", f"/files/{self._checked(file_id)}"), read_file)

    def delete_file(self, file_id: str) -> bool:
        """Delete a file. True: the server said `deleted: true`, so a fence holds.

        Repeated where a reply is lost, so NotFoundYetError can also mean that it is gone. Raises
        ProviderError.
        """
        return self._ask(self._call("DELETE", f"/files/{self._checked(file_id)}"), _read_deleted)

    def list_batches(self, *, search: str | None = None, not_before_s: int | None = None) -> Scan:
        """Batches, newest first, back to `not_before_s` (Unix seconds) or to the end.

        `search` is left out where the provider has none; a hit is only a candidate. Raises ProviderError.
        """
        return self._walk("/batches", _read_listed_batch, search=search, not_before_s=not_before_s)

    def list_files(self, *, search: str | None = None, not_before_s: int | None = None) -> Scan:
        """Files, newest first; else as `list_batches`."""
        return self._walk("/files", _read_listed_file, search=search, not_before_s=not_before_s)

    def models(self) -> tuple[str, ...] | None:
        """The models on offer, or None where the server has no such listing. Raises ProviderError."""
        try:
            return self._ask(self._call("GET", "/models"), _read_models)
        except (NotFoundYetError, InvalidRequestError):
            return None

    def download(
        self,
        file_id: str,
        target: Path,
        *,
        skip: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> Download:
        """Read a file, from line `skip` on where the provider can (else from the start: see `skip` of the
        result), into `target`, which is created or emptied. `on_progress` gets the bytes so far.

        A transfer that broke after at least one line comes back with `is_whole` False. Raises
        ProviderError if not even that arrived (`target` is removed then), LedgerError if the disk refuses.
        """
        skip = skip if self._provider.reads_partial else 0
        call = self._call(
            "GET",
            f"/files/{self._checked(file_id)}/content",
            params={"skip": str(skip)} if skip else {},
            headers={"Accept": "*/*"},
        )
        return self._repeat(lambda: self._download_once(call, target, skip, on_progress))

    # ------------------------------------------------------------ the machinery

    def close(self) -> None:
        """Release what the client holds."""
        self._exchange.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Call:
        return Call(
            method=method,
            path=path,
            params=params or {},
            headers=headers or {},
            content=content,
            read_s=self._timeouts.read_s,
            total_s=self._timeouts.call_s,
        )

    def _upload_limit_s(self, size_bytes: int) -> float:
        timeouts = self._timeouts
        return timeouts.grace_s + timeouts.upload_read_s + size_bytes / timeouts.upload_floor

    def _ask(self, call: Call, read: Callable[[bytes], _Value | None]) -> _Value:
        return self._repeat(lambda: self._ask_once(call, read)[0])

    def _ask_once(self, call: Call, read: Callable[[bytes], _Value | None]) -> tuple[_Value, Reply]:
        result = self._exchange.send(call)
        if isinstance(result, Lost):
            raise self._error(call, _lost_problem(result))
        if not 200 <= result.status_code < 300:
            raise self._error(call, problem_of(result))
        value = None if result.is_cut else read(result.body)
        if value is None:
            raise self._error(call, self._unreadable(result))
        return value, result

    def _download_once(
        self, call: Call, target: Path, skip: int, on_progress: Callable[[int], None] | None
    ) -> Download:
        with self._exchange.open(call) as opened:
            if isinstance(opened, Lost):
                raise self._error(call, _lost_problem(opened))
            if not 200 <= opened.status_code < 300:
                raise self._error(call, problem_of(self._exchange.read(opened)))
            if "html" in opened.headers.get("content-type", "").lower():
                raise self._error(call, self._unreadable(self._exchange.read(opened)))
            download, why = receive(
                opened, target, skip=skip, timeouts=self._timeouts, on_progress=on_progress
            )
        if why is not None and not download.lines:
            target.unlink(missing_ok=True)
            message = f"the download broke off before its first line: {self._exchange.scrub(why)}"
            raise self._error(call, Problem(kind=ProblemKind.SERVER_TROUBLE, message=message))
        return download

    def _walk(
        self,
        path: str,
        read: Callable[[object], tuple[str, Listed] | None],
        *,
        search: str | None,
        not_before_s: int | None,
    ) -> Scan:
        base = {"limit": str(PAGE_SIZE)}
        if search and self._provider.searches:
            base["search"] = search

        def fetch(cursor: str | None) -> Page:
            params = base if cursor is None else {**base, "after": cursor}
            return self._ask(self._call("GET", path, params=params), lambda body: read_page(body, read))

        return walk(fetch, not_before_s=not_before_s)

    def _repeat(self, act: Callable[[], _Value]) -> _Value:
        patience = self._patience
        jitter = wait_random_exponential(multiplier=patience.first_wait_s, max=patience.max_wait_s)
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(patience.attempts) | stop_before_delay(patience.total_s),
            wait=lambda state: jitter(state) + _asked_wait_s(state),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(act)

    def _checked(self, object_id: str) -> str:
        """An id as part of an address: it came from a server, so it may be anything.

        Raises InvalidRequestError for one that could lead elsewhere.
        """
        if not ID.match(object_id):
            what = f"not an id that can be part of an address: {readable(object_id)!r}"
            raise error_for(Problem(kind=ProblemKind.INVALID_REQUEST, message=what), self._provider)
        return object_id

    def _error(self, call: Call, problem: Problem) -> ProviderError:
        return error_for(problem, self._provider, doing=f"{call.method} {call.path}")

    def _unreadable(self, reply: Reply) -> Problem:
        start = readable(self._exchange.scrub(reply.body[:200].decode("utf-8", errors="replace")))
        how = "cut off" if reply.is_cut else "not one that can be understood"
        return Problem(
            kind=ProblemKind.SERVER_TROUBLE,
            message=f"{reply.status_code}: the answer was {how}, it begins: {start}",
            status_code=reply.status_code,
        )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ProviderError) and error.problem.kind in _PASSING


def _asked_wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return (error.problem.retry_after_s or 0.0) if isinstance(error, ProviderError) else 0.0


def _lost_problem(lost: Lost) -> Problem:
    kind = ProblemKind.SERVER_TROUBLE if lost.was_sent else ProblemKind.UNREACHABLE
    return Problem(kind=kind, message=lost.why)


def _read_deleted(body: bytes) -> bool | None:
    if not body.strip():
        return False
    try:
        value = decode_json(body)
    except JsonError:
        return None
    return isinstance(value, dict) and value.get("deleted") is True


def _read_models(body: bytes) -> tuple[str, ...] | None:
    try:
        value = decode_json(body)
    except JsonError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    names = (text_or_none(model.get("id")) for model in value["data"] if isinstance(model, dict))
    return tuple(name for name in names if name is not None)


def _read_listed_batch(value: object) -> tuple[str, Listed] | None:
    batch = batch_from(value)
    return None if batch is None else (batch.batch_id, batch)


def _read_listed_file(value: object) -> tuple[str, Listed] | None:
    found = file_from(value)
    return None if found is None else (found.file_id, found)
