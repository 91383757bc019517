"""Work that processes of its own can do: what it is, and how orders and pieces travel between processes.

Work is cut into ranges of whole numbers (rows, bytes of a file), and what comes of a range is told in
pieces, in order. A piece does not depend on who made it, so a range whose worker died is done again, and
what many processes make is what one makes.

    <- the work (pickled)               -> READY
    <- an order: start, stop, about     -> PIECE ... PIECE, END
                                        -> FAULT, a traceback: a fault of this program
"""

from __future__ import annotations

import marshal
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

P = TypeVar("P")
_HEAD = struct.Struct("<BQQQ")
_ORDER = struct.Struct("<QQQ")
_KEPT = 2
"""This version of marshal looks for no object that is the same as another."""


class Order(NamedTuple):
    """The range [start, stop) is to be done. `about` says of what, where the work has several subjects."""

    start: int
    stop: int
    about: str = ""


Doing = Callable[[Order], Iterator[P]]
"""Does orders, one after another; the pieces of each in order. One thread at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How people are told of workers: what one `does` ("renders"), to what `things` ("rows"), which are
    then `done` ("rendered"); and the `next_step` where no worker survives it."""

    does: str
    things: str
    done: str
    next_step: str


class Work(ABC, Generic[P]):
    """All that a worker needs for it: small, picklable, and without a secret."""

    words: ClassVar[Words]

    @abstractmethod
    def begin(self) -> Doing[P]:
        """Get ready; called once in each process that does it."""

    def rest(self) -> None:
        """Workers do it from here on: this process can let go of what it held for it."""

    @abstractmethod
    def end_of(self, piece: P) -> int:
        """Where the rest of the range begins, once this piece of it is there."""

    @abstractmethod
    def pack(self, piece: P) -> tuple[Any, bytes]:
        """A piece as it travels: plain values, so that nothing is run where it is read, and many bytes."""

    @abstractmethod
    def unpack(self, values: Any, many: bytes) -> P:
        """The piece at the other end."""


class Kind(IntEnum):
    """What a worker says."""

    READY = 0
    PIECE = 1
    END = 2
    FAULT = 3


class GoneError(Exception):
    """The other end of the socket is closed."""


class Message(NamedTuple):
    """What a worker said. Of a piece: where the rest begins, and both parts of what it is packed as."""

    kind: Kind
    end: int
    data: bytes
    many: bytes

    @property
    def size_bytes(self) -> int:
        """What it takes on its way."""
        return len(self.data) + len(self.many)

    @property
    def text(self) -> str:
        """What is said in words."""
        return self.data.decode(errors="replace")


# ---------------------------------------------------------------- between the processes


def say(channel: socket.socket, kind: Kind, text: str = "") -> None:
    """A worker's message that is no piece. Raises OSError."""
    data = text.encode(errors="replace")
    channel.sendall(_HEAD.pack(kind, 0, len(data), 0) + data)


def send_piece(channel: socket.socket, work: Work[P], piece: P) -> None:
    """A piece, to the process that ordered it. Raises OSError."""
    values, many = work.pack(piece)
    data = marshal.dumps(values, _KEPT)
    channel.sendall(_HEAD.pack(Kind.PIECE, work.end_of(piece), len(data), len(many)) + data)
    channel.sendall(many)


def receive(channel: socket.socket) -> Message:
    """The next message of a worker; waits for it. Raises GoneError, OSError."""
    kind, end, data_bytes, many_bytes = _HEAD.unpack(take(channel, _HEAD.size))
    both = take(channel, data_bytes + many_bytes)  # at once: each call may wait for Python's lock
    return Message(Kind(kind), end, both[:data_bytes], both[data_bytes:])


def unpacked(work: Work[P], message: Message) -> P:
    """The piece in a message."""
    return work.unpack(marshal.loads(message.data), message.many)  # noqa: S302 - from a process of our own


def send_order(channel: socket.socket, order: Order) -> None:
    """Have a range done, after what was ordered before. Raises OSError."""
    about = order.about.encode()
    channel.sendall(_ORDER.pack(order.start, order.stop, len(about)) + about)


def take_order(channel: socket.socket) -> Order:
    """The next order; waits for it. Raises GoneError, OSError."""
    start, stop, about_bytes = _ORDER.unpack(take(channel, _ORDER.size))
    return Order(start, stop, take(channel, about_bytes).decode())


def send_work(channel: socket.socket, data: bytes) -> None:
    """The work itself, before the first order. Raises OSError."""
    channel.sendall(_ORDER.pack(len(data), 0, 0) + data)


def take_work(channel: socket.socket) -> bytes:
    """What `send_work` was given. Raises GoneError, OSError."""
    size, _, _ = _ORDER.unpack(take(channel, _ORDER.size))
    return take(channel, size)


def take(channel: socket.socket, size: int) -> bytes:
    """So many bytes, in one call where the system allows. Raises GoneError, OSError."""
    data = channel.recv(size, socket.MSG_WAITALL) if size else b""
    while len(data) < size:
        more = channel.recv(size - len(data), socket.MSG_WAITALL)
        if not more:
            raise GoneError
        data += more
    return data
