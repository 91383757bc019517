"""Plain scalars, sizes, durations and shares."""

from __future__ import annotations

import math

import pytest

from runner.manifest.scalars import duration_s, percent_share, read_plain, size_bytes


@pytest.mark.parametrize(
    "text",
    [
        *("no", "No", "NO", "on", "off", "yes", "y", "n", "tRUE", "nULL"),
        *("12:30:45", "2026-01-01", "2026-01-01T00:00:00Z", "0777", "00", "1_000", "0b1", "0X1F", "0o8"),
        *("1e", "e1", ".", "-", "+", "+-1", "0x", "inf", "nan", ".Nan", "1.2.3", "007.5", "-012", "=", "1,5"),
    ],
)
def test_what_the_core_schema_does_not_name_stays_text(text: str) -> None:
    assert read_plain(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False", "FALSE")),
        *(("0", 0), ("-0", 0), ("+12", 12), ("-3", -3), ("0o17", 15), ("0x1F", 31)),
        *(("0.5", 0.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-2", -0.015)),
        *((".inf", math.inf), ("-.INF", -math.inf), ("1e999", math.inf), ("9" * 5000, math.inf)),
    ],
)
def test_the_core_schema_of_yaml_1_2_decides(text: str, value: object) -> None:
    read = read_plain(text)
    assert read == value
    assert type(read) is type(value)


def test_nan_is_a_float() -> None:
    read = read_plain(".nan")
    assert isinstance(read, float)
    assert math.isnan(read)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("90MB", 90_000_000), ("100MiB", 104_857_600), ("1.5 kB", 1500), ("7", 7), ("1GiB", 2**30), (12, 12)],
)
def test_sizes_are_bytes(value: str | int, wanted: int) -> None:
    assert size_bytes(value) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"), [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), (7, 7.0)]
)
def test_durations_are_seconds(value: str | int, wanted: float) -> None:
    assert duration_s(value) == wanted


def test_a_share_is_a_part_of_one() -> None:
    assert percent_share("0.5%") == 0.005
