"""A process that works for another: `python -m runner.commands.worker DESCRIPTOR`, started by `worker_pool`.

It is told what to do over its socket (see `work`), has no environment but what Python needs, and writes
nothing. It ends when its parent does, also in the middle of a range: a thread sees the socket close.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

from runner.commands.work import GoneError, Kind, Order, Work, say, send_piece, take_order, take_work


def main(descriptor: int) -> None:
    """Serve until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: only it decides what it means
    channel = socket.socket(fileno=descriptor)
    orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
    try:
        work: Work[Any] = pickle.loads(take_work(channel))  # noqa: S301 - from the process that started this one
        threading.Thread(target=_listen, args=(channel, orders), daemon=True).start()
        do = work.begin()
        say(channel, Kind.READY)
        while True:
            for piece in do(orders.get()):
                send_piece(channel, work, piece)
            say(channel, Kind.END)
    except GoneError:
        pass
    except Exception:
        with suppress(OSError):  # the parent may have gone
            say(channel, Kind.FAULT, traceback.format_exc())


def _listen(channel: socket.socket, orders: queue.SimpleQueue[Order]) -> None:
    """Take orders while earlier ones are carried out; end the process with its parent."""
    try:
        while True:
            orders.put(take_order(channel))
    except (GoneError, OSError):
        os._exit(0)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    finally:
        sys.stderr.flush()
        os._exit(0)  # there is nothing to tear down, and duckdb's bindings complain where it is done
