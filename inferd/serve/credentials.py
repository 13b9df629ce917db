"""Who is at the other end of a Unix socket, in the kernel's word, and whether he may come in.

The kernel notes the process, user and groups of a peer when it connects (SO_PEERCRED, SO_PEERGROUPS), and tells them
as they were then: nothing is looked up under a process id that may be another's by now. Whoever hands his connected
socket on to somebody else has vouched for him.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

# Python's socket module does not have it; the number is the same on every architecture but parisc and sparc.
SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("iII")
# What Python's getsockopt takes at most, in bytes: 256 groups.
_GROUPS_BYTES = 1024


class Peer(NamedTuple):
    """The process at the other end, its user and its group, when it connected."""

    pid: int
    uid: int
    gid: int


def peer(sock: socket.socket) -> Peer | None:
    """Who is at the other end; None for what is no Unix socket, or when the kernel does not say."""
    if sock.family != socket.AF_UNIX:
        return None
    try:
        return Peer(*_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
    except OSError:
        return None


def groups(sock: socket.socket) -> frozenset[int]:
    """The supplementary groups of the peer. Somebody with more than 256 of them, or of a kernel before 4.13, has
    none here, and gets in by his user or primary group alone."""
    try:
        packed = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return frozenset()
    return frozenset(struct.unpack(f"{len(packed) // 4}I", packed))


def is_own(found: Peer | None) -> bool:
    """Whether it is root, or the user that the daemon runs as."""
    return found is not None and found.uid in (0, os.geteuid())


def may_connect(sock: socket.socket, allow_uids: Collection[int], allow_gids: Collection[int]) -> bool:
    """Whether the peer of a Unix socket is let in: everybody whom the file system lets, when there are no lists;
    otherwise root, the daemon's own user, those of `allow_uids`, and those with a group of `allow_gids`, primary or
    supplementary. Not when the kernel does not say who it is."""
    if not (allow_uids or allow_gids):
        return True
    found = peer(sock)
    if found is None:
        return False
    if is_own(found) or found.uid in allow_uids or found.gid in allow_gids:
        return True
    return bool(allow_gids) and not groups(sock).isdisjoint(allow_gids)
