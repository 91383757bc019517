"""A message to a web address: one POST of JSON, tried a few times, in bounded time.

It knows nothing of the batch API; it is here because httpx is. The address is a secret (whoever has it can
write there), so no text that leaves this module holds it: foreign exceptions, which quote addresses, are
told by their class alone. TLS is verified, redirects are not followed, the reply's body is not read.
"""

from __future__ import annotations

from typing import Final

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
)

from runner.provider.deadline import Deadline
from runner.provider.exchange import USER_AGENT
from runner.provider.profiles import is_loopback

TOTAL_S: Final = 15.0
_ONE_TRY_S: Final = 6.0
_ATTEMPTS: Final = 3
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _PassingError(Exception):
    """What may be gone in a moment; its text is what went wrong."""


def post_json(address: str, body: bytes, *, total_s: float = TOTAL_S) -> str | None:
    """POST `body` (JSON). None where it was taken (2xx), else what went wrong, without the address.

    Never raises, and is over after about `total_s` seconds, whatever the other side does. A message whose
    reply was lost may arrive twice.
    """
    try:
        with httpx.Client(
            trust_env=not is_loopback(address),
            http2=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        ) as client:
            for attempt in Retrying(
                retry=retry_if_exception_type(_PassingError),
                wait=wait_exponential(multiplier=0.5, max=4),
                stop=stop_after_attempt(_ATTEMPTS)
                | stop_before_delay(total_s - min(_ONE_TRY_S, total_s / 2)),
                reraise=True,
            ):
                with attempt:
                    _post(client, address, body, min(_ONE_TRY_S, total_s / 2))
    except _PassingError as trouble:
        return str(trouble)
    except _RefusedError as refusal:
        return str(refusal)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ImportError, ValueError, OSError) as error:
        return f"the message could not be sent ({type(error).__name__})"
    return None


class _RefusedError(Exception):
    """The address said no."""


def _post(client: httpx.Client, address: str, body: bytes, limit_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT, "Connection": "close"}
    with Deadline(limit_s) as deadline:
        request = client.build_request(
            "POST",
            address,
            content=body,
            headers=headers,
            timeout=httpx.Timeout(limit_s),
            extensions={"trace": deadline.trace},
        )
        try:
            response = client.send(request, stream=True)
        except (httpx.TransportError, OSError) as error:
            is_late = deadline.is_over or isinstance(error, httpx.TimeoutException)
            what = "no answer in time" if is_late else f"no connection ({type(error).__name__})"
            raise _PassingError(what) from error
        response.close()
    status = response.status_code
    if status in _PASSING:
        raise _PassingError(f"the address answered HTTP {status}")
    if not 200 <= status < 300:
        raise _RefusedError(f"the address answered HTTP {status}")
