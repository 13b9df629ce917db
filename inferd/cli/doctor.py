"""`inferd doctor`: what on this machine stands in the way of a daemon, a line each, and what to do about it.

It is also what to send when asking for help: nothing in it is secret. It runs without torch being installed, and
looks at devices in a process of its own, so that a driver that hangs or crashes is a finding too.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from inferd._version import __version__
from inferd.cli.common import printable
from inferd.cli.serve import default_socket_path
from inferd.cli.settings import SettingsCommand, configuration, look, settings_options, sources
from inferd.config import MIB, Settings
from inferd.config.read import Mistaken
from inferd.errors import ConfigError
from inferd.wire.address import DEFAULT_PORT, Address

OK, WARN, FAIL = "ok", "warn", "fail"
COLORS = {OK: "green", WARN: "yellow", FAIL: "red"}
# Importing torch and asking the driver takes seconds; one that takes longer hangs.
DEVICES_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 1.0
# Below it a cache of compiled kernels is soon full.
LEAST_CACHE_BYTES = 1024 * MIB
GPU_PROBE = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"cuda": torch.version.cuda, "devices": names}))
"""
CACHES = {
    "TORCHINDUCTOR_CACHE_DIR": "/tmp",  # in a folder of the user's own
    "TRITON_CACHE_DIR": "~/.triton/cache",
    "CUDA_CACHE_PATH": "~/.nv/ComputeCache",
}


class Finding(NamedTuple):
    """One line: `ok`, `warn` (it runs, and not as it should) or `fail` (it does not)."""

    level: str
    what: str
    said: str


