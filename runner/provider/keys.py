"""The API key: a value that can be sent but not seen.

Its one rule: the text of the key leaves this type only through `header()`, which goes to the host that
the profile names, and is cut out of every foreign text by `scrub`. It is read from an environment
variable by name; nothing here stores it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from runner.core.model import Problem, ProblemKind
from runner.provider.errors import AuthenticationError

MASK: Final = "[key]"
_SHORTEST_TO_SCRUB: Final = 6
"""A shorter key is a stand-in such as `x` or `local`; cutting it out would garble ordinary words."""


class ApiKey:
    """An API key with a masked `repr` and `str`. Equal keys are equal; it can't be pickled."""

    __slots__ = ("_text", "name")

    def __init__(self, text: str, *, name: str = "API_KEY") -> None:
        """`text` loses the white space around it; `name` is the environment variable it came from.

        Raises AuthenticationError where the text can't be a key: empty, white space or anything but
        printable ASCII inside. The message never shows the text.
        """
        self.name = name
        self._text = text.strip()
        if not self._text:
            raise _unusable(name, f"{name} is empty")
        if not all("!" <= character <= "~" for character in self._text):
            raise _unusable(name, f"{name} holds characters that can't be part of an API key")

    @classmethod
    def from_environment(cls, name: str, environ: Mapping[str, str]) -> ApiKey:
        """The key in the environment variable `name`. Raises AuthenticationError where it is missing."""
        text = environ.get(name)
        if text is None:
            raise _unusable(name, f"no API key: the environment variable {name} is not set")
        return cls(text, name=name)

    def header(self) -> str:
        """The value of the `Authorization` header."""
        return f"Bearer {self._text}"

    def scrub(self, text: str) -> str:
        """The text without the key in it: servers quote keys in their refusals."""
        if len(self._text) < _SHORTEST_TO_SCRUB:
            return text
        return text.replace(self._text, MASK).replace(self._text.replace("/", "\\/"), MASK)

    def digest(self, salt: bytes) -> str:
        """8 hex digits that tell two keys apart without giving either away."""
        return hashlib.blake2b(self._text.encode(), key=salt[:64], digest_size=4).hexdigest()

    def __repr__(self) -> str:
        return f"ApiKey({self.name}, masked)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and other._text == self._text

    def __hash__(self) -> int:
        return hash((type(self), self._text))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("an API key is not written down anywhere, so it can't be pickled")


def _unusable(name: str, what: str) -> AuthenticationError:
    return AuthenticationError(
        what,
        next_step=f"export {name}=<your API key> and run the same command again",
        problem=Problem(kind=ProblemKind.AUTHENTICATION, message=what),
    )
