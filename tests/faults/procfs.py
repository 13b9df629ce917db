"""What /proc says of a process and its descendants: the daemon seen from outside."""

from __future__ import annotations

import os
from pathlib import Path


def stat_of(pid: int) -> tuple[str, int] | None:
    """State letter and parent of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def is_alive(pid: int) -> bool:
    """Whether the process exists and has not ended."""
    stat = stat_of(pid)
    return stat is not None and stat[0] not in "ZX"


def descendants(pid: int) -> dict[int, tuple[str, int]]:
    """All processes below `pid`: pid → (state letter, parent)."""
    everybody: dict[int, tuple[str, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := stat_of(int(name))) is not None:
            everybody[int(name)] = stat
    found: dict[int, tuple[str, int]] = {}
    parents = {pid}
    while parents:
        children = {child: stat for child, stat in everybody.items() if stat[1] in parents and child not in found}
        found.update(children)
        parents = set(children)
    return found


def command_of(pid: int) -> str:
    """The process's command line, its words joined by blanks."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> dict[str, str]:
    """Open descriptors of a process: number → what it is."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    return found


def rss_anon_bytes(pid: int) -> int:
    """Anonymous memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def shared_memory() -> set[str]:
    """The entries of /dev/shm."""
    return set(os.listdir("/dev/shm"))
