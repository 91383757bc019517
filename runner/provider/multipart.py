"""The upload's body: a form with the input file in it, read from disk piece by piece.

Its one rule: memory stays flat and the length is known before the first byte, so that the server can
refuse a file that is too big at once. The fields come before the file, because a server that reads the
form as a stream must know the purpose when the file begins. Source: RFC 7578; Doubleword, section 3.1.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from runner.failpoints import failpoint

_PIECE_BYTES: Final = 64 * 1024
_FILENAME: Final = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")


class UploadForm:
    """The multipart form for one input file. `source` is read once, from its beginning."""

    def __init__(
        self,
        source: BinaryIO,
        filename: str,
        *,
        expires_after_s: int | None = None,
        on_progress: Callable[[int], None] | None = None,
        boundary: str | None = None,
    ) -> None:
        """`on_progress` gets the bytes of the file handed over so far.

        Raises ValueError for a filename that would need quoting, or a life below one second.
        """
        if not _FILENAME.match(filename):
            raise ValueError(f"not a plain file name: {filename!r}")
        if expires_after_s is not None and expires_after_s < 1:
            raise ValueError("a file lives for at least a second")
        self._source = source
        self._on_progress = on_progress
        self._file_bytes = os.fstat(source.fileno()).st_size
        self._boundary = boundary or f"runner-{secrets.token_hex(16)}"
        self._head = self._fields(expires_after_s) + self._file_head(filename)
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    @property
    def size_bytes(self) -> int:
        """The whole body's size."""
        return len(self._head) + self._file_bytes + len(self._tail)

    @property
    def headers(self) -> dict[str, str]:
        """Type and length of the body. The length also keeps httpx from sending chunks."""
        return {
            "Content-Type": f"multipart/form-data; boundary={self._boundary}",
            "Content-Length": str(self.size_bytes),
        }

    def pieces(self) -> Iterator[bytes]:
        """The body in order. Raises OSError if the file can't be read, or became shorter."""
        yield self._head
        left = self._file_bytes
        while left:
            piece = self._source.read(min(_PIECE_BYTES, left))
            if not piece:
                raise OSError("the file became shorter while it was sent")
            left -= len(piece)
            yield piece
            failpoint("upload.piece_sent")
            if self._on_progress is not None:
                self._on_progress(self._file_bytes - left)
        yield self._tail

    def _fields(self, expires_after_s: int | None) -> bytes:
        fields = {"purpose": "batch"}
        if expires_after_s is not None:
            fields |= {
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": str(expires_after_s),
            }
        return "".join(
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
            for name, text in fields.items()
        ).encode()

    def _file_head(self, filename: str) -> bytes:
        return (
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{filename}"\r\n'
            "Content-Type: application/jsonl\r\n"
            "\r\n"
        ).encode()