@click.command(cls=SettingsCommand, short_help="What on this machine stands in the way of a daemon.")
@settings_options
def doctor(path: str, models: tuple[str, ...], options: tuple[str, ...], **flags: Any) -> None:
    """Check this machine for `inferd serve` with the same words (all but --executor), variables and configuration file:
    the packages, devices and driver, limits, memory, files of secrets, addresses and caches.

    A line each, with what to do. Exits 1 if there is anything without which a daemon cannot run.
    """
    settings = None
    failed = False
    findings = []
    try:
        settings = configuration(
            sources(path, models, options, flags),
            lambda settings: look(settings, lambda warning: findings.append(Finding(WARN, "configuration", warning))),
        ).settings
        findings.append(Finding(OK, "configuration", f"{path or 'no file'}: nothing is wrong"))
    except Mistaken as mistaken:
        findings += [Finding(FAIL, "configuration", str(mistake)) for mistake in mistaken.mistakes]
    except ConfigError as error:
        findings.append(Finding(FAIL, "configuration", str(error)))
    for finding in [*findings, *examine(settings or Settings())]:
        failed |= finding.level == FAIL
        level = click.style(f"{finding.level:4}", fg=COLORS[finding.level])
        click.echo(f"{level}  {finding.what:17} {printable(finding.said)}")
    if failed:
        sys.exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything, in the order in which a daemon would meet it."""
    yield Finding(OK, "inferd", f"{__version__} on Python {platform.python_version()}, Linux {platform.release()}")
    yield from packages(settings)
    yield from devices(settings)
    yield from limits(settings)
    yield from memory(settings)
    yield from secrets(settings)
    yield from addresses(settings)
    yield from caches()


def packages(settings: Settings) -> Iterator[Finding]:
    """What the extras `server` and `web` bring."""
    for extra, names in (("server", ("torch", "uvloop", "safetensors")), ("web", ("aiohttp", "prometheus-client"))):
        for name in names:
            version = _version(name)
            if version:
                yield Finding(OK, name, version)
                continue
            hint = f"not installed; in a checkout of inferd: pip install '.[{extra}]'"
            if extra == "web" and settings.web is None:
                yield Finding(OK, name, "not installed, and not needed without --web")
            else:
                yield Finding(FAIL, name, hint)


def devices(settings: Settings) -> Iterator[Finding]:
    """The driver, the device nodes, and what torch sees."""
    driver = Path("/proc/driver/nvidia/version")
    wants_gpu = any(device.startswith("cuda") for device in settings.devices)
    missing = FAIL if wants_gpu else WARN
    if driver.exists():
        yield Finding(OK, "driver", driver.read_text().splitlines()[0].removeprefix("NVRM version: ").strip())
        if not Path("/dev/nvidia-uvm").exists():
            yield Finding(missing, "driver", "/dev/nvidia-uvm is not there; as root: modprobe nvidia_uvm")
    elif wants_gpu:
        yield Finding(FAIL, "driver", "no NVIDIA driver is loaded; install it, or serve with --device cpu")
    if not _version("torch"):
        return
    found = _ask_torch()
    if isinstance(found, str):
        yield Finding(FAIL, "torch", f"{found}; try: {sys.executable} -c 'import torch'")
        return
    names = found["devices"]
    for index, name in enumerate(names):
        yield Finding(OK, f"cuda:{index}", name)
    for device in settings.devices:
        index = int(device.partition(":")[2] or 0)
        if device.startswith("cuda") and index >= len(names):
            why = "is built without CUDA: install the build that fits the driver" if not found["cuda"] else "finds none"
            yield Finding(FAIL, device, f"torch {_version('torch')} {why}")
    if not names and driver.exists() and not wants_gpu:
        yield Finding(WARN, "devices", "a driver is loaded, and torch finds no GPU: this will serve on the CPU")
    elif not names and not wants_gpu:
        yield Finding(OK, "devices", f"no GPU; the CPU has {len(os.sched_getaffinity(0))} cores for this process")


def limits(settings: Settings) -> Iterator[Finding]:
    """Open files, and memory that can be locked."""
    from inferd.serve.daemon import OWN_DESCRIPTORS

    wanted = settings.max_connections + OWN_DESCRIPTORS
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < wanted:
        said = f"{most}, and max_connections = {settings.max_connections} needs {wanted}; raise it (LimitNOFILE=)"
        yield Finding(WARN, "open files", said)
    else:
        yield Finding(OK, "open files", "no limit" if most == resource.RLIM_INFINITY else f"at most {most}")
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    said = "no limit" if most == resource.RLIM_INFINITY else f"at most {most // 1024} KiB"
    # The NVIDIA driver locks the slab itself and does not count it; others may.
    yield Finding(OK, "locked memory", said)


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether the slab and the arenas can be had. They are taken as they are needed."""
    needed = (settings.slab_mib + settings.arena_mib * len(settings.devices)) * MIB
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            free = min(free, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue  # there is none, or it says "max"
    said = f"{free // MIB} MiB are free; slab and arenas may take {needed // MIB} MiB, and the models their own"
    if needed > free:
        yield Finding(
            FAIL, "memory", f"{said}: lower slab_mib ({settings.slab_mib}) or arena_mib ({settings.arena_mib})"
        )
    else:
        yield Finding(OK if needed < free / 2 else WARN, "memory", said)


def secrets(settings: Settings) -> Iterator[Finding]:
    """Files of secrets: that they can be read here. Whether others can is the configuration's check."""
    from inferd.serve.secret import located

    for name in ("tokens", "tls_key", "tls_cert", "tls_client_ca"):
        path = getattr(settings, name)
        if not path:
            continue
        place = located(path)
        try:
            with open(place, "rb"):
                yield Finding(OK, name, f"{place}, mode {os.stat(place).st_mode & 0o7777:04o}")
        except OSError as error:
            yield Finding(FAIL, name, f"{place}: {error.strerror}; the daemon's user must be able to read it")


def addresses(settings: Settings) -> Iterator[Finding]:
    """Whether each address is free."""
    listen = settings.listen
    if not listen:
        listen = (Address(host="127.0.0.1", port=DEFAULT_PORT),)
        try:
            listen += (Address(path=default_socket_path()),)
        except ConfigError as error:
            yield Finding(FAIL, "address", str(error))
    for address in (*listen, *([settings.web] if settings.web is not None else ())):
        try:
            _connect(address)
        except OSError:
            problem = _cannot_bind(address)
            if problem:
                yield Finding(FAIL, "address", f"{address}: {problem}; choose another one with --listen or --web")
            else:
                yield Finding(OK, "address", f"{address} is free")
        else:
            said = "somebody listens there; if it is not the daemon you mean: stop it, or choose another address"
            yield Finding(WARN, "address", f"{address}: {said}")


def caches() -> Iterator[Finding]:
    """Where torch, Triton and CUDA keep what they have compiled: writable, with room, and not mounted noexec."""
    for variable, default in CACHES.items():
        path = Path(os.environ.get(variable) or os.path.expanduser(default))
        there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
        state = os.statvfs(there)
        free = state.f_bavail * state.f_frsize
        if not os.access(there, os.W_OK | os.X_OK):
            problem = f"{there} cannot be written to; set {variable} to a folder that can, or kernels are compiled anew"
        elif state.f_flag & os.ST_NOEXEC:
            problem = f"{there} is mounted noexec, and compiled kernels cannot be run from there; set {variable}"
        elif free < LEAST_CACHE_BYTES:
            problem = f"{there} has {free // MIB} MiB left; make room, or set {variable}"
        else:
            yield Finding(OK, "cache", f"{path} ({free // MIB} MiB free)")
            continue
        yield Finding(WARN, "cache", problem)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ask_torch() -> dict[str, Any] | str:
    """The CUDA version and the names of the devices; a sentence when torch does not say."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", GPU_PROBE],
            capture_output=True,
            text=True,
            timeout=DEVICES_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"importing it and asking for devices takes longer than {DEVICES_TIMEOUT_S:.0f} s: the driver may hang"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return f"asking it for devices ended with status {done.returncode}: {last}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _connect(address: Address) -> None:
    if address.path:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(address.path)
        return
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    socket.create_connection((host, address.port), timeout=CONNECT_TIMEOUT_S).close()


def _cannot_bind(address: Address) -> str:
    if address.path:
        # Path.exists raises for what is below a folder that cannot be entered.
        folder = next(folder for folder in Path(address.path).parents if os.path.exists(folder))
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written to"
    try:
        family, kind, _, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
    except OSError as error:
        return error.strerror or str(error)
    return ""
