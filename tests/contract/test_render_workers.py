"""What workers render is what this process renders, byte for byte: odd values, faults of rows, limits."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.commands.render_pool import render_all, render_pool
from runner.commands.rendering import Rendered, RenderSource
from runner.core.model import Cause
from tests.fault.render_factories import make_source, pieces_of, render_workers, rendered_here, rows_of

ODD_VALUES = """
SELECT 'k' || CASE WHEN _position_ % 3 = 0 THEN ' ü/"\\' ELSE '' END || '.' || _position_ AS id,
    _position_ AS n,
    CASE WHEN n % 7 = 0 THEN NULL ELSE DATE '2024-02-28' + CAST(n % 3 AS INTEGER) END AS day,
    TIMESTAMP '1999-12-31 23:59:59.999999' + INTERVAL (n % 5) SECOND AS moment,
    TIMESTAMPTZ '2001-01-01 00:00:00+02' AS zoned,
    CAST(n AS DECIMAL(18, 3)) / 7 AS amount,
    CAST(n AS HUGEINT) * 100000000000000000000 AS huge,
    CASE n % 4 WHEN 0 THEN 'NaN'::DOUBLE WHEN 1 THEN 'Infinity'::DOUBLE WHEN 2 THEN n / 3 ELSE -0.0 END AS x,
    [1, NULL, n] AS list,
    {'a': n, 'b': [{'c': 'é😀\u2028'}, NULL], 'd': MAP {'k': n % 2 = 0}} AS nested,
    '{"z": [1, 1.0, 123456789012345678901234567890]}'::JSON AS doc,
    'line\n\ttab \u0000 "quoted" \\ ' || repeat('é', CAST(n % 50 AS INTEGER)) AS text,
    n % 2 = 0 AS flag
FROM (SELECT CAST(id[2:] AS BIGINT) AS _position_ FROM dataset)
"""
PRINTS_ALL = """{% set ns = namespace(seen=0) %}
{% block system %}Be {{ params.tone }}.{% endblock %}
{% block user %}
{% if n % 11 == 5 %}{{ day.nothing }}{% endif %}
{% if n % 13 == 6 %}{{ text + 1 }}{% endif %}
{% if n % 17 == 3 %}{{ "ab" * 40000 }}{% endif %}
{% for item in list %}{% set ns.seen = ns.seen + 1 %}{{ item }},{% endfor %}{{ ns.seen }}
{{ day }} {{ moment }} {{ zoned }} {{ amount }} {{ huge }} {{ x }} {{ nested }} {{ doc.z }}
{{ text }} {{ flag }} {{ row | tojson }}
{% endblock %}"""


def _both(source_and_rows: tuple[RenderSource, int]) -> tuple[list[Rendered], list[Rendered]]:
    source, rows = source_and_rows
    with render_pool(source, rows, 2) as pool:
        there = rows_of(pieces_of(pool), source)
    return there, rendered_here(source, rows)


def test_odd_values_and_faults_of_rows_come_out_the_same(tmp_path: Path) -> None:
    ids = [{"id": f"k{number}"} for number in range(1_500)]
    there, here = _both(make_source(tmp_path, ids, PRINTS_ALL, query=ODD_VALUES, tone="kind"))
    assert there == here
    assert [row.position for row in here] == list(range(1_500))
    classes = {row.cause.error_class for row in here if row.cause is not None}
    assert classes == {"missing_variable", "template_error", "prompt_too_large"}
    cause = here[5].cause
    assert cause is not None
    assert "prompt.j2:4: " in cause.message
    assert sum(row.fingerprint is not None for row in here) > 1_000


def test_the_limits_of_a_row_hold_in_a_worker(tmp_path: Path) -> None:
    bombs = {
        "time": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "text": "{% for i in range(60000) %}x{% endfor %}",
        "value": "{{ 'x' * 10000000 }}",
        "wide": '{{ "%0999999999d" % 1 }}',
    }
    cases = "".join(f"{{% if id == '{name}' %}}{bomb}{{% endif %}}" for name, bomb in bombs.items())
    rows = [{"id": name} for name in (*bombs, "harmless")]
    there, here = _both(make_source(tmp_path, rows, f"{cases}{{{{ id }}}}"))
    assert [row.cause and row.cause.error_class for row in there] == [
        "render_timeout",
        "prompt_too_large",
        "template_error",
        "template_error",
        None,
    ]
    for one, other in zip(there, here, strict=True):
        if isinstance(one.cause, Cause) and one.cause.error_class == "render_timeout":
            continue  # how many rounds fit into a second is nobody's promise
        assert one == other


@pytest.mark.parametrize(
    "used", ["{{ text }}", "{{ row.text }}", "{{ row['te' ~ 'xt'] }}", "{% set text = 1 %}"]
)
def test_a_template_gets_the_columns_that_it_names(tmp_path: Path, used: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "text": "one", "other": 1},
        {"id": "b", "text": None, "other": 2.5},
    ]
    there, here = _both(make_source(tmp_path, rows, used + "{{ '!' ~ (text is defined) }}"))
    assert there == here
    assert [row.cause for row in here] == [None, None]


def test_workers_take_over_where_the_first_rows_show_that_it_is_worth_it(tmp_path: Path) -> None:
    loop = "{% for i in range(30000) %}{% endfor %}{{ id }}"
    source, rows = make_source(tmp_path, [{"id": f"k{number}"} for number in range(3_000)], loop)
    found = render_all(source, rows)
    first = next(found)
    assert render_workers() == []
    seen = len(first.keys)
    for piece in found:
        assert piece.start == seen
        seen += len(piece.keys)
        if render_workers():
            break
    else:
        pytest.fail("no worker was started")
    found.close()
    assert render_workers() == []


def test_one_processor_renders_alone(tmp_path: Path) -> None:
    script = tmp_path / "alone.py"
    script.write_text(
        "import os, pickle, subprocess, sys\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "subprocess.Popen = None\n"
        "from runner.commands.render_pool import render_all\n"
        "source, rows = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(sum(len(piece.keys) for piece in render_all(source, rows)))\n"
    )
    loop = "{% for i in range(30000) %}{% endfor %}{{ id }}"
    made = make_source(tmp_path, [{"id": f"k{number}"} for number in range(700)], loop)
    (tmp_path / "source").write_bytes(pickle.dumps(made))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "source")], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("700\n", "")
