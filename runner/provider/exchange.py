"""One call, one connection, one request on the wire: the only place that touches httpx.

Theory. Paying once stands on this file: a request is sent at most once, whatever happens. So there are
no transport retries, no redirects, and no connection is ever used twice: a kept-alive connection that
the server has just closed tempts every HTTP library to send again. Polling every half minute gains
nothing from keeping connections anyway, and a laptop that slept finds no dead ones. HTTP/1.1 only.

A call ends as a value: a `Reply` (perhaps cut), or `Lost` (with the one fact that matters: can a byte of
the request have left?). Foreign exceptions are translated here by one table and go no further.

The key is sent to the provider's own address and to nobody else: TLS is always verified, redirects are
not followed, cookies are not kept, and the key is cut out of every foreign text before anyone sees it.
Proxies come from the environment (HTTPS_PROXY, NO_PROXY), but never for this machine's own addresses.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Final, Self

import httpx

from runner.core.model import Problem, ProblemKind, Provider
from runner.provider.classify import http_date, readable
from runner.provider.deadline import Deadline
from runner.provider.errors import error_for
from runner.provider.keys import ApiKey
from runner.provider.profiles import is_loopback

MAX_REPLY_BYTES: Final = 10 * 1024 * 1024
"""More than a listing page of 100 batches can be; a longer reply counts as cut."""

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # below it they write addresses and headers

_NEVER_SENT: Final = (
    httpx.ConnectError,  # DNS, refused, unreachable, TLS handshake, certificate
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_PERHAPS_SENT: Final = (httpx.HTTPError, httpx.StreamError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every wait of every call, in seconds. None of them is optional.

    `connect_s`, `read_s`, `write_s`: one step on the network. `call_s`: a whole call with a small reply.
    `upload_read_s`: the server may queue an upload for a minute and then checks every line before it
    answers. `upload_floor` and `download_floor` (bytes per second, after `grace_s`): slower is stuck.
    """

    connect_s: float = 15.0
    read_s: float = 60.0
    write_s: float = 60.0
    call_s: float = 120.0
    upload_read_s: float = 300.0
    upload_floor: float = 16 * 1024
    download_s: float = 6 * 3600.0
    download_floor: float = 1024
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `total_s` ends it whatever the server does; for downloads, up to the reply's headers."""

    method: str
    path: str
    total_s: float
    read_s: float
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Iterable[bytes] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back. `headers` has lower-case names; `is_cut`: the body ended before its end."""

    status_code: int
    headers: Mapping[str, str]
    body: bytes
    is_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """No reply. `was_sent` is False only if surely no byte of the request left this machine."""

    was_sent: bool
    why: str


class Stream:
    """A reply whose body is still on its way."""

    def __init__(self, response: httpx.Response, deadline: Deadline) -> None:
        self.status_code = response.status_code
        self.headers = {name.lower(): text for name, text in response.headers.items()}
        self.cut_why: str | None = None
        self._response = response
        self._deadline = deadline

    @property
    def has_length(self) -> bool:
        """Whether the protocol lets a cut be seen: by Content-Length or by chunks."""
        chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        return chunked or "content-length" in self.headers

    def extend(self, limit_s: float) -> None:
        """Give the rest of the call `limit_s` seconds from now."""
        self._deadline.extend(limit_s)

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. Ends early, with `cut_why` set, if the transfer breaks. Never raises."""
        try:
            yield from self._response.iter_bytes()
        except (*_PERHAPS_SENT, ValueError) as error:
            self.cut_why = "time ran out" if self._deadline.is_over else _why(error)
        if self._deadline.is_over and not self.has_length:
            self.cut_why = "time ran out"


