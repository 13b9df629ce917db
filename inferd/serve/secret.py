"""Files that hold secrets (tokens, private keys): where they are, and who else can read them.

A name without a slash is first looked for in $CREDENTIALS_DIRECTORY, where systemd puts what a unit's `LoadCredential=`
names, readable by that unit alone.
"""

from __future__ import annotations

import os
import stat

from inferd.errors import ConfigError

OTHERS = 0o077
# systemd gives the unit's user access by an access control list, whose mask shows as the group's rights.
OTHERS_BUT_THE_LIST = 0o037


def located(path: str) -> str:
    """The file that a setting names: in $CREDENTIALS_DIRECTORY if a bare name is there, else as it stands."""
    folder = _credentials()
    if folder and "/" not in path:
        given = os.path.join(folder, path)
        if os.path.exists(given):
            return given
    return path


def check_private(fd: int, path: str, setting: str) -> None:
    """Raises ConfigError for what is no file, and for one that others than its owner can get at."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{setting} {path}: this is no file")
    folder = _credentials()
    given = folder and os.path.dirname(os.path.abspath(path)) == os.path.abspath(folder)
    if found.st_mode & (OTHERS_BUT_THE_LIST if given else OTHERS):
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(
            f"{setting} {path}: others than its owner can get at it (mode {mode:04o}): `chmod 600 {path}`"
        )


def _credentials() -> str:
    return os.environ.get("CREDENTIALS_DIRECTORY", "")
