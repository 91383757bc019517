"""A snapshot and a template to render, and the worker processes that are at it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.commands.rendering import Piece, Rendered, Renderer, RenderSource
from runner.commands.worker_pool import WorkerPool
from runner.core.model import Limits, Provider
from runner.prompt import PromptSource
from tests.contract.dataset_factories import take
from tests.localserver_process import eventually

LIMITS = Limits(max_file_bytes=10**9, max_requests_per_file=50_000, max_body_bytes=100_000)


def make_source(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    template: str,
    *,
    query: str | None = None,
    max_output_bytes: int = 50_000,
    **params: Any,
) -> tuple[RenderSource, int]:
    """What renders these rows (or the query over them), and how many there are."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompt.j2").write_text(template)
    snapshot = take(folder / "rows.jsonl", into=folder, query=query, key=("id",))
    prompt = PromptSource(
        template=str(folder / "prompt.j2"),
        search_root=str(folder),
        params=params,
        max_output_bytes=max_output_bytes,
    )
    source = RenderSource(
        snapshot=snapshot.path,
        prompt=prompt.compile([column.name for column in snapshot.columns]).source,
        provider=Provider(
            name="p",
            identity="http://server/v1",
            base_url="http://server/v1",
            api_key_env="SERVER_API_KEY",
            limits=LIMITS,
            endpoints=("/v1/chat/completions",),
        ),
        endpoint="/v1/chat/completions",
        model="m",
        parameters={"temperature": 0},
        schema=None,
    )
    return source, snapshot.rows


def rows_of(pieces: Iterable[Piece], source: RenderSource) -> list[Rendered]:
    """All rows of all pieces."""
    return [row for piece in pieces for row in piece.rows(source.shape())]


def rendered_here(source: RenderSource, rows: int) -> list[Rendered]:
    """What this process makes of them."""
    return rows_of(Renderer(source).render(0, rows), source)


def pieces_of(pool: WorkerPool[Piece], told: list[str] | None = None) -> Iterator[Piece]:
    """The pieces, all of them from workers: read only when the first range is theirs."""
    eventually(lambda: any(one.is_taken for one in list(pool._ranges)), what="a worker that renders")
    notes: list[str] = [] if told is None else told
    return pool.pieces(lambda: None, notes.append)


def render_workers(parent: int | None = None) -> list[int]:
    """The render workers of a process (this one) that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_worker = b"runner.commands.worker" in (entry / "cmdline").read_bytes()
            status = (entry / "stat").read_text().rpartition(")")[2].split() if is_worker else ["Z", "0"]
        except (OSError, ValueError):
            continue
        if status[0] != "Z" and int(status[1]) == (parent or os.getpid()):
            found.append(int(entry.name))
    return found
