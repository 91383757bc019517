"""The safety net under every test: no keys, no proxies, no network but loopback, no ledger of the user.

The net itself is tested in tests/unit/test_safety_net.py.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A verdict about a change is not one about luck: where CI is set, the same examples are made every time.
# Everywhere else they are new ones.
settings.register_profile(
    "runner",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("runner")

# A shell that runs the tests in the background lets them ignore SIGINT, and so would every program that
# they start; those are to be interrupted by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Collecting makes objects without number that stay. To look for garbage among them took a third of the
# collection (12.4 s of processor time, without it 7.9), and more at every few tests.
gc.disable()

_MEMORY_DISK = Path("/dev/shm")
_ROOM_BYTES = 8 << 30
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")


def _has_room(folder: Path) -> bool:
    """Whether the folder, and the memory it stands in, have several times the gigabyte that a run leaves,
    and programs can be started from it."""
    try:
        found = os.statvfs(folder)
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limit = _MEMORY_LIMIT.read_text(encoding="ascii").strip() if _MEMORY_LIMIT.exists() else "max"
    except OSError:
        return False
    rooms = [found.f_bavail * found.f_frsize]
    rooms += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    rooms += [int(limit)] if limit.isdigit() else []
    return len(rooms) > 1 and min(rooms) >= _ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


# Files of a test live for seconds. On a disk that is slow to sync they take a tenth of the processor time of
# all tests, and most of what these wait for (measured). Whoever sets TMPDIR decides. Python's own choice was
# made already, when pytest began to keep what tests print.
if "TMPDIR" not in os.environ and _has_room(_MEMORY_DISK):
    os.environ["TMPDIR"] = str(_MEMORY_DISK)
    tempfile.tempdir = None

_USUAL_TIMEOUT_S = 300
"""As in pyproject.toml. A test that asks for more takes long, and says so with that."""


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among what the tests make."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files are shuffled, always alike: tests that wait and tests that work stand in different files, and a
    core has something to do only while some worker has one that works. Long tests are spread between the
    files: each worker gets its share of them, and none is left alone with several at the end."""
    files = [list(group) for _, group in groupby(items, key=lambda item: item.path)]
    random.Random(0).shuffle(files)
    shuffled = [item for file in files for item in file]
    long = [item for item in shuffled if _timeout_s(item) > _USUAL_TIMEOUT_S]
    short = [item for item in shuffled if _timeout_s(item) <= _USUAL_TIMEOUT_S]
    spread: list[pytest.Item] = []
    taken = 0
    for number, item in enumerate(short):
        if number == 0 or item.path != short[number - 1].path:
            due = len(long) * number // len(short) + 1
            spread += long[taken:due]
            taken = due
        spread.append(item)
    items[:] = spread + long[taken:]


def _timeout_s(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else _USUAL_TIMEOUT_S


_SECRET_ENDINGS = ("_API_KEY", "_TOKEN", "_SECRET")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class NetworkAccessError(Exception):
    """A test tried to reach something that is not this machine."""


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0])
    return host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.")


@pytest.fixture(autouse=True, scope="session")
def only_loopback_sockets() -> Iterator[None]:
    """A connection to any other machine raises."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if not _is_loopback(address):
            raise NetworkAccessError(f"tests may only connect to loopback, not {address!r}")
        connect(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign,assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No secrets, no proxies, no ledger from outside; a home folder of its own."""
    for name in list(os.environ):
        upper = name.upper()
        if upper.endswith(_SECRET_ENDINGS) or upper in _PROXIES or upper.startswith("RUNNER_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture(autouse=True)
def no_ledger_stays_open() -> Iterator[None]:
    """What `tests.contract.ledger_factories` opened is let go of, where a test uses it."""
    yield
    factories = sys.modules.get("tests.contract.ledger_factories")
    if factories is not None:
        factories.let_go_of_ledgers()


@pytest.fixture(scope="module")
def lent_duckdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For modules that run the program in this process over and over, and are not about its DuckDBs."""
    from tests.lent_duckdb import lent_connections  # brings DuckDB along, and few need it

    with lent_connections(tmp_path_factory.getbasetemp()):
        yield
