"""The ledger: the SQL database that remembers every request, attempt, file, batch and answer.

The home of SQLAlchemy and Alembic; no SQL stands anywhere else. It stores what `runner.core` decided and
decides nothing itself; what must never happen is a constraint of the database.
"""

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
    StagedRow,
    StoredRaw,
    Totals,
)
from runner.ledger.staging import Staging

__all__ = [
    "AttemptRecord",
    "ChangedRow",
    "Comparison",
    "Expected",
    "HeldElsewhereError",
    "Ids",
    "Ledger",
    "LedgerPlace",
    "LedgerRow",
    "ManifestRecord",
    "PlanMovedError",
    "PlannedShard",
    "RawFile",
    "RemoteInput",
    "Repeatable",
    "ResultKind",
    "RunRecord",
    "RunStart",
    "RunState",
    "ShardRecord",
    "StagedRow",
    "Staging",
    "StoredRaw",
    "Totals",
    "hold",
    "locate",
]
