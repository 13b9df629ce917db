"""Named tokens: who may use the models over TCP and through the gateway, and under which name they share fairly.

The file has a line `name: token` for each; empty lines and lines that begin with `#` are skipped.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from hashlib import sha256

from inferd.errors import ConfigError
from inferd.serve.secret import check_private, located

# The name that the gateway goes by when it asks in nobody's name; no token of the file may have it.
GATEWAY = "gateway"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MIN_TOKEN_CHARS = 16
MAX_TOKEN_CHARS = 1024
MAX_FILE_BYTES = 1024 * 1024
# Wrong tokens that an origin (inferd.serve.origin) may show in a row; then one more each GUESS_EVERY_S.
FREE_GUESSES = 10
GUESS_EVERY_S = 1.0
# Origins that are remembered for having guessed; the one that did longest ago is forgotten first.
MAX_GUESSERS = 1024


class Tokens:
    """The tokens' names. Hashes are compared, each with each: how long that takes says nothing about how much of a
    guess is right, nor how long the token is."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self._names = {_digest(token): name for name, token in tokens.items()}

    def add(self, name: str, token: str) -> None:
        """One more."""
        self._names[_digest(token)] = name

    def name_of(self, token: str) -> str | None:
        """Whose token it is; None if it is nobody's."""
        given = _digest(token)
        found = None
        for digest, name in self._names.items():
            if hmac.compare_digest(digest, given):
                found = name
        return found


class Guesses:
    """Who has shown wrong tokens lately: a bucket of FREE_GUESSES an origin, to which one comes each GUESS_EVERY_S.

    While it is empty nothing that the origin shows is looked at, a right token neither: an answer to one guess in a
    thousand would tell as much. So whoever shares an origin with somebody who guesses waits with him.
    """

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when its bucket is full again

    def wait_s(self, origin: str, now: float) -> float:
        """How long nothing is looked at that comes from there; 0.0: it may try."""
        full_at = self._full_at.get(origin, 0.0)
        return max(0.0, full_at - now - (FREE_GUESSES - 1) * GUESS_EVERY_S)

    def wrong(self, origin: str, now: float) -> None:
        """It has shown a token that is nobody's."""
        self._full_at[origin] = max(now, self._full_at.pop(origin, 0.0)) + GUESS_EVERY_S
        if len(self._full_at) > MAX_GUESSERS:
            self._full_at.popitem(last=False)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def read_tokens(path: str) -> Tokens:
    """The tokens of a file. Raises ConfigError naming the line, never showing a token."""
    path = located(path)
    try:
        with open(path, encoding="utf-8") as file:
            check_private(file.fileno(), path, "tokens")
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"tokens {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"tokens {path}: it is no text in UTF-8") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"tokens {path}: it is larger than {MAX_FILE_BYTES} bytes")
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, token = (part.strip() for part in line.partition(":"))
        problem = _problem(name, colon, token, tokens)
        if problem:
            raise ConfigError(f"tokens {path}, line {number}: {problem}")
        tokens[name] = token
    if not tokens:
        raise ConfigError(f"tokens {path}: there is no token in it; write lines `name: token`")
    return Tokens(tokens)


def _problem(name: str, colon: str, token: str, earlier: dict[str, str]) -> str:
    if not colon or not NAME.fullmatch(name):
        return "write `name: token`, the name in letters, digits, '.', '_' and '-', at most 64"
    if name == GATEWAY:
        return f"the name {GATEWAY!r} is taken by the daemon's own; choose another"
    if not MIN_TOKEN_CHARS <= len(token) <= MAX_TOKEN_CHARS or any(not "!" <= c <= "~" for c in token):
        return (
            f"a token has {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} characters, of ASCII and no blanks; "
            "`openssl rand -hex 32` makes one"
        )
    if name in earlier:
        return f"the name {name!r} is there twice"
    if token in earlier.values():
        return f"the token of {name!r} is another name's too"
    return ""
