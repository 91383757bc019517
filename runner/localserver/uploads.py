"""An upload, from the wire to the disk, line by line, in flat memory.

The multipart body is parsed as it arrives; each line is checked and written at once to a file beside its
final place. At the end the file is synced and moved there. All or nothing: a refusal leaves no file behind.
Fields may come in any order; several `file` parts are joined, as the hosted service does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from runner.localserver import refusals
from runner.localserver.lines import AcceptedLine, accept_line
from runner.localserver.settings import UPLOAD_SLACK_BYTES, ServerSettings

MAX_FIELD_BYTES = 65_536


@dataclass(slots=True)
class Upload:
    """What an upload turned out to be. `size_bytes` and `sha256` are of the raw file, as received."""

    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    lines: list[AcceptedLine] = field(default_factory=list)
    size_bytes: int = 0
    sha256: str = ""


class _LineWriter:
    """Raw file bytes in, checked lines out to disk."""

    def __init__(self, target: BinaryIO, upload: Upload, settings: ServerSettings) -> None:
        self._target = target
        self._upload = upload
        self._settings = settings
        self._rest = b""
        self._offset = 0
        self._written = 0
        self._hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        """Take more bytes of the file. Raises Refusal at the first bad line or above a limit."""
        self._upload.size_bytes += len(data)
        self._hash.update(data)
        limit = self._settings.max_file_bytes
        if 0 < limit < self._upload.size_bytes:
            raise too_large(self._settings)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._accept(line)
            self._offset += len(line) + 1

    def finish(self) -> None:
        """Take what is left as the last line. A character cut at the very end is dropped."""
        self._accept(_without_cut_character(self._rest))
        self._upload.sha256 = self._hash.hexdigest()

    def _accept(self, raw: bytes) -> None:
        lines = self._upload.lines
        found = accept_line(raw, len(lines) + 1, self._offset, self._settings)
        if found is None:
            return
        line, stored = found
        lines.append(replace(line, start=self._written))
        self._written += len(stored)
        self._target.write(stored)
        limit = self._settings.max_requests_per_file
        if 0 < limit < len(lines):
            raise refusals.text(
                400, f"File contains {limit + 1} requests, which exceeds the maximum of {limit}"
            )


def _without_cut_character(raw: bytes) -> bytes:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and error.end == len(raw):
            return raw[: error.start]
    return raw


class _Form:
    """Callbacks of the multipart parser: file parts to the line writer, other parts to `fields`."""

    def __init__(self, upload: Upload, writer: _LineWriter) -> None:
        self._upload = upload
        self._writer = writer
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._value = bytearray()
        self.has_file = False
        self.is_complete = False

    def parser(self, boundary: bytes) -> MultipartParser:
        """A parser that reports to this form."""
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value_part,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def _part_begin(self) -> None:
        self._name = ""
        self._value = bytearray()
        self._header_name = self._header_value = b""
        self._disposition = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", errors="replace")
        if self._name == "file":
            self.has_file = True
            filename = options.get(b"filename")
            self._upload.filename = None if filename is None else filename.decode("utf-8", errors="replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._writer.feed(data[start:end])
        elif len(self._value) < MAX_FIELD_BYTES:
            self._value += data[start:end]

    def _part_end(self) -> None:
        if self._name not in ("", "file"):
            self._upload.fields[self._name] = self._value.decode("utf-8", errors="replace")

    def _end(self) -> None:
        self.is_complete = True


async def receive(
    stream: AsyncIterator[bytes], content_type: str, content_length: int, path: Path, settings: ServerSettings
) -> Upload:
    """Receive one upload into `path` (made here, synced, removed again on any failure).

    Raises Refusal: 400, 403 or 413 as the server words them.
    """
    if settings.max_file_bytes > 0 and content_length > settings.max_file_bytes + UPLOAD_SLACK_BYTES:
        raise too_large(settings)
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise refusals.text(
            400, "Invalid multipart request: Invalid `boundary` for `multipart/form-data` request"
        )
    upload = Upload()
    try:
        with path.open("xb") as target:
            path.chmod(0o600)
            await _fill(stream, boundary, upload, _LineWriter(target, upload, settings))
            target.flush()
            os.fsync(target.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    return upload


async def _fill(stream: AsyncIterator[bytes], boundary: bytes, upload: Upload, writer: _LineWriter) -> None:
    form = _Form(upload, writer)
    parser = form.parser(boundary)
    try:
        async for chunk in stream:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise refusals.text(400, f"Failed to read multipart upload: {error}") from error
    if not form.is_complete:
        raise refusals.text(400, "Failed to read multipart upload: incomplete multipart stream")
    if not form.has_file:
        raise refusals.text(400, "No file field found in multipart upload")
    writer.finish()
    purpose = upload.fields.get("purpose")
    if purpose is not None and purpose.lower() != "batch":
        raise refusals.text(400, f"Invalid purpose '{purpose}'. Only 'batch' is supported.")
    if not upload.lines:
        raise refusals.text(400, "File contains no valid request templates")


def too_large(settings: ServerSettings) -> refusals.Refusal:
    """413 with the limit."""
    return refusals.text(413, f"File exceeds the maximum allowed size of {settings.max_file_bytes} bytes")
