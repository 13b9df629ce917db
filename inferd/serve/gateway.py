"""The gateway's start, watch and end, seen from the daemon. What it does is in inferd/gateway/.

It is a process of its own, because parsing JSON and HTTP would hold up the loop. The daemon holds its listening socket,
so that a taken port is known at the start, and callers queue instead of being refused while a gateway is replaced. It
comes back in through a Unix socket that only this user can reach. On its standard input it gets a line of settings,
another one whenever they change, the line `drain`, and the end of file when it shall go; on its standard output it says
`ready`, and from then on `alive`, from its loop, so that one that hangs is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import importlib.util
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Coroutine
from typing import Any

from inferd import log
from inferd.config import MIB, Settings, web_url
from inferd.config.addresses import temporary_folder
from inferd.errors import ConfigError, InferdError
from inferd.wire.address import MAX_SOCKET_PATH, Address

PROGRAM = "inferd.gateway"
# In the system's temporary directory: /tmp/inferd-gateway-XXXXXXXX/gateway.sock. Nobody else's folder is called so.
FOLDER_PREFIX = "inferd-gateway-"
SOCKET_NAME = "gateway.sock"
BACKLOG = 1024
READ_BYTES = 4096
# From its start to `ready`: importing its libraries takes half a second, on a machine that is not busy.
START_TIMEOUT_S = 30.0
# How often it says that it is alive; and after how many waits of so long without a word it counts as hung and is
# replaced: 30 s. What holds its loop up for longest is reading 4 MiB of JSON, a fraction of a second; the rest is for a
# machine that is very busy. Waits are counted, and not the time: a daemon that was itself stopped, or suspended with
# its machine, has waited once.
BEAT_S = 5.0
SILENT_BEATS = 6
# To end it has what is left of the drain's time, and this at least: to say 503 to those whose answers will not come.
LAST_WORDS_S = 1.0
# A gateway that dies is replaced at once. One that dies again before it has lived so long waits, longer each time.
LONG_ENOUGH_S = 10.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


class Gateway:
    """One gateway at a time. `address` is where it listens, `back` where it reaches the daemon, and `token` what it
    shows there when it asks in nobody's name. `held` is a socket that listens at `address` already, and that somebody
    else keeps."""

    def __init__(self, settings: Settings, address: Address, held: socket.socket | None = None) -> None:
        """Raises ConfigError where a package that it needs is not installed."""
        for package in ("aiohttp", "prometheus_client"):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"the gateway (--web) needs {package}, which is not installed. In a checkout of inferd: pip "
                    "install '.[web]'"
                )
        self._settings = settings
        self._held = held is not None
        self.address = address
        self.token = secrets.token_urlsafe(32)
        self._socket = held
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._draining = False
        self._folder = ""
        self._lock = -1
        self.back = Address()

    def bind(self) -> None:
        """Takes the address, if nobody holds it for us. Raises ConfigError when it cannot be had."""
        if self._socket is None:
            self._socket = self._bound()
        self._folder, self._lock = _private_folder()
        self.back = Address(path=f"{self._folder}/{SOCKET_NAME}")

    def _bound(self) -> socket.socket:
        try:
            family, kind, _, _, place = socket.getaddrinfo(
                self.address.host, self.address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(place)
            sock.listen(BACKLOG)
        except OSError as error:
            hint = "choose another address with --web HOST:PORT"
            if error.errno == errno.EADDRINUSE:
                hint = f"is another inferd running there? Stop it, or {hint}"
            raise ConfigError(f"cannot listen on {web_url(self.address)}: {error.strerror}; {hint}") from error
        self.address = Address(host=self.address.host, port=sock.getsockname()[1])
        return sock

    async def start(self) -> None:
        """Starts it; returns when it answers. Raises InferdError when it does not."""
        if not await self._launch():
            raise InferdError("the gateway of --web did not start; what it printed above says why")
        log.event("listening", address=web_url(self.address))
        self._watch = asyncio.create_task(self._replace_when_it_ends())
        self._watch.add_done_callback(_told)

    async def _launch(self) -> bool:
        """Whether a new process came up."""
        assert self._socket is not None
        fd = self._socket.fileno()
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                # With -P nothing is imported from the folder the daemon was started in.
                *(sys.executable, "-P", "-m", PROGRAM, str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=[fd],
            )
        except OSError as error:
            log.event("spawn_failed", logging.ERROR, process="gateway", error=str(error))
            return False
        self._say(self._words())
        if self._draining:
            self._say("drain")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                answer = await process.stdout.readline()
        except TimeoutError:
            answer = b""
        if answer != b"ready\n":
            _kill(process)
            await process.wait()
            return False
        return True

    def _words(self) -> str:
        """The settings, for the process."""
        assert self._socket is not None
        settings = self._settings
        words: dict[str, Any] = {
            "fd": self._socket.fileno(),
            "daemon": str(self.back),
            "token": self.token,
            "asks_for_tokens": bool(settings.tokens),
            "loopback_only": self.address.is_loopback,
            "held": self._held,
            "origins": settings.web_origin,
            "payload_bytes": settings.payload_mib * MIB,
            "max_connections": settings.max_connections,
            "beat_s": BEAT_S,
            "log_format": settings.log_format,
            "log_level": settings.log_level,
        }
        return json.dumps(words)

    async def _replace_when_it_ends(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            assert self._process is not None
            since = loop.time()
            if await self._falls_silent(self._process):
                silent_s = BEAT_S * SILENT_BEATS
                log.event("gateway_hung", logging.ERROR, pid=self._process.pid, silent_s=silent_s)
                _kill(self._process)
            status = await self._process.wait()
            if loop.time() - since >= LONG_ENOUGH_S:
                pause_s = 0.0
            pid = self._process.pid
            log.event("gateway_lost", logging.ERROR, pid=pid, status=status, respawn_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            if await self._launch():
                log.event("gateway_ready", pid=self._process.pid)

    async def _falls_silent(self, process: asyncio.subprocess.Process) -> bool:
        """Waits for as long as it says that it is alive: True if it hangs, False if it ends."""
        assert process.stdout is not None
        silent = 0
        while silent < SILENT_BEATS:
            try:
                async with asyncio.timeout(BEAT_S):
                    if not await process.stdout.read(READ_BYTES):
                        return False
                silent = 0
            except TimeoutError:
                silent += 1
        return True

    def reloaded(self, settings: Settings) -> None:
        """It goes on with these settings; nobody is cut off."""
        self._settings = settings
        self._say(self._words())

    def drain(self) -> None:
        """It says that it is not ready, and takes no new work."""
        self._draining = True
        self._say("drain")

    def abandon(self) -> None:
        """Ends it at once: nobody waits for its last answers."""
        if self._watch is not None:
            self._watch.cancel()
        if self._process is not None and self._process.returncode is None:
            _kill(self._process)

    async def close(self, left_s: float = 0.0) -> None:
        """Ends it when it has sent its last answers, which may take `left_s`, and LAST_WORDS_S if that is more."""
        if self._watch is not None:
            self._watch.cancel()
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            if not await _in_time(process.wait(), max(left_s, LAST_WORDS_S)):
                _kill(process)
                await process.wait()
        if self._socket is not None:
            self._socket.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._lock)
            self._folder = ""

    def _say(self, line: str) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line.encode() + b"\n")


def _private_folder() -> tuple[str, int]:
    """A new folder, mode 0700, in which a Unix socket's path is short enough; and the lock on it, a descriptor, which
    says that its daemon lives. Raises ConfigError where none can be made."""
    longest = MAX_SOCKET_PATH - len(f"/{FOLDER_PREFIX}12345678/{SOCKET_NAME}")
    place = temporary_folder()
    place = place if len(place.encode()) <= longest else "/tmp"
    _clear_stale_folders(place)
    while True:
        try:
            folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=place)
        except OSError as error:
            raise ConfigError(
                f"{place}: {error.strerror}: the gateway of --web needs a folder of its own there; name another place "
                "in TMPDIR, with a short path"
            ) from error
        lock = _locked(folder)
        if lock is not None:
            return folder, lock
        # Another daemon that is just starting took it for a dead one's before it was locked.


def _locked(folder: str) -> int | None:
    """The folder's lock; None if somebody else has it, or the folder is gone."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock)
        if (found.st_dev, found.st_ino) == _identity(folder) and found.st_uid == os.geteuid():
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _clear_stale_folders(place: str) -> None:
    """Removes what daemons of this user that were killed have left: their lock went with them."""
    try:
        names = os.listdir(place)
    except OSError:
        return  # a folder for all in which nobody may look around
    for name in names:
        if not name.startswith(FOLDER_PREFIX) or len(name) != len(FOLDER_PREFIX) + 8:
            continue
        folder = os.path.join(place, name)
        try:
            if set(os.listdir(folder)) <= {SOCKET_NAME} and stat.S_IMODE(os.lstat(folder).st_mode) == 0o700:
                _remove_unlocked(folder)
        except OSError:
            pass  # another user's, or no folder, or gone already


def _remove_unlocked(folder: str) -> None:
    lock = _locked(folder)
    if lock is None:
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME, dir_fd=lock)
        os.rmdir(folder)
    finally:
        os.close(lock)


def _told(watch: asyncio.Task[None]) -> None:
    if not watch.cancelled() and (error := watch.exception()) is not None:
        log.logger.error("gateway_unwatched", exc_info=error)


def _kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass


async def _in_time(work: Coroutine[Any, Any, object], timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(work, timeout_s)
    except TimeoutError:
        return False
    return True
