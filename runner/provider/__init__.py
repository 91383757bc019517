"""The provider: every word with a batch server, and one other word: a message posted to a web address.

`resolve` makes a profile of the manifest's settings; `Client` speaks to it. Uploads and creates are sent
once and come back as Accepted, Refused or Unknown; all other calls repeat themselves and raise a
ProviderError. httpx lives here and nowhere else, so that its successor costs one folder; it is imported with
the first word to a server, because that takes as long as many a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.provider.errors import (
    AuthenticationError,
    CapacityError,
    InvalidRequestError,
    NotFoundYetError,
    PaymentError,
    ProviderError,
    ServerTroubleError,
    error_for,
    next_step,
)
from runner.provider.keys import ApiKey
from runner.provider.profiles import is_web_address, resolve
from runner.rooms import found_in

if TYPE_CHECKING:
    from runner.provider.client import Client, Patience
    from runner.provider.exchange import Timeouts
    from runner.provider.posting import post_json

__all__ = [
    "ApiKey",
    "AuthenticationError",
    "CapacityError",
    "Client",
    "InvalidRequestError",
    "NotFoundYetError",
    "Patience",
    "PaymentError",
    "ProviderError",
    "ServerTroubleError",
    "Timeouts",
    "error_for",
    "is_web_address",
    "next_step",
    "post_json",
    "resolve",
]

__getattr__ = found_in(__name__, __all__, ("posting", "exchange", "client"))
