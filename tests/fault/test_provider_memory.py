"""A big file costs no memory: uploads and downloads of 64 MB add less than 16 MB."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.provider_factories import ScriptedServer, SeenRequest, json_reply

SIZE_BYTES = 64 * 1024 * 1024
LINE = b'{"custom_id":"row-1","response":{"status_code":200,"body":{"x":"' + b"y" * 4000 + b'"}}}\n'

CHILD = """
import json, sys
from pathlib import Path
from runner.provider import ApiKey, Client
from tests.fault.provider_factories import provider_at

base_url, folder = sys.argv[1], Path(sys.argv[2])

def peak_kib():
    # Not ru_maxrss: that begins with the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().split("\\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

small = folder / "small.jsonl"
small.write_bytes(b"{}\\n")
with Client(provider_at(base_url), api_key=ApiKey("sk-test-key")) as client:
    client.upload(small, "small.jsonl")
    client.download("small", folder / "small.part")
    before = peak_kib()
    accepted = client.upload(folder / "big.jsonl", "big.jsonl")
    after_upload = peak_kib()
    download = client.download("big", folder / "big.part")
    after_download = peak_kib()
print(json.dumps({
    "id": accepted.object_id, "lines": download.lines, "is_whole": download.is_whole,
    "upload_kib": after_upload - before, "download_kib": after_download - before,
}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_big_files_go_both_ways_in_flat_memory(tmp_path: Path) -> None:
    received: list[int] = []
    lines = SIZE_BYTES // len(LINE)

    def script(request: SeenRequest, connection: socket.socket) -> None:
        if request.method == "POST":
            left = int(request.headers["content-length"])
            received.append(left)
            left -= len(request.body)
            while left:
                left -= len(connection.recv(1 << 20))
            connection.sendall(json_reply(201, b'{"id":"file-1"}'))
            return
        count = lines if "/big/" in request.target else 1
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (count * len(LINE)))
        block = LINE * 64
        for start in range(0, count, 64):
            connection.sendall(block[: (min(start + 64, count) - start) * len(LINE)])

    with (tmp_path / "big.jsonl").open("wb") as file:
        for _ in range(lines):
            file.write(LINE)
    with ScriptedServer(script, reads="head") as server:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, server.base_url, str(tmp_path)],
            capture_output=True,
            timeout=100,
            check=False,
            cwd=Path(__file__).parents[2],
        )
    assert child.returncode == 0, child.stderr.decode()
    measured = json.loads(child.stdout)
    assert (measured["id"], measured["lines"], measured["is_whole"]) == ("file-1", lines, True)
    assert received[1] > lines * len(LINE)
    assert (tmp_path / "big.part").stat().st_size == lines * len(LINE)
    assert measured["upload_kib"] < 16 * 1024
    assert measured["download_kib"] < 16 * 1024
