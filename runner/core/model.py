"""The shared values: what a manifest says, what a provider can do, what became of a row.

Frozen, parsed once at the edge, passed downward. Paths are absolute strings here, because the core
touches no file system. Sizes are bytes of the encoded line, newline included; times are aware UTC
datetimes or Unix seconds with `_s` in the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple, NewType

Fingerprint = NewType("Fingerprint", bytes)
"""16 bytes; the identity of a request (see `core.identity`)."""
CustomId = NewType("CustomId", str)
BatchId = NewType("BatchId", str)
FileId = NewType("FileId", str)


# ---------------------------------------------------------------- the manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a YAML file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings:
    """`dataset:`. `paths` are absolute paths or globs; `key` is empty where content identifies a row."""

    paths: tuple[str, ...]
    query: str | None = None
    key: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """`prompt:`. `template` is an absolute path; `params` reach the template as `params`."""

    template: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """`model.provider:`. Either a profile's name, or a server of one's own (`name` is then None).

    Every other field overrides the profile where it is not None. `upstream` is for `local` only.
    """

    name: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    upstream: str | None = None
    max_file_bytes: int | None = None
    max_requests_per_file: int | None = None
    max_body_bytes: int | None = None
    poll_interval_s: float | None = None
    settle_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """`model.prices:`, in `currency` per million tokens, as the batch tariff of the window says."""

    input_per_million: float
    output_per_million: float
    currency: str = "USD"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """`model:`. `parameters` go into the request body as they are."""

    provider: ProviderSettings
    name: str
    endpoint: str = "/v1/chat/completions"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """`batch:`. Limits lower the provider's, never raise them."""

    completion_window: str = "24h"
    max_file_bytes: int | None = None
    max_requests_per_file: int | None = None
    max_open_batches: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """`output:`. `paths` are absolute; `schema` is the JSON Schema document, `schema_path` its file.

    `prefix` is put before the names of the schema's fields as columns. `csv_safe` defuses formulas.
    """

    paths: tuple[str, ...]
    schema: Mapping[str, Any] | None = None
    schema_path: str | None = None
    prefix: str = ""
    csv_safe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """`allow_failures:`. A share of rows (0.005 for `0.5%`) or a count; `declared` if the user wrote it."""

    share: float | None = None
    count: int | None = 0
    declared: bool = False

    def allows(self, failed: int, rows: int) -> bool:
        """Whether `failed` of `rows` rows is tolerated. Exact: 29 of 100 rows are 29%, which floats deny."""
        if self.share is not None:
            return failed <= Fraction(repr(self.share)) * rows
        return failed <= (self.count or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The wait before another attempt: `initial_s`, times `factor` for each further one, up to `max_s`."""

    initial_s: float
    factor: float
    max_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """`retry:`. `attempts` counts all sendings of one request, the first included.

    What `retry.backoff` leaves out is None here and the provider's.
    """

    attempts: int = 3
    initial_s: float | None = None
    factor: float | None = None
    max_s: float | None = None

    def backoff(self, usual: Backoff) -> Backoff:
        """The pauses that the manifest means, `usual` being the provider's."""
        return Backoff(
            initial_s=usual.initial_s if self.initial_s is None else self.initial_s,
            factor=usual.factor if self.factor is None else self.factor,
            max_s=usual.max_s if self.max_s is None else self.max_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedSettings:
    """`on_truncated:`. An answer cut at the token limit is asked again with the limit times `factor`, as
    often as that helps, up to `ceiling` tokens. Each step is a request of its own."""

    factor: float
    ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`budget:`, in the currency of the prices."""

    max_cost: float | None = None
    confirm_above: float = 10.0


class Occasion(StrEnum):
    """What `notify.on` can name: the end of a run that somebody is told of."""

    FAILED = "failed"
    COMPLETED = "completed"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifySettings:
    """`notify:`. `url_env` names the environment variable that holds the address, which is a secret."""

    url_env: str
    on: tuple[Occasion, ...] = (Occasion.FAILED, Occasion.BUDGET)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """`schedule:`. `cron` has five fields, read by the clock of `timezone` (an IANA name).

    `overlap` (`skip`, `queue`, `replace`): what a due time does whose predecessor is still running.
    `missed` (`latest`, `none`, `all`): which of the due times are made up for at which nobody looked.
    `start_within_s`: not started later than so long after the due time; None: however late.
    `jitter_s`: started up to so long after the due time. `reprocess` (`changed`, `failed`, `all`): what is
    asked beside new and changed rows; `refresh_older_than_s` for `{older_than: ...}`, else None.
    """

    cron: str
    timezone: str = "UTC"
    overlap: str = "skip"
    missed: str = "latest"
    start_within_s: float | None = None
    jitter_s: float = 0.0
    reprocess: str = "changed"
    refresh_older_than_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """The moments a run is about; aware. They reach the template as `run`, the query as `$parameters`.

    `scheduled_at` is the due time, `previous_scheduled_at` that of the run before which was carried out,
    `started_at` the moment at which this one began. Of one due time they are always the same, however often
    it is tried.
    """

    scheduled_at: datetime
    previous_scheduled_at: datetime
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest after `extends`, profile, `--set` and interpolation; everything in it was checked.

    `path` is the absolute path of the file, `name` its name or the file's stem.
    `positions` maps a dotted path (`dataset.path`, `dataset.path.0`) to where it was written.
    `canonical` is the whole resolved document as sorted JSON bytes (for digests and history; no secrets,
    because secrets are only ever named). `on_edit`: `keep` lets batches finish that nobody wants any
    more, `cancel` stops them.
    """

    path: str
    name: str
    description: str | None
    dataset: DatasetSettings
    prompt: PromptSettings
    model: ModelSettings
    batch: BatchSettings
    output: OutputSettings
    retry: RetrySettings
    allow_failures: Tolerance
    budget: Budget
    positions: Mapping[str, Position]
    canonical: bytes
    on_truncated: TruncatedSettings | None = None
    refresh_older_than_s: float | None = None
    repeats: int = 1
    on_edit: str = "keep"
    schedule: ScheduleSettings | None = None
    notify: NotifySettings | None = None

    def where(self, path: str) -> str:
        """`file:line:column` of a dotted path, or of its nearest parent that was written."""
        while path:
            if path in self.positions:
                return str(self.positions[path])
            path = path.rpartition(".")[0]
        return self.path


# ---------------------------------------------------------------- the provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one input file may hold. Source: the provider's profile, lowered by the manifest."""

    max_file_bytes: int
    max_requests_per_file: int
    max_body_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A server profile, resolved: everything that differs between servers, as data.

    `identity` names the server in fingerprints: its base URL, or `local` for the built-in server, whose
    port changes. `windows` is empty where nothing is known. `has_fence`: deleting an input file makes a
    later create fail and cancels what a lost one made (exactly-once protocol). `cancel_grace_s`: so long
    after a cancel answers that were in flight may still come, and be billed. `searches`: listings take
    `search`. `reads_partial`: result files can be read while the batch runs, with `skip`.
    `plain_errors`: refusals are plain text, so a text body on a 4xx is the server's own word.
    """

    name: str
    identity: str
    base_url: str
    api_key_env: str | None
    limits: Limits
    endpoints: tuple[str, ...]
    windows: tuple[str, ...] = ()
    poll_interval_s: float = 30.0
    settle_s: float = 900.0
    cancel_grace_s: float = 3600.0
    backoff: Backoff = Backoff(initial_s=30.0, factor=2.0, max_s=600.0)
    max_open_batches: int = 32
    has_fence: bool = False
    echoes_metadata: bool = True
    searches: bool = False
    reads_partial: bool = False
    plain_errors: bool = False
    is_local: bool = False
    upstream: str | None = None
    upload_expires_after_s: int | None = None

    @property
    def server(self) -> str:
        """Where files and batches are. The built-in server is one, whoever answers behind it."""
        return "local" if self.is_local else self.base_url


# ---------------------------------------------------------------- rows, requests, outcomes


class Status(StrEnum):
    """How a row ended, as the results table says it (`_status`)."""

    SUCCEEDED = "succeeded"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    INVALID = "invalid"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNACCOUNTED = "unaccounted"
    UNSENDABLE = "unsendable"
    PENDING = "pending"


class Message(NamedTuple):
    """One message of a prompt. There is one for every row, hence no dataclass."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a row can't be sent, or why a request failed.

    `error_class` is one of our words (`missing_variable`, `template_error`, `empty_prompt`,
    `body_too_large`, `invalid_request`, `rate_limited`, `server_error`, ...), `code` the server's word or
    HTTP status as text, `message` one readable line.
    """

    error_class: str
    message: str
    code: str | None = None


class Outcome(NamedTuple):
    """What one attempt of one request came to, judged from its result line (or from its absence).

    Tokens are None where the server did not say. `model` is the model as answered. `retryable`: the cause may
    pass. `blocked`: it is the account's (key, credit), not the request's, so it takes a person, and the
    attempt does not count. `queued_out`: the server's queue was full and nothing of the batch was begun: it
    does not count either. `retry_after_s`: how long the server asked to wait.
    """

    status: Status
    finish_reason: str | None = None
    cause: Cause | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    response_id: str | None = None
    retryable: bool = False
    blocked: bool = False
    retry_after_s: float | None = None
    queued_out: bool = False


# ---------------------------------------------------------------- what a provider answers


class ProblemKind(StrEnum):
    """One kind for each thing that a person, or the program, does about it."""

    AUTHENTICATION = "authentication"  # set or renew the key
    PAYMENT = "payment"  # add credit
    CAPACITY = "capacity"  # wait, widen the window, send less
    VOLUME = "volume"  # verify the account: waiting may never help
    INVALID_REQUEST = "invalid_request"  # change the manifest or the data
    TOO_LARGE = "too_large"  # split smaller
    NOT_FOUND = "not_found"  # perhaps not yet visible: ask again before believing it
    SERVER_TROUBLE = "server_trouble"  # 5xx, HTML, cut replies: wait
    UNREACHABLE = "unreachable"  # no byte of the request left this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong in one call, as a value. `message` holds no secrets and no control characters."""

    kind: ProblemKind
    message: str
    status_code: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The server took an upload or a create. `object_id` is its id; `raw` the reply as received."""

    object_id: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Surely not done: a typed refusal in the server's own error shape, or nothing was sent."""

    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It may have been done: a timeout, a reset, 5xx, a cut or foreign reply."""

    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A downloaded result file, or its part from line `skip` on.

    `lines` counts complete lines (a torn last line is not counted and not kept); `is_whole` says that
    the transfer ended as the protocol promises. `incomplete` and `last_line` are the headers
    `X-Incomplete` and `X-Last-Line`, None where absent: hints, not proof.
    """

    path: str
    size_bytes: int
    lines: int
    skip: int
    is_whole: bool
    incomplete: bool | None
    last_line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A walk through a listing. `is_complete` only if it reached its end without a repeated cursor."""

    is_complete: bool
    objects: tuple[Any, ...]
