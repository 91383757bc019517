"""A process that renders: `python -m runner.commands.render_worker DESCRIPTOR`, started by `render_pool`.

    <- the render source (pickled)      -> READY
    <- start, stop                      -> PIECE ... PIECE, END
                                        -> FAULT, a traceback: a fault of this program

It knows a snapshot's path and template texts, no environment but what Python needs, and writes nothing. It
ends when its parent does, also in the middle of a row: a thread sees the socket close.
"""

from __future__ import annotations

import marshal
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import traceback
from array import array
from contextlib import suppress
from enum import IntEnum

from runner.commands.rendering import Piece, Renderer
from runner.core.model import Cause

ORDER = struct.Struct("<QQ")
"""To a worker: first row and the one after the last. Before the first, the size of the source (and 0)."""
_HEAD = struct.Struct("<BQQQ")
_KEPT = 2
"""This version of marshal looks for no object that is the same as another."""


class Kind(IntEnum):
    """What a worker says."""

    READY = 0
    PIECE = 1
    END = 2
    FAULT = 3


class GoneError(Exception):
    """The other end of the socket is closed."""


# ---------------------------------------------------------------- between the processes


def send(channel: socket.socket, kind: Kind, piece: Piece | None = None, text: bytes = b"") -> None:
    """One message of a worker. Plain values only, so that nothing is run where it is read."""
    if piece is not None:
        causes = {place: (why.error_class, why.message, why.code) for place, why in piece.causes.items()}
        parts = (piece.start, piece.keys, piece.line_bytes.tobytes(), dict(piece.names), causes)
        text = marshal.dumps(parts, _KEPT)
        channel.sendall(_HEAD.pack(kind, len(text), len(piece.fingerprints), len(piece.lines)) + text)
        channel.sendall(piece.fingerprints)
        channel.sendall(piece.lines)
    else:
        channel.sendall(_HEAD.pack(kind, len(text), 0, 0) + text)


def receive(channel: socket.socket) -> tuple[Kind, Piece | None, bytes]:
    """The next message of a worker; waits for it. Raises GoneError, OSError."""
    kind, text_bytes, fingerprint_bytes, line_bytes = _HEAD.unpack(take(channel, _HEAD.size))
    text = take(channel, text_bytes)
    if kind != Kind.PIECE:
        return Kind(kind), None, text
    fingerprints = take(channel, fingerprint_bytes)
    lines = take(channel, line_bytes)
    start, keys, sizes, names, causes = marshal.loads(text)  # noqa: S302 - from a process of our own
    piece = Piece(
        start=start,
        keys=keys,
        lines=lines,
        line_bytes=array("Q", sizes),
        fingerprints=fingerprints,
        names=names,
        causes={
            place: Cause(error_class=error_class, message=message, code=code)
            for place, (error_class, message, code) in causes.items()
        },
    )
    return Kind.PIECE, piece, b""


def take(channel: socket.socket, size: int) -> bytes:
    """So many bytes, in one call where the system allows. Raises GoneError, OSError."""
    data = channel.recv(size, socket.MSG_WAITALL) if size else b""
    while len(data) < size:
        more = channel.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise GoneError
        data += more
    return data


# ---------------------------------------------------------------- the process


def main(descriptor: int) -> None:
    """Serve until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent: only it decides what it means
    channel = socket.socket(fileno=descriptor)
    orders: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    try:
        size, _ = ORDER.unpack(take(channel, ORDER.size))
        source = pickle.loads(take(channel, size))  # noqa: S301 - from the process that started this one
        threading.Thread(target=_listen, args=(channel, orders), daemon=True).start()
        renderer = Renderer(source)
        send(channel, Kind.READY)
        while True:
            for piece in renderer.render(*orders.get()):
                send(channel, Kind.PIECE, piece)
            send(channel, Kind.END)
    except GoneError:
        pass
    except Exception:
        with suppress(OSError):  # the parent may have gone
            send(channel, Kind.FAULT, text=traceback.format_exc().encode(errors="replace"))


def _listen(channel: socket.socket, orders: queue.SimpleQueue[tuple[int, int]]) -> None:
    """Take orders while the rows of earlier ones are rendered; end the process with its parent."""
    try:
        while True:
            orders.put(ORDER.unpack(take(channel, ORDER.size)))
    except (GoneError, OSError):
        os._exit(0)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    finally:
        sys.stderr.flush()
        os._exit(0)  # there is nothing to tear down, and duckdb's bindings complain where it is done
