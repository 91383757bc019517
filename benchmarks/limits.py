"""What this machine does with the bare parts of the work, one after another, in one process and on one core.

    python -m benchmarks.limits plan TICKETS.csv FOLDER
    python -m benchmarks.limits answers OUTPUT.jsonl SNAPSHOT.csv FOLDER

No part of the program is used: each block is the fastest way that was found to do just that step with the
same libraries, without any of the care that makes a run safe. One JSON line for each block: what, rows,
seconds. The sum of the seconds is what a program without any overhead would take.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import orjson
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from benchmarks.measure import tell
from benchmarks.rows import COLUMNS, SYSTEM, TEMPLATE

_FETCH_ROWS = 5_000
_COMMIT_ROWS = 10_000
_SHARD_LINES = 50_000


class _Clock:
    """Seconds of each block on the wall and on the cores, summed up over the pieces that it is done in."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def block(self, what: str) -> Iterator[None]:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        yield
        self.seconds[what] += time.perf_counter() - began_s
        self.cpu_seconds[what] += time.process_time() - cpu_began_s

    def tell(self, rows: int) -> None:
        for what, seconds in self.seconds.items():
            tell("block", what=what, rows=rows, seconds=seconds, cpu_seconds=self.cpu_seconds[what])


# ---------------------------------------------------------------- the way out


def plan(dataset: Path, folder: Path) -> None:
    """Read, render, encode, hash, insert, write: block by block, a few thousand rows at a time."""
    clock = _Clock()
    render = _bare_render()
    rows = 0
    with closing(_bare_ledger(folder / "bare.db")) as ledger, (folder / "bare.jsonl").open("wb") as lines:
        batches = _batches(dataset)
        while True:
            with clock.block("read (DuckDB)"):
                batch = next(batches, None)
            if batch is None:
                break
            with clock.block("render (Jinja2, one context)"):
                prompts = [render(row) for row in batch]
            with clock.block("encode (orjson)"):
                bodies = [_encoded(prompt) for prompt in prompts]
            with clock.block("hash (SHA-256)"):
                digests = [sha256(body).digest()[:16] for body in bodies]
            keys = [row[0] for row in batch]
            with clock.block("insert (SQLite)"):
                _insert(ledger, rows, keys, digests)
            with clock.block("write (disk)"):
                lines.writelines(_lines(keys, digests, bodies))
            rows += len(batch)
        with clock.block("insert (SQLite)"):
            ledger.commit()
        with clock.block("write (disk)"):
            _synced(lines)
    clock.tell(rows)


def _batches(dataset: Path) -> Iterator[list[tuple[Any, ...]]]:
    connection = duckdb.connect(":memory:", config={"threads": 1, "memory_limit": "200MB"})
    with connection:
        cursor = connection.execute("SELECT * FROM read_csv(?, all_varchar = true)", [str(dataset)])
        while batch := cursor.fetchmany(_FETCH_ROWS):
            yield batch


def _bare_render() -> Callable[[tuple[Any, ...]], str]:
    """Jinja2 at its fastest: the compiled blocks, one context whose variables are replaced for each row."""
    template = SandboxedEnvironment().from_string(TEMPLATE)
    context = Context(template.environment, {}, "bare", template.blocks)
    user = template.blocks["user"]

    def render(row: tuple[Any, ...]) -> str:
        context.parent = dict(zip(COLUMNS, row, strict=True))
        return "".join(user(context))

    return render


def _encoded(prompt: str) -> bytes:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    return b'{"max_tokens":60,"messages":' + orjson.dumps(messages) + b',"model":"m","temperature":0}'


def _lines(keys: list[str], digests: list[bytes], bodies: list[bytes]) -> Iterator[bytes]:
    for key, digest, body in zip(keys, digests, bodies, strict=True):
        yield b'{"custom_id":"%b-%b","method":"POST","url":"/v1/chat/completions","body":%b}\n' % (
            key.encode(), digest.hex().encode(), body,
        )  # fmt: skip


