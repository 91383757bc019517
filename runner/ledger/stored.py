"""Rows as they are stored, without an object for each: what a walk over a million of them reads.

The rule: a stored row is the database driver's own tuple, in the order of `Place`. What many rows share (a
shard's model and batch, a raw file's path) stands beside them once. `ledger_row` makes of one what everybody
else works with. Plain values only and no database in here, so that another process can be given them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.core.identity import custom_id
from runner.core.model import Fingerprint, Status
from runner.ledger.packing import (
    ANSWERED_CODES,
    STATUSES,
    unpack_finish_reason,
    unpack_model,
    unpack_response_id,
)
from runner.ledger.records import LedgerRow

StoredRow = tuple[Any, ...]


class Place:
    """What stands where in a stored row. All from FINGERPRINT to ANSWERED_AT is None where the row has no
    request. Plain numbers, because members of an enumeration are three times as slow to find by."""

    POSITION, OWN_KEY, REQUEST, FINGERPRINT, NAME = range(5)
    STATUS, ATTEMPTS, OPEN_SHARD, FAILED_SHARD = range(5, 9)
    SHARD, FINISH_REASON, INPUT_TOKENS, OUTPUT_TOKENS, MODEL = range(9, 14)
    RESPONSE_UUID, RESPONSE_ID, FILE, OFFSET, LENGTH, ANSWERED_AT = range(14, 20)
    ERROR_CLASS, ERROR_CODE, ERROR_MESSAGE = range(20, 23)


class StoredRows(NamedTuple):
    """Rows in the order of their positions. `shards` (model, batch id) and `paths` (of raw files), by their
    ids, have all that these rows name."""

    rows: Sequence[StoredRow]
    shards: Mapping[int | None, tuple[str, str | None]]
    paths: Mapping[int | None, str | None]


def ledger_row(
    values: StoredRow,
    shards: Mapping[int | None, tuple[str, str | None]],
    paths: Mapping[int | None, str | None],
) -> LedgerRow:
    """A stored row with all that is known of its answer."""
    (
        position, own_key, request_id, fingerprint, name, code, attempts, open_shard_id, _,
        shard_id, finish_reason, input_tokens, output_tokens, model,
        response_uuid, response_id, file_id, offset, length, answered_at,
        error_class, error_code, error_message,
    ) = values  # fmt: skip
    if request_id is None:
        return LedgerRow(
            position, own_key, Status.UNSENDABLE, error_class, error_code, error_message,
            None, None, None, None, None, None, None, 0, None, None, None, None, None,
        )  # fmt: skip
    key = name if own_key is None else own_key
    status = row_status(code, is_open=open_shard_id is not None)
    named = custom_id(name, Fingerprint(fingerprint))
    if status is Status.PENDING:
        _, batch_id = shards[open_shard_id]
        return LedgerRow(
            position, key, status, None, None, None,
            None, None, None, None, named, batch_id, None, attempts, None, fingerprint, None, None, None,
        )  # fmt: skip
    usual_model, batch_id = shards[shard_id]
    return LedgerRow(
        position, key, status, error_class, error_code, error_message,
        unpack_finish_reason(finish_reason), input_tokens, output_tokens, unpack_model(model, usual_model),
        named, batch_id, unpack_response_id(response_uuid, response_id), attempts, answered_at,
        fingerprint, paths[file_id], offset, length,
    )  # fmt: skip


def row_status(code: int | None, *, is_open: bool) -> Status:
    """A row's word: a failure that is asked again is pending, an answer stays an answer."""
    if code is None or (is_open and code not in ANSWERED_CODES):
        return Status.PENDING
    return STATUSES[code]