class Exchange:
    """Sends calls to one provider. Safe for several threads; every call has its own connection."""

    def __init__(
        self,
        provider: Provider,
        *,
        api_key: ApiKey | None,
        timeouts: Timeouts,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raises ServerTroubleError where the environment's proxy or certificates can't be used."""
        self.timeouts = timeouts
        self.clock_offset_s: float | None = None
        self._provider = provider
        self._api_key = api_key
        try:
            self._client = httpx.Client(
                transport=transport,
                verify=_trust(provider.base_url),
                trust_env=not is_loopback(provider.base_url),
                http2=False,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=httpx.Timeout(timeouts.read_s),
            )
        except (ImportError, ValueError, OSError) as error:
            what = f"the environment's proxy or certificates can't be used: {readable(str(error))}"
            problem = Problem(kind=ProblemKind.UNREACHABLE, message=what)
            raise error_for(problem, provider) from error

    def send(self, call: Call) -> Reply | Lost:
        """One request, one reply of at most MAX_REPLY_BYTES. Never raises for anything foreign."""
        with self.open(call) as opened:
            return opened if isinstance(opened, Lost) else self.read(opened)

    def read(self, stream: Stream) -> Reply:
        """The rest of a small reply."""
        body = bytearray()
        for chunk in stream.chunks():
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                break
        is_cut = stream.cut_why is not None or len(body) > MAX_REPLY_BYTES
        kept = bytes(body[:MAX_REPLY_BYTES])
        # Of every reply: one that echoes headers would otherwise bring the key into the ledger.
        kept = self.scrub(kept.decode("utf-8", errors="surrogateescape")).encode(
            "utf-8", errors="surrogateescape"
        )
        return Reply(status_code=stream.status_code, headers=stream.headers, body=kept, is_cut=is_cut)

    @contextmanager
    def open(self, call: Call) -> Iterator[Stream | Lost]:
        """Send a request and hand over its reply when the headers are there."""
        with Deadline(call.total_s) as deadline:
            response = self._begin(call, deadline)
            if isinstance(response, Lost):
                yield response
                return
            try:
                yield Stream(response, deadline)
            finally:
                response.close()

    def scrub(self, text: str) -> str:
        """A foreign text without the key."""
        return text if self._api_key is None else self._api_key.scrub(text)

    def key_digest(self, salt: str) -> str:
        """What tells this key from another one; empty where there is no key."""
        return "" if self._api_key is None else self._api_key.digest(salt.encode())

    def close(self) -> None:
        """Release what the client holds."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, call: Call, deadline: Deadline) -> httpx.Response | Lost:
        try:
            response = self._client.send(self._request(call, deadline), stream=True)
        except _NEVER_SENT as error:
            return Lost(was_sent=False, why=f"nothing was sent: {self.scrub(_why(error))}")
        except _PERHAPS_SENT as error:
            why = f"no whole reply within {call.total_s:.0f} s" if deadline.is_over else _why(error)
            return Lost(was_sent=True, why=self.scrub(why))
        self._note_clock(response)
        return response

    def _request(self, call: Call, deadline: Deadline) -> httpx.Request:
        timeouts = self.timeouts
        return self._client.build_request(
            call.method,
            f"{self._provider.base_url}{call.path}",
            params=dict(call.params) or None,
            headers={**_COMMON_HEADERS, **self._authorization(), **call.headers},
            content=call.content,
            timeout=httpx.Timeout(
                connect=timeouts.connect_s, read=call.read_s, write=timeouts.write_s, pool=timeouts.connect_s
            ),
            extensions={"trace": deadline.trace},
        )

    def _authorization(self) -> dict[str, str]:
        return {} if self._api_key is None else {"Authorization": self._api_key.header()}

    def _note_clock(self, response: httpx.Response) -> None:
        server_time = http_date(response.headers.get("date", ""))
        if server_time is not None:
            self.clock_offset_s = (server_time - datetime.now(UTC)).total_seconds()


def _trust(base_url: str) -> ssl.SSLContext | bool:
    """The usual certificates; none for plain HTTP to this machine, because reading them takes a fiftieth
    of a second of every start. Where TLS would be spoken all the same, nothing would be trusted."""
    if base_url.startswith("http://") and is_loopback(base_url):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return True


def _why(error: Exception) -> str:
    """A foreign exception in one line: what broke, then its own words."""
    match error:
        case httpx.ConnectTimeout():
            what = "the connection timed out"
        case httpx.ReadTimeout():
            what = "no answer in time"
        case httpx.WriteTimeout():
            what = "the server stopped taking data"
        case httpx.ConnectError() | httpx.ProxyError():
            what = "no connection"
        case httpx.HTTPError() | httpx.StreamError():
            what = "the connection broke"
        case _:
            what = "reading or sending failed"
    words = readable(str(error))
    return f"{what} ({words})" if words else what


def _user_agent() -> str:
    try:
        return f"runner/{version('runner')}"
    except PackageNotFoundError:
        return "runner"


USER_AGENT: Final = _user_agent()
_COMMON_HEADERS: Final = {
    "User-Agent": USER_AGENT,
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # a compressed reply hides its length, so a cut could not be seen
    "Connection": "close",
}
