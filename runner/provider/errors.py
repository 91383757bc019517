"""The provider's errors: one class for each thing that a person does about it.

    ProviderError (a ProviderRefusedError, exit code 4)
    |-- AuthenticationError   set or renew the key
    |-- PaymentError          add credit
    |-- CapacityError         wait, widen the window, send less; or verify the account
    |-- InvalidRequestError   change the manifest or the data; or split smaller
    |-- NotFoundYetError      perhaps not yet visible: ask again before believing it
    `-- ServerTroubleError    5xx, foreign or cut replies, no connection: wait

Every foreign error is translated once, to a `Problem` (`classify`); `error_for` makes it an exception.
Uploads and creates never raise these: their outcome is a value (`outcome`).
"""

from __future__ import annotations

from runner.core.model import Problem, ProblemKind, Provider
from runner.errors import ProviderRefusedError


class ProviderError(ProviderRefusedError):
    """A call to the provider failed. `problem` says how, as a value."""

    def __init__(self, what: str, *, next_step: str = "", problem: Problem) -> None:
        super().__init__(what, next_step=next_step)
        self.problem = problem


class AuthenticationError(ProviderError):
    """The key is missing, wrong, expired or not allowed to do this."""


class PaymentError(ProviderError):
    """The account's balance or a spending cap is used up."""


class CapacityError(ProviderError):
    """The server has no room now, or the account may not send so much."""


class InvalidRequestError(ProviderError):
    """The server understood the request and says that it is wrong."""


class NotFoundYetError(ProviderError):
    """The server doesn't know the object. Reads lag behind writes, so ask again before believing it."""


class ServerTroubleError(ProviderError):
    """The server, or something on the way to it, is not working now."""


_CLASSES: dict[ProblemKind, type[ProviderError]] = {
    ProblemKind.AUTHENTICATION: AuthenticationError,
    ProblemKind.PAYMENT: PaymentError,
    ProblemKind.CAPACITY: CapacityError,
    ProblemKind.VOLUME: CapacityError,
    ProblemKind.INVALID_REQUEST: InvalidRequestError,
    ProblemKind.TOO_LARGE: InvalidRequestError,
    ProblemKind.NOT_FOUND: NotFoundYetError,
    ProblemKind.SERVER_TROUBLE: ServerTroubleError,
    ProblemKind.UNREACHABLE: ServerTroubleError,
}

_ADVICE: dict[ProblemKind, str] = {
    ProblemKind.PAYMENT: "add credit to the account, then run the same command again",
    ProblemKind.CAPACITY: "run the same command again later, or use a longer `batch.completion_window`",
    ProblemKind.VOLUME: "verify the account with the provider, or send fewer rows (`--limit`)",
    ProblemKind.INVALID_REQUEST: "correct what the server names, in the manifest or in the data",
    ProblemKind.TOO_LARGE: "lower `batch.max_file_bytes` or `batch.max_requests_per_file`",
    ProblemKind.NOT_FOUND: "run the same command again in a minute; if it stays, check `model.provider`",
    ProblemKind.SERVER_TROUBLE: "wait a little, then run the same command again",
}


def error_for(problem: Problem, provider: Provider, *, doing: str = "") -> ProviderError:
    """The exception for a problem. `doing` names the call (`create batch`), for the message."""
    what = f"{provider.name}: {doing}: {problem.message}" if doing else f"{provider.name}: {problem.message}"
    return _CLASSES[problem.kind](what, next_step=next_step(problem, provider), problem=problem)


def next_step(problem: Problem, provider: Provider) -> str:
    """What a person does about a problem, in one line."""
    match problem.kind:
        case ProblemKind.AUTHENTICATION if provider.api_key_env:
            return f"check the key: export {provider.api_key_env}=<your API key>, then run again"
        case ProblemKind.AUTHENTICATION:
            return "name the variable that holds the key in the manifest: `model.provider.api_key_env`"
        case ProblemKind.UNREACHABLE:
            return f"check the network and the address {provider.base_url}, then run the same command again"
        case ProblemKind.CAPACITY if problem.retry_after_s:
            return f"the server asks to wait {problem.retry_after_s:.0f} s; {_ADVICE[problem.kind]}"
        case _:
            return _ADVICE[problem.kind]
