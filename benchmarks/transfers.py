"""What uploads and downloads of 200 MB add to a process's memory, and how fast they go, on loopback."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.measure import measured, module
from benchmarks.measure import tell as tell_event
from benchmarks.project import running_standin
from benchmarks.tables import Table

SIZE_BYTES = 200_000_000
_LINE = (
    b'{"custom_id":"row-1","method":"POST","url":"/v1/chat/completions","body":{"x":"' + b"y" * 900 + b'"}}\n'
)


def show_transfers(folder: Path, rows: int, show: Callable[[Table], None]) -> None:
    """Files of 200 MB, or of less where fewer than 200,000 rows are asked for."""
    size_bytes = min(SIZE_BYTES, rows * 1_000)
    source = folder / "input.jsonl"
    with source.open("wb") as file:
        for _ in range(size_bytes // len(_LINE)):
            file.write(_LINE)
    with running_standin(folder / "server") as server:
        run = measured(module("transfers", server.base_url, str(folder)), cwd=folder)
    table = Table(
        f"Transfers: files of {source.stat().st_size / 1e6:.0f} MB, loopback, http",
        ("what", "wall s", "MB/s", "added MB", "at most MB"),
    )
    for event in run.events:
        values = event.values
        table.add(event.name, values["seconds"], size_bytes / values["seconds"] / 1e6, values["added"], "16")
    show(table)


def _transfer(base_url: str, folder: Path) -> None:
    """In a process of its own: a small file first, so that only what a large one adds is seen."""
    from runner.core.model import Accepted, ProviderSettings
    from runner.provider import Client, resolve

    small = folder / "small.jsonl"
    small.write_bytes(_LINE)
    assert urlsplit(base_url).hostname == "127.0.0.1"
    with Client(resolve(ProviderSettings(base_url=base_url)), api_key=None) as client:
        accepted = client.upload(small, "small.jsonl")
        assert isinstance(accepted, Accepted)
        client.download(accepted.object_id, folder / "small.part")
        before, began_s = _peak_bytes(), time.perf_counter()
        accepted = client.upload(folder / "input.jsonl", "input.jsonl")
        assert isinstance(accepted, Accepted)
        added = (_peak_bytes() - before) / 1e6
        tell_event("upload", seconds=time.perf_counter() - began_s, added=added)
        before, began_s = _peak_bytes(), time.perf_counter()
        download = client.download(accepted.object_id, folder / "input.part")
        assert download.is_whole
        added = (_peak_bytes() - before) / 1e6
        tell_event("download", seconds=time.perf_counter() - began_s, added=added)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    _transfer(sys.argv[1], Path(sys.argv[2]))
