"""One worker as its parent sees it: started, introduced to its work, given orders, ended.

The rule: a worker gets what it works with over its socket, and nothing by its environment or its command
line: no key, no name of a customer.
"""

from __future__ import annotations

import pickle
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from typing import Any

from runner.children import start_child
from runner.commands.work import GoneError, Kind, Order, Work, receive, send_order, send_work

_MODULE = "runner.commands.worker"
_ENDS_WITHIN_S = 5.0


class WorkerProcess:
    """A process of `worker`, and the socket to it."""

    def __init__(self) -> None:
        """Raises OSError where it can't be started."""
        self.channel, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            with theirs:
                self._process = start_child(_MODULE, theirs.fileno(), complaints=self._complaints)
        except BaseException:
            self.channel.close()
            self._complaints.close()
            raise

    def introduce(self, work: Work[Any]) -> None:
        """Hand over what is to be done, and wait until it is ready. Raises GoneError, OSError."""
        send_work(self.channel, pickle.dumps(work))
        if receive(self.channel).kind is not Kind.READY:
            raise GoneError

    def order(self, order: Order) -> None:
        """Have a range done, after what was ordered before. Raises OSError."""
        send_order(self.channel, order)

    def ending(self) -> str:
        """How it ended, once its socket is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDS_WITHIN_S)
        self._process.kill()
        code = self._process.wait()
        if code < 0:
            return f"was killed ({signal.Signals(-code).name})"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"ended (exit code {code}{': ' if last else ''}{last[:200]})"

    def kill(self) -> None:
        """End it now; it has nothing to lose."""
        self._process.kill()

    def close(self) -> None:
        """End it, and let go of everything."""
        self._process.kill()
        self._process.wait()
        self.channel.close()
        self._complaints.close()
