"""Sockets to listen on, before anything is served: whether an address can be had is known at once."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator


class AddressError(OSError):
    """The address can't be listened on: taken, not of this machine, or not allowed."""


@contextlib.contextmanager
def listening_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens while the block runs; port 0 takes a free one. Raises AddressError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(512)
        except (OSError, OverflowError) as error:
            number = getattr(error, "errno", None) or errno.EADDRNOTAVAIL
            raise AddressError(number, getattr(error, "strerror", None) or str(error)) from error
        yield listener
