"""The calls that a shard's life consists of, as they run in a worker thread.

A call touches the server and a scratch file, never the ledger: what it returns is recorded by the
engine's own thread. Nothing here decides whether to call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.commands.barrier import has_caught_up
from runner.commands.work import Message
from runner.core.model import Accepted, Download, Provider, Refused, Unknown
from runner.core.states import ShardState, Submission, looks_finished, scan_pause_s, seen
from runner.core.wire import BatchObject, FileObject
from runner.failpoints import failpoint
from runner.ledger import ResultKind
from runner.provider import InvalidRequestError, NotFoundYetError, ProviderError

if TYPE_CHECKING:
    from runner.provider import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A wish to read one result file from line `skip` on."""

    kind: ResultKind
    file_id: str
    skip: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a poll brought: the batch as seen, the files read, and what went wrong with which. `prepared`:
    what was made of files already, by the path of the download."""

    batch: BatchObject
    downloads: tuple[tuple[Read, Download], ...]
    errors: tuple[ProviderError, ...]
    prepared: Mapping[str, Message] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the engine already read of a batch's files; decides what the next poll reads.

    `output_lines` and `error_lines` were read so far; `from_start` asks for a full reading.
    """

    output_lines: int = 0
    error_lines: int = 0
    from_start: bool = False


PARTIAL_SHARE = 20
"""While a batch runs its output is read each time it grew by a twentieth of the batch."""


def upload(
    client: Client, path: Path, submission: Submission, provider: Provider, sent: Callable[[int], None]
) -> Accepted | Refused | Unknown:
    """One upload, one request on the wire."""
    failpoint("upload.sending")
    result = client.upload(
        path,
        submission.tags.filename,
        expires_after_s=provider.upload_expires_after_s,
        on_progress=sent,
    )
    failpoint("upload.answered")
    return result


def create(client: Client, submission: Submission) -> Accepted | Refused | Unknown:
    """One create, one request on the wire."""
    failpoint("create.sending")
    result = client.create_batch(
        submission.input_file_id or "",
        submission.endpoint,
        submission.completion_window,
        submission.tags.metadata(),
    )
    failpoint("create.answered")
    return result


def scan(client: Client, submission: Submission, provider: Provider) -> tuple[tuple[BatchObject, ...], bool]:
    """Batches of this attempt in the server's listings, and whether the listings were read to the end.

    With search, both the search and the unfiltered walk must agree that there is none. A key that does not
    see our own upload (another account's, or a replica far behind) proves nothing by what it does not see.
    A batch is younger than its input file, by the server's own clock: no walk goes further back than that.
    """
    failpoint("scan.begins")
    input_file = _input_file(client, submission)
    created_at_s = input_file.created_at_s if input_file is not None else None
    not_before_s = None if created_at_s is None else created_at_s - _ONE_CLOCK_S
    walks = [client.list_batches(search=None, not_before_s=not_before_s)]
    if provider.searches:
        walks.append(client.list_batches(search=submission.run, not_before_s=not_before_s))
    found = {
        batch.batch_id: batch
        for walk in walks
        for batch in walk.objects
        if submission.tags.match(batch, submission.input_file_id)
    }
    failpoint("scan.listed")
    is_complete = all(walk.is_complete for walk in walks)
    if not found and provider.has_fence and submission.state in _WITH_INPUT_FILE:
        is_complete = is_complete and input_file is not None
    failpoint("scan.answered")
    return tuple(found.values()), is_complete


def scan_after_fence(
    client: Client, submission: Submission, provider: Provider, shard_path: Path, scratch: Path
) -> tuple[tuple[BatchObject, ...], bool]:
    """As `scan`; complete only where what it reads is later than the fence."""
    is_late = has_caught_up(client, submission, shard_path, scratch, scan_pause_s(provider))
    matches, is_complete = scan(client, submission, provider)
    return matches, is_complete and is_late


