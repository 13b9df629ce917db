"""A fork server whose forks fail while there is a file, to which each of them adds a byte."""

from __future__ import annotations

import errno
import os

from inferd.work import forkserver

VARIABLE = "INFERD_TEST_NO_FORK"


def main() -> None:
    fork = os.fork

    def fork_or_not() -> int:
        path = os.environ[VARIABLE]
        if os.path.exists(path):
            with open(path, "a") as file:
                file.write(".")
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    os.fork = fork_or_not
    forkserver.main()


if __name__ == "__main__":
    main()
