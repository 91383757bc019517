"""Our columns, their clashes, and what an answer's fields become."""

from __future__ import annotations

from typing import Any

import pytest

from runner.results import ResultColumn, check_columns, fields_of, lineage_columns


def types_of(schema: dict[str, Any]) -> dict[str, str]:
    columns = lineage_columns(schema, "", embeddings=False)
    return {column.name: column.sql_type for column in columns if not column.name.startswith("_")}


@pytest.mark.parametrize(
    ("declared", "sql_type"),
    [
        ({"type": "string"}, "VARCHAR"),
        ({"type": "integer"}, "BIGINT"),
        ({"type": "number"}, "DOUBLE"),
        ({"type": "boolean"}, "BOOLEAN"),
        ({"type": ["string", "null"]}, "VARCHAR"),
        ({"type": ["integer", "number"]}, "DOUBLE"),
        ({"type": ["string", "integer"]}, "JSON"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "BIGINT"),
        ({"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]}, "DOUBLE[]"),
        ({"enum": ["a", "b", None]}, "VARCHAR"),
        ({"enum": [1, 2.5]}, "DOUBLE"),
        ({"const": True}, "BOOLEAN"),
        ({"type": "array", "items": {"type": "string"}}, "VARCHAR[]"),
        ({"type": "array", "items": {"type": ["boolean", "null"]}}, "BOOLEAN[]"),
        ({"type": "array", "items": {"type": "object"}}, "JSON"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "JSON"),
        ({"type": "array"}, "JSON"),
        ({"type": "object"}, "JSON"),
        ({"$ref": "#/$defs/n"}, "BIGINT"),
        ({"$ref": "#/$defs/loop"}, "JSON"),
        ({"$ref": "https://example.org/x"}, "JSON"),
        ({}, "JSON"),
        (True, "JSON"),
    ],
)
def test_a_schemas_types_become_sql_types(declared: Any, sql_type: str) -> None:
    definitions = {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}
    assert types_of({"properties": {"f": declared}, "$defs": definitions}) == {"f": sql_type}


def test_lineage_columns_have_the_designs_names_and_order() -> None:
    columns = lineage_columns({"properties": {"b": {}, "a": {}}}, "p_", embeddings=True)
    assert [column.name for column in columns] == [
        "_key",
        "_status",
        "_answer",
        "p_b",
        "p_a",
        "_finish_reason",
        "_error_class",
        "_error_code",
        "_error_message",
        "_input_tokens",
        "_output_tokens",
        "_cost",
        "_model",
        "_custom_id",
        "_batch_id",
        "_response_id",
        "_attempts",
        "_repeat",
        "_answered_at",
        "_fingerprint",
        "_embedding",
    ]


@pytest.mark.parametrize("schema", [None, {}, {"type": "array"}, {"properties": 3}])
def test_a_schema_without_properties_adds_no_columns(schema: dict[str, Any] | None) -> None:
    assert len(lineage_columns(schema, "", embeddings=False)) == 18


def test_properties_behind_a_reference_and_in_all_of_are_found() -> None:
    schema: dict[str, Any] = {
        "$ref": "#/$defs/A",
        "$defs": {"A": {"allOf": [{"properties": {"x": {"type": "string"}}}]}},
    }
    assert types_of(schema) == {"x": "VARCHAR"}


def test_no_clash_no_mistake() -> None:
    assert check_columns(["id", "body"], lineage_columns(None, "", embeddings=False)) == []


def test_clashes_name_both_sides_and_the_way_out() -> None:
    schema: dict[str, Any] = {"properties": {"label": {}, "LABEL": {}, "_status": {}, "": {}}}
    mistakes = [
        str(mistake)
        for mistake in check_columns(
            ["Label", "_Key", "_position", "body", "BODY"], lineage_columns(schema, "", embeddings=False)
        )
    ]
    assert any("'_position' is reserved" in mistake for mistake in mistakes)
    assert any("'body' and 'BODY'" in mistake for mistake in mistakes)
    assert any("'Label'" in m and "'label'" in m and "output.prefix" in m for m in mistakes)
    assert any("'_Key'" in m and "'_key'" in m and "dataset.query" in m for m in mistakes)
    assert any("'label' and 'LABEL'" in m and "output.prefix" in m for m in mistakes)
    assert any("'_status' and '_status'" in m for m in mistakes)
    assert any("''" in mistake for mistake in mistakes)
    assert len(mistakes) == 7


def test_a_prefix_ends_a_clash() -> None:
    columns = lineage_columns({"properties": {"label": {}}}, "a_", embeddings=False)
    assert check_columns(["label"], columns) == []
    assert ResultColumn("a_label", "JSON") in columns


FIELDS = {
    "properties": {
        "s": {"type": "string"},
        "i": {"type": "integer"},
        "n": {"type": "number"},
        "b": {"type": "boolean"},
        "l": {"type": "array", "items": {"type": "integer"}},
        "j": {},
    }
}


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("s", '"x"', "x"),
        ("s", "1", None),
        ("s", "null", None),
        ("i", "7", 7),
        ("i", "7.0", 7),
        ("i", "7.5", None),
        ("i", "true", None),
        ("i", '"7"', None),
        ("i", "9223372036854775807", 2**63 - 1),
        ("i", "9223372036854775808", None),
        ("i", "1e400", None),
        ("i", "-9223372036854775808", -(2**63)),
        ("i", "123456789012345678901234567890", None),
        ("n", "7", 7.0),
        ("n", "1e-7", 1e-7),
        ("n", "false", None),
        ("n", "123456789012345678901234567890", 1.2345678901234568e29),
        ("b", "true", True),
        ("b", "1", None),
        ("l", "[1, null, 2]", [1, None, 2]),
        ("l", '[1, "x"]', None),
        ("l", "{}", None),
        ("l", "[]", []),
        ("j", '{"a": [1]}', {"a": [1]}),
        ("j", "0", 0),
    ],
)
def test_a_value_fits_its_column_or_is_null(name: str, written: str, value: object) -> None:
    fields = fields_of(f'{{"{name}": {written}}}', FIELDS)
    if written == "1e400":
        assert isinstance(fields, str | dict)  # no finite number: not strict JSON for every parser
        return
    assert isinstance(fields, dict)
    assert fields == {"s": None, "i": None, "n": None, "b": None, "l": None, "j": None} | {name: value}
    assert type(fields[name]) is type(value)


@pytest.mark.parametrize(
    "answer", ["", "no", "[1]", '"x"', "3", "null", '{"s": ', "```json\n{}\n```", "{}{}", '{"s": NaN}']
)
def test_an_answer_that_is_no_object_is_a_problem_in_words(answer: str) -> None:
    problem = fields_of(answer, FIELDS)
    assert isinstance(problem, str)
    assert problem.startswith("the answer is ")


def test_the_prefix_names_the_columns() -> None:
    assert fields_of('{"a": 1, "b": 2}', {"properties": {"a": {"type": "integer"}}}, prefix="p_") == {
        "p_a": 1
    }