def is_in_sight(client: Client, submission: Submission, provider: Provider) -> bool:
    """Whether another look at a held shard (`reexamined`) comes to something now: its batch is known; or,
    where it has none, one is listed, or the listings can be read to their end."""
    try:
        if submission.batch_id is not None:
            return client.retrieve_batch(submission.batch_id).batch_id == submission.batch_id
        matches, is_complete = scan(client, submission, provider)
    except ProviderError:
        return False
    return bool(matches) or is_complete


_WITH_INPUT_FILE = frozenset({ShardState.CREATING, ShardState.UNKNOWN})
_ONE_CLOCK_S = 600
"""Several machines may give a server's times."""


def sees_input_file(client: Client, submission: Submission) -> bool:
    """Whether the server shows the attempt's input file to this key."""
    return submission.input_file_id is not None and _input_file(client, submission) is not None


def _input_file(client: Client, submission: Submission) -> FileObject | None:
    """The attempt's input file as the server has it; None where it is deleted, not seen, or not told."""
    try:
        return client.retrieve_file(submission.input_file_id or "")
    except (NotFoundYetError, InvalidRequestError):
        return None


FenceReply = Literal["deleted", "missing", "unclear"]
"""What a delete of the input file came to: the server said so, it knows no such file, or it said neither."""


def draw_fence(client: Client, submission: Submission) -> FenceReply:
    """Delete the input file."""
    failpoint("fence.sending")
    reply: FenceReply
    try:
        reply = "deleted" if client.delete_file(submission.input_file_id or "") else "unclear"
    except NotFoundYetError:
        reply = "missing"
    failpoint("fence.answered")
    return reply


def is_file_gone(
    client: Client, submission: Submission, provider: Provider, shard_path: Path, scratch: Path
) -> bool:
    """Whether the input file is missing from reads that are later than this call."""
    if not has_caught_up(client, submission, shard_path, scratch, scan_pause_s(provider)):
        return False
    try:
        client.retrieve_file(submission.input_file_id or "")
    except NotFoundYetError:
        return True
    return False


def fetch(
    client: Client,
    submission: Submission,
    provider: Provider,
    progress: Progress,
    scratch: Path,
    prepare: Callable[[int, Download], Message | None] = lambda *_: None,
) -> Fetched:
    """Retrieve the batch and read what there is to read of its files; nothing where the server tells of
    another one. `prepare` is given the output file and the shard's id, once all have come."""
    failpoint("poll.sending")
    batch = client.retrieve_batch(submission.batch_id or "")
    failpoint("poll.answered")
    if batch.batch_id != submission.batch_id:
        return Fetched(batch=batch, downloads=(), errors=())  # of another batch: nothing of it is ours
    downloads: list[tuple[Read, Download]] = []
    errors: list[ProviderError] = []
    for read in reads_wanted(seen(submission, batch), provider, progress):
        target = scratch / f"{submission.shard_id}-{read.kind}.part"
        try:
            downloads.append((read, client.download(read.file_id, target, skip=read.skip)))
        except ProviderError as error:
            errors.append(error)
    outputs = [file for read, file in downloads if read.kind == "output"]
    found = {file.path: prepare(submission.shard_id, file) for file in outputs}
    return Fetched(
        batch=batch,
        downloads=tuple(downloads),
        errors=tuple(errors),
        prepared={path: message for path, message in found.items() if message is not None},
    )


def reads_wanted(submission: Submission, provider: Provider, progress: Progress) -> tuple[Read, ...]:
    """Which files to read now. Both to the end once the batch looks finished; the output as it grows."""
    finished = looks_finished(submission)
    reads = []
    output, error = submission.output_file_id, submission.error_file_id
    skips = provider.reads_partial and not progress.from_start
    if output is not None and (finished or _has_grown(submission, provider, progress)):
        reads.append(Read(kind="output", file_id=output, skip=progress.output_lines if skips else 0))
    if error is not None and finished:
        reads.append(Read(kind="error", file_id=error, skip=0))
    return tuple(reads)


def _has_grown(submission: Submission, provider: Provider, progress: Progress) -> bool:
    if not provider.reads_partial or submission.completed is None:
        return False
    step = max(submission.requests // PARTIAL_SHARE, 1)
    return submission.completed - progress.output_lines >= step
