"""Memory that processes share: a memfd passed by descriptor, and who has which part of it.

Not multiprocessing's shared memory: its resource tracker unlinks what others still use, and it lives in /dev/shm, of
which a container has 64 MiB.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os

PAGE_BYTES = 4096
# Pages are taken from the system in steps this large as they are first needed, so that a daemon at rest is small.
GROWTH_BYTES = 16 * 1024 * 1024


def give_back_freed() -> None:
    """Gives memory that this process has freed back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Region:
    """A memfd mapped into this process: `view` is all of its bytes.

    Pages are there for certain only below the highest `ensure`: a full machine is an OSError there, and would be a
    SIGBUS at the first touch elsewhere.
    """

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd = fd
        self.nbytes = nbytes
        self.ensured = 0  # bytes whose pages are there for certain
        self._mmap = mmap.mmap(fd, nbytes)
        self.view = memoryview(self._mmap)

    @classmethod
    def create(cls, name: str, nbytes: int) -> Region:
        """A new region of `nbytes`, its first pages taken at once. Raises OSError when there is no memory."""
        nbytes = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        fd = os.memfd_create(f"inferd-{name}", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, nbytes)
            region = cls(fd, nbytes)
            region.ensure(1)
        except BaseException:
            os.close(fd)
            raise
        return region

    def ensure(self, end: int) -> None:
        """Takes the pages below `end` from the system. Raises OSError when there are none."""
        if end > self.ensured:
            upto = min(-(-end // GROWTH_BYTES) * GROWTH_BYTES, self.nbytes)
            os.posix_fallocate(self.fd, self.ensured, upto - self.ensured)
            self.ensured = upto

    def close(self) -> None:
        """Gives the descriptor and, once no view is left, the mapping back."""
        os.close(self.fd)
        self.view.release()
        try:
            self._mmap.close()
        except BufferError:
            pass  # replies that are still leaving hold views; the mapping goes with the last of them


class Extents:
    """Who has which part of a region: first fit, lowest address first, neighbours joined when freed.

    First fit keeps a lightly used region low, so that its upper pages are never taken.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.used = 0
        self._starts = [0]  # of the free extents, ascending
        self._sizes = {0: nbytes}

    def take(self, nbytes: int) -> int | None:
        """The offset of `nbytes` that were free, or None."""
        sizes = self._sizes
        for index, start in enumerate(self._starts):
            size = sizes[start]
            if size >= nbytes:
                del sizes[start]
                if size == nbytes:
                    del self._starts[index]
                else:
                    self._starts[index] = start + nbytes
                    sizes[start + nbytes] = size - nbytes
                self.used += nbytes
                return start
        return None

    def give(self, start: int, nbytes: int) -> None:
        """Gives back what was taken, or a part of it. Raises ValueError if it is free already."""
        starts, sizes = self._starts, self._sizes
        index = bisect.bisect_right(starts, start)
        end = start + nbytes
        if (index and starts[index - 1] + sizes[starts[index - 1]] > start) or (
            index < len(starts) and starts[index] < end
        ):
            raise ValueError(f"bytes {start} to {end} are given back twice")
        self.used -= nbytes
        if index < len(starts) and starts[index] == end:
            nbytes += sizes.pop(end)
            del starts[index]
        if index and starts[index - 1] + sizes[starts[index - 1]] == start:
            sizes[starts[index - 1]] += nbytes
        else:
            starts.insert(index, start)
            sizes[start] = nbytes
