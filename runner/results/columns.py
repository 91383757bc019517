"""The columns that are ours in a results table: their names, types and order; and their clashes.

The dataset's columns come first, as they came; ours follow in the order given here. Column names are
compared without regard to case, because DuckDB and SQLite fold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import Mistake
from runner.results.fields import schema_fields

POSITION = "_position"
KEY = "_key"
NOT_SHOWN = (POSITION, KEY, "_written")
"""Columns of a snapshot that are not the dataset's."""


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One of our columns; `sql_type` as DuckDB writes it (`VARCHAR`, `BIGINT`, `DOUBLE[]`, `JSON`, ...)."""

    name: str
    sql_type: str


_BEFORE_FIELDS = (
    ResultColumn(KEY, "VARCHAR"),
    ResultColumn("_status", "VARCHAR"),
    ResultColumn("_answer", "VARCHAR"),
)
_AFTER_FIELDS = (
    ResultColumn("_finish_reason", "VARCHAR"),
    ResultColumn("_error_class", "VARCHAR"),
    ResultColumn("_error_code", "VARCHAR"),
    ResultColumn("_error_message", "VARCHAR"),
    ResultColumn("_input_tokens", "BIGINT"),
    ResultColumn("_output_tokens", "BIGINT"),
    ResultColumn("_cost", "DOUBLE"),
    ResultColumn("_model", "VARCHAR"),
    ResultColumn("_custom_id", "VARCHAR"),
    ResultColumn("_batch_id", "VARCHAR"),
    ResultColumn("_response_id", "VARCHAR"),
    ResultColumn("_attempts", "BIGINT"),
    ResultColumn("_repeat", "BIGINT"),
    ResultColumn("_answered_at", "TIMESTAMP WITH TIME ZONE"),
    ResultColumn("_fingerprint", "VARCHAR"),
)
_EMBEDDING = ResultColumn("_embedding", "DOUBLE[]")
LINEAGE_TYPES = {column.name: column.sql_type for column in (*_BEFORE_FIELDS, *_AFTER_FIELDS, _EMBEDDING)}


def lineage_columns(
    schema: Mapping[str, Any] | None, prefix: str, *, embeddings: bool
) -> tuple[ResultColumn, ...]:
    """Our columns in the order of the table; `prefix` goes before the names of the schema's fields."""
    fields = (ResultColumn(prefix + name, sql_type) for name, sql_type in schema_fields(schema))
    return (*_BEFORE_FIELDS, *fields, *_AFTER_FIELDS, *([_EMBEDDING] if embeddings else []))


def check_columns(dataset_columns: Sequence[str], columns: Sequence[ResultColumn]) -> list[str | Mistake]:
    """Every clash of names, with both sides and the way out. Empty: the table can be written."""
    mistakes: list[str | Mistake] = []
    theirs: dict[str, str] = {POSITION: POSITION}
    for name in dataset_columns:
        earlier = theirs.setdefault(name.casefold(), name)
        if name.casefold() == POSITION:
            mistakes.append(f"column {name!r} is reserved for the row's place; {_RENAME}")
        elif earlier is not name:
            mistakes.append(f"columns {earlier!r} and {name!r} differ in nothing but case; {_RENAME}")
    ours: dict[str, str] = {}
    for column in columns:
        mistakes.extend(_clashes(column.name, theirs, ours))
        ours.setdefault(column.name.casefold(), column.name)
    return mistakes


_RENAME = "rename it in `dataset.query`: SELECT * RENAME (old AS new) FROM dataset"


def _clashes(name: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    folded = name.casefold()
    is_lineage = name in LINEAGE_TYPES
    found = []
    if not name or "\0" in name:
        found.append(f"the schema's field {name!r} can't name a column; rename it")
    if folded in ours:
        found.append(
            f"results columns {ours[folded]!r} and {name!r} have the same name (case does not count): "
            "a field of `output.schema` meets another column; set `output.prefix`, or rename the field"
        )
    elif folded in theirs:
        if is_lineage:
            found.append(
                f"column {theirs[folded]!r} of the dataset clashes with {name!r} of the results; {_RENAME}"
            )
        else:
            found.append(
                f"column {theirs[folded]!r} of the dataset clashes with the field {name!r} of "
                f"`output.schema`; set `output.prefix`, for instance `output: {{prefix: answer_}}`"
            )
    return found
