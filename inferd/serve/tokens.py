"""Named tokens: who may use the models over TCP and through the gateway, and under which name they share fairly.

The file has a line `name: token` for each; empty lines and lines that begin with `#` are skipped.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from hashlib import sha256

from inferd.errors import ConfigError

# The name that the gateway goes by when it asks in nobody's name; no token of the file may have it.
GATEWAY = "gateway"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MIN_TOKEN_CHARS = 16
MAX_TOKEN_CHARS = 1024
MAX_FILE_BYTES = 1024 * 1024


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


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def read_tokens(path: str) -> Tokens:
    """The tokens of a file. Raises ConfigError naming the line, never showing a token."""
    try:
        with open(path, encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"--tokens {path}: this is no file")
            if found.st_mode & 0o077:
                mode = stat.S_IMODE(found.st_mode)
                raise ConfigError(
                    f"--tokens {path}: others than its owner can get at it (mode {mode:04o}): `chmod 600 {path}`"
                )
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--tokens {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--tokens {path}: it is no text in UTF-8") from error
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"--tokens {path}: it is larger than {MAX_FILE_BYTES} bytes")
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, token = (part.strip() for part in line.partition(":"))
        problem = _problem(name, colon, token, tokens)
        if problem:
            raise ConfigError(f"--tokens {path}, line {number}: {problem}")
        tokens[name] = token
    if not tokens:
        raise ConfigError(f"--tokens {path}: there is no token in it; write lines `name: token`")
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
