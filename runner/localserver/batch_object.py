"""The batch object: status by the server's table, and the JSON that clients see.

Theory
- A status is never stored. It is derived on each read from stamps and counts, top-down through
  `status_of`; that is why it can leave a terminal word again (cancel re-labels, retry re-opens).
- A batch with a cancel stamp counts its pending and in-flight requests as canceled at once.
- There is no `expired` status: a late batch stays in progress and shows `expired_at`.
- Fields without a value are left out, never null.
Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.core.wire import decode_json

RESERVED_METADATA = frozenset(
    {"created_by_email", "context_name", "context_type", "request_source", "created_by", "dw_user_agent"}
)
_HIDDEN_METADATA = ("dw_source_", "dw_sync_id", "dw_external_key")
OWNER_FIELDS: Mapping[str, str] = {
    "created_by_email": "local@localhost",
    "context_name": "local",
    "context_type": "personal",
}
TERMINAL = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Requests of a batch by state, as a reader sees them."""

    pending: int = 0
    in_flight: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        """Pending or in flight."""
        return self.pending + self.in_flight


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch as seen at one moment: row, ids of its files (None once deleted), counts."""

    seq: int
    id: str
    owner: str
    endpoint: str
    completion_window: str
    metadata: str
    total: int
    input: int | None
    output: int | None
    error: int | None
    input_file_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_us: int
    expires_us: int
    started_us: int | None
    finalizing_us: int | None
    completed_us: int | None
    failed_us: int | None
    cancelling_us: int | None
    cancelled_us: int | None
    retried_us: int | None
    before_retry: bytes | None
    counts: Counts

    @property
    def is_finished(self) -> bool:
        """Populated, and nothing pending or in flight (canceled requests are neither)."""
        return self.started_us is not None and (self.cancelling_us is not None or self.counts.open == 0)

    @property
    def is_unfinished_for_readers(self) -> bool:
        """What `X-Incomplete` says: completed + failed + canceled differ from the total."""
        canceled = self.counts.open if self.cancelling_us is not None else 0
        return self.counts.completed + self.counts.failed + canceled != self.total


def status_of(batch: BatchView) -> str:
    """The status word, by the first rule that fits."""
    if batch.cancelling_us is not None:
        return "cancelled" if batch.is_finished else "cancelling"
    if batch.started_us is None:
        return "failed" if batch.failed_us is not None else "validating"
    if not batch.is_finished:
        return "in_progress"
    if batch.counts.failed == batch.total:
        return "failed"
    if batch.completed_us is not None:
        return "completed"
    return "failed" if batch.failed_us is not None else "finalizing"


def needs_stamp(batch: BatchView) -> bool:
    """Finished, but nobody has written down when."""
    return (
        batch.is_finished
        and batch.cancelling_us is None
        and batch.completed_us is None
        and batch.failed_us is None
    )


def batch_object(
    batch: BatchView, now_us: int, *, with_owner: bool, analytics: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON object. `with_owner` adds what GET and list tell about the owner and create does not."""
    expired_us = batch.expires_us if now_us > batch.expires_us else None
    value: dict[str, Any] = {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id or "",
        "completion_window": batch.completion_window,
        "status": status_of(batch),
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": _seconds(batch.created_us),
        "in_progress_at": _seconds(batch.started_us),
        "expires_at": _seconds(batch.expires_us),
        "finalizing_at": _seconds(batch.finalizing_us),
        "completed_at": _seconds(batch.completed_us),
        "failed_at": _seconds(batch.failed_us),
        "expired_at": _seconds(expired_us),
        "cancelling_at": _seconds(batch.cancelling_us),
        "cancelled_at": _seconds(batch.cancelled_us),
        "request_counts": {
            "total": batch.total,
            "completed": batch.counts.completed,
            "failed": batch.counts.failed,
        },
        "metadata": _shown_metadata(batch.metadata, with_owner=with_owner),
        "analytics": analytics,
        "dwext": {"source": "api"},
    }
    return {name: item for name, item in value.items() if item is not None}


def _shown_metadata(stored: str, *, with_owner: bool) -> dict[str, str]:
    own: dict[str, str] = decode_json(stored)
    shown = {key: text for key, text in own.items() if not key.startswith(_HIDDEN_METADATA)}
    return {**shown, "request_source": "api", **(OWNER_FIELDS if with_owner else {})}


def kept_metadata(given: Mapping[str, str]) -> dict[str, str]:
    """What the server stores of a client's metadata: reserved keys are dropped without a word."""
    return {
        key: text for key, text in given.items() if key.lower().replace("-", "_") not in RESERVED_METADATA
    }


def _seconds(at_us: int | None) -> int | None:
    return None if at_us is None else at_us // 1_000_000
