"""The query over the dataset: exactly one SELECT, nothing else.

The statement is parsed by DuckDB itself, alone, before it is put inside another; so what closes a parenthesis
or opens a comment to break out is a syntax error here. What a SELECT may reach is `engine`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from runner.core.model import Manifest
from runner.dataset.refusals import query_mistake
from runner.errors import InputError, Mistake

_AT = "dataset.query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The SQL whose rows are the dataset's rows, and the values of its `$names`."""

    sql: str
    parameters: Mapping[str, object]


def source_of(
    connection: duckdb.DuckDBPyConnection, manifest: Manifest, parameters: Mapping[str, object]
) -> Source:
    """The manifest's query, checked, or all of `dataset`. Raises InputError."""
    query = manifest.dataset.query
    if query is None:
        return Source(sql="SELECT * FROM dataset", parameters={})
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise InputError([query_mistake(manifest, error)]) from error
    if len(statements) != 1:
        what = f"{len(statements)} statements" if statements else "no statement"
        raise InputError([_mistake(manifest, f"{what} where one SELECT is expected")])
    statement = statements[0]
    if statement.type != duckdb.StatementType.SELECT:
        what = f"a {statement.type.name} statement where one SELECT is expected"
        raise InputError([_mistake(manifest, what)])
    return _bound(manifest, query, statement.named_parameters, parameters)


def _bound(manifest: Manifest, query: str, wanted: set[str], parameters: Mapping[str, object]) -> Source:
    """Only what the query names is bound; DuckDB refuses what is left over."""
    missing = sorted(wanted - set(parameters))
    if missing:
        hint = f"known: {', '.join(sorted(parameters))}" if parameters else ""
        raise InputError([_mistake(manifest, f"${name} has no value", hint) for name in missing])
    values = {name: parameters[name] for name in wanted}
    return Source(sql=_without_semicolon(query), parameters=values)


def _without_semicolon(query: str) -> str:
    """The statement's own text: it is one statement, so the last semicolon outside comments ends it.

    A view of DuckDB's tokens decides what is a comment or a text; everything after the last token is dropped.
    """
    tokens = duckdb.tokenize(query)
    data = query.encode()
    ends = [(offset, kind) for offset, kind in tokens if kind != duckdb.token_type.comment]
    cut = len(data)
    for offset, _ in reversed(ends):
        if data[offset : offset + 1] != b";":
            break
        cut = offset
    return data[:cut].decode()


def _mistake(manifest: Manifest, what: str, hint: str = "") -> Mistake:
    return Mistake(where=manifest.where(_AT), path=_AT, what=what, hint=hint)
