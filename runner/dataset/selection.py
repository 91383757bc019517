"""Which rows of a snapshot a condition selects. The condition is SQL of the person at the keyboard.

Runs on a locked connection that can read the snapshot and nothing else.
"""

# ruff: noqa: S608 - the condition is parsed alone before it is put into a statement
from __future__ import annotations

import duckdb

from runner.dataset import engine
from runner.dataset.refusals import plain
from runner.errors import InputError, Mistake


def select_rows(path: str, condition: str, rows: int) -> bytearray:
    """One byte for each row of the snapshot: 1 where `condition` is true of it.

    The dataset's columns stand under their names, its key under `_key`.
    Errors: InputError where the condition is not SQL, not one expression, or names unknown columns.
    """
    selected = bytearray(rows)
    connection = engine.connect(files=[path])
    try:
        _check(connection, condition)
        found = connection.execute(
            f"SELECT _position FROM read_parquet({engine.text(path)}) WHERE (\n{condition}\n)"
        )
        while batch := found.fetchmany(10_000):
            for (position,) in batch:
                selected[position] = 1
    except duckdb.Error as error:
        raise InputError([_mistake(plain(str(error)))]) from error
    finally:
        connection.close()
    return selected


def _check(connection: duckdb.DuckDBPyConnection, condition: str) -> None:
    """One expression, parsed by itself: what closes our parenthesis is a syntax error here."""
    if not condition.strip():
        raise InputError([_mistake("the condition is empty")])
    statements = connection.extract_statements(f"SELECT (\n{condition}\n)")
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError([_mistake("not one SQL condition")])


def _mistake(what: str) -> Mistake:
    return Mistake(where="--where", what=what, hint="a condition such as \"section = 'games'\"")