def _bare_ledger(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.executescript(
        "PRAGMA journal_mode=wal; PRAGMA synchronous=full;"
        "CREATE TABLE request (id INTEGER PRIMARY KEY, key TEXT, fingerprint BLOB, shard INTEGER,"
        " state INTEGER, place INTEGER, length INTEGER, tokens INTEGER);"
    )
    return connection


def _insert(ledger: sqlite3.Connection, start: int, keys: list[str], digests: list[bytes]) -> None:
    ledger.executemany(
        "INSERT INTO request VALUES (?, ?, ?, 0, 0, NULL, NULL, NULL)",
        zip(range(start, start + len(keys)), keys, digests, strict=True),
    )
    if start % _COMMIT_ROWS == 0:
        ledger.commit()


def _synced(lines: Any) -> None:
    lines.flush()
    os.fsync(lines.fileno())


# ---------------------------------------------------------------- the way back


def answers(outputs: Path, dataset: Path, folder: Path) -> None:
    """Copy, decode, update, join and write: what a collected answer can't do without."""
    clock = _Clock()
    copied = folder / "copied.jsonl"
    with clock.block("copy to disk"):
        _copied(outputs, copied)
    with clock.block("decode (orjson)"):
        picked = list(_picked(copied))
    rows = len(picked)
    with closing(_bare_ledger(folder / "bare-answers.db")) as ledger:
        for start in range(0, rows, _COMMIT_ROWS):
            numbers = range(start, min(start + _COMMIT_ROWS, rows))
            _insert(ledger, start, [f"T-{number}" for number in numbers], [b"0" * 16 for _ in numbers])
        ledger.commit()
        with clock.block("update by id (SQLite)"):
            _update(ledger, picked)
    with clock.block("join, write Parquet (DuckDB)"):
        _joined(copied, dataset, folder / "bare.parquet")
    clock.tell(rows)


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(1 << 16):
            writer.write(piece)
        _synced(writer)


def _picked(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Place, length and tokens of each answer; ids within a shard come shuffled, as answers do."""
    offset = 0
    draw = random.Random(1)
    ids: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % _SHARD_LINES == 0:
                ids = list(range(number, number + _SHARD_LINES))
                draw.shuffle(ids)
            body = orjson.loads(line)["response"]["body"]
            if body["choices"][0]["message"]["content"]:
                yield offset, len(line), body["usage"]["completion_tokens"], ids.pop()
            offset += len(line)


def _update(ledger: sqlite3.Connection, picked: list[tuple[int, int, int, int]]) -> None:
    for start in range(0, len(picked), _COMMIT_ROWS):
        ledger.executemany(
            "UPDATE request SET state = 1, place = ?, length = ?, tokens = ? WHERE id = ?",
            picked[start : start + _COMMIT_ROWS],
        )
        ledger.commit()


def _joined(outputs: Path, dataset: Path, target: Path) -> None:
    """By position: the cheapest join there is. It need not be right here, it need only be as much work."""
    with duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "400MB"}) as connection:
        connection.execute(
            f"COPY (SELECT d.*, a.response.body.choices[1].message.content AS answer, a.custom_id FROM "
            f"read_csv('{dataset}', all_varchar = true) d POSITIONAL JOIN read_json('{outputs}', format = "
            f"'newline_delimited', columns = {{custom_id: 'VARCHAR', response: 'STRUCT(body STRUCT(choices "
            f"STRUCT(message STRUCT(content VARCHAR))[]))'}}) a) TO '{target}' "
            "(FORMAT parquet, COMPRESSION zstd)"
        )


def main() -> None:
    """See the module."""
    match sys.argv[1:]:
        case ["plan", dataset, folder]:
            plan(Path(dataset), Path(folder))
        case ["answers", outputs, dataset, folder]:
            answers(Path(outputs), Path(dataset), Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
