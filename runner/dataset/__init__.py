"""Rows in: the dataset's files, or the query over them, as one immutable snapshot.

`take_snapshot` reads the input files once, at planning time, into a Parquet file with the columns
`_position` (from 0, in dataset order) and `_key` first. Rendering reads ranges of it (`read_rows`) and
publishing joins it with answers hours later, so an edit of the input in between can't mix up rows.
The home of duckdb for reading. Knows manifests and rows; must not know prompts, the ledger or providers.

Which files there are and whether they changed is known without DuckDB. All else is imported when it is first
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.dataset.inputs import InputFile, InputsState, contents_of_inputs, fingerprint_of_inputs
from runner.rooms import found_in

if TYPE_CHECKING:
    from runner.dataset.differing import differing_rows
    from runner.dataset.lacking import Lacking, lacking_mistake
    from runner.dataset.places import Differing, differing_places
    from runner.dataset.repeat_names import keys_like_repeats
    from runner.dataset.rows import Row, close_snapshots, range_rows, read_rows
    from runner.dataset.selection import select_rows
    from runner.dataset.snapshot import Column, Snapshot, describe, take_snapshot

__all__ = [
    "Column",
    "Differing",
    "InputFile",
    "InputsState",
    "Lacking",
    "Row",
    "Snapshot",
    "close_snapshots",
    "contents_of_inputs",
    "describe",
    "differing_places",
    "differing_rows",
    "fingerprint_of_inputs",
    "keys_like_repeats",
    "lacking_mistake",
    "range_rows",
    "read_rows",
    "select_rows",
    "take_snapshot",
]

__getattr__ = found_in(
    __name__, __all__, ("snapshot", "rows", "differing", "lacking", "places", "repeat_names", "selection")
)
