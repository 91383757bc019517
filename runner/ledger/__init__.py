"""The ledger: the SQL database that remembers every request, attempt, file, batch and answer.

The home of SQLAlchemy and Alembic; no SQL stands anywhere else. It stores what `runner.core` decided and
decides nothing itself; what must never happen is a constraint of the database.
"""

from runner.ledger.facts import ShardFact
from runner.ledger.kept_requests import KeptRequest, kept_path, load_requests
from runner.ledger.ledger import Ledger
from runner.ledger.locks import HeldElsewhereError, hold
from runner.ledger.place import LedgerPlace, locate
from runner.ledger.planning import PlanMovedError
from runner.ledger.records import (
    AttemptRecord,
    ChangedRow,
    Comparison,
    Expected,
    Ids,
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
)
from runner.ledger.restoring import Journaled, JournaledShard, Restoration, append_facts, read_journal
from runner.ledger.schedules import Claim, DueRecord, DueState, ScheduleRecord, Schedules
from runner.ledger.staging import Staging
from runner.ledger.submissions import CREATE_INTENDED, EXTRA_BATCH, EXTRA_OUTPUT
from runner.ledger.swapping import is_file_of_ours, scratch_folder, swap_in

__all__ = [
    "CREATE_INTENDED",
    "EXTRA_BATCH",
    "EXTRA_OUTPUT",
    "AttemptRecord",
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
    "Ledger",
    "LedgerPlace",
    "LedgerRow",
    "ManifestRecord",
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
    "Totals",
    "append_facts",
    "hold",
    "is_file_of_ours",
    "kept_path",
    "load_requests",
    "locate",
    "read_journal",
    "scratch_folder",
    "swap_in",
]
