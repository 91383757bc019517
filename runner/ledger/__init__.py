"""The ledger: the SQL database that remembers every request, attempt, file, batch and answer.

The home of SQLAlchemy and Alembic; no SQL stands anywhere else. It stores what `runner.core` decided and
decides nothing itself; what must never happen is a constraint of the database.

Where a ledger lies, and who holds its locks, is known without SQLAlchemy. All else is imported when it is
first asked for: importing it takes longer than checking a manifest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.ledger.locks import HeldElsewhereError, hold
from runner.ledger.place import LedgerPlace, locate
from runner.rooms import found_in

if TYPE_CHECKING:
    from runner.ledger.bulk import without_collector
    from runner.ledger.events import CREATE_INTENDED, EXTRA_BATCH, EXTRA_OUTPUT
    from runner.ledger.facts import ShardFact
    from runner.ledger.kept_requests import KeptRequest, kept_path, load_requests
    from runner.ledger.ledger import Ledger
    from runner.ledger.packing import (
        SUCCEEDED_CODE,
        pack_model,
        pack_response_id,
        unpack_finish_reason,
        unpack_model,
        unpack_response_id,
    )
    from runner.ledger.planning import PlanMovedError
    from runner.ledger.records import (
        AnswerValues,
        AttemptRecord,
        Awaited,
        ChangedRow,
        Comparison,
        Expected,
        Ids,
        LastColumns,
        LastRow,
        LedgerRow,
        ManifestRecord,
        PlannedShard,
        RawFile,
        RemoteInput,
        Repeatable,
        ResultKind,
        RunRecord,
        RunStart,
        RunState,
        ShardRecord,
        StagedBlock,
        StagedRow,
        StoredRaw,
        Totals,
        UnusedUpload,
        Verdict,
    )
    from runner.ledger.restoring import Journaled, JournaledShard, Restoration, append_facts, read_journal
    from runner.ledger.schedules import Claim, DueRecord, DueState, ScheduleRecord, Schedules
    from runner.ledger.staging import Staging
    from runner.ledger.stored import Place, StoredRow, StoredRows, ledger_row
    from runner.ledger.swapping import is_file_of_ours, scratch_folder, swap_in
    from runner.ledger.waits import WaitKind, Waits

__all__ = [
    "CREATE_INTENDED",
    "EXTRA_BATCH",
    "EXTRA_OUTPUT",
    "SUCCEEDED_CODE",
    "AnswerValues",
    "AttemptRecord",
    "Awaited",
    "ChangedRow",
    "Claim",
    "Comparison",
    "DueRecord",
    "DueState",
    "Expected",
    "HeldElsewhereError",
    "Ids",
    "Journaled",
    "JournaledShard",
    "KeptRequest",
    "LastColumns",
    "LastRow",
    "Ledger",
    "LedgerPlace",
    "LedgerRow",
    "ManifestRecord",
    "Place",
    "PlanMovedError",
    "PlannedShard",
    "RawFile",
    "RemoteInput",
    "Repeatable",
    "Restoration",
    "ResultKind",
    "RunRecord",
    "RunStart",
    "RunState",
    "ScheduleRecord",
    "Schedules",
    "ShardFact",
    "ShardRecord",
    "StagedBlock",
    "StagedRow",
    "Staging",
    "StoredRaw",
    "StoredRow",
    "StoredRows",
    "Totals",
    "UnusedUpload",
    "Verdict",
    "WaitKind",
    "Waits",
    "append_facts",
    "hold",
    "is_file_of_ours",
    "kept_path",
    "ledger_row",
    "load_requests",
    "locate",
    "pack_model",
    "pack_response_id",
    "read_journal",
    "scratch_folder",
    "swap_in",
    "unpack_finish_reason",
    "unpack_model",
    "unpack_response_id",
    "without_collector",
]

__getattr__ = found_in(
    __name__,
    __all__,
    (
        "records",
        "packing",
        "stored",
        "bulk",
        "ledger",
        "facts",
        "kept_requests",
        "planning",
        "restoring",
        "schedules",
        "staging",
        "events",
        "swapping",
        "waits",
    ),
)
