"""The threads of a stream of the client for threads: each sees one call through at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

from inferd_client.call import Call, Result


class StreamThreads:
    """Answers calls with `answer`, and takes them back with `cancel` when the stream is left.

    Who leaves may be the garbage collector, which ends a forgotten stream in any thread, whatever locks that thread
    holds. So `leave()` takes none: it puts a word into a SimpleQueue, which is made for that, and a thread does the
    rest. For this there is always one thread more than calls. They are daemons, because a stream that nobody leaves
    must not keep the interpreter from ending.
    """

    def __init__(self, answer: Callable[[Call], Result], cancel: Callable[[Call], None]) -> None:
        self._answer = answer
        self._cancel = cancel
        self._work: SimpleQueue[tuple[Call, Future[Result]] | None] = SimpleQueue()  # None: it is left
        self._running: set[Call] = set()
        self._threads = 0

    def submit(self, call: Call) -> Future[Result]:
        """What will be the answer, or be raised instead."""
        while self._threads < len(self._running) + 2:
            Thread(target=self._serve, name="inferd-stream", daemon=True).start()
            self._threads += 1
        future: Future[Result] = Future()
        self._running.add(call)
        self._work.put((call, future))
        return future

    def leave(self) -> None:
        """Takes back what is not answered; the threads end."""
        self._work.put(None)

    def _serve(self) -> None:
        while self._serve_one():
            pass
        for call in tuple(self._running):
            self._cancel(call)
        self._work.put(None)  # for the next thread

    def _serve_one(self) -> bool:
        work = self._work.get()
        if work is None:
            return False
        call, future = work
        try:
            result = self._answer(call)
        except BaseException as error:
            self._running.discard(call)
            future.set_exception(error)
        else:
            self._running.discard(call)
            future.set_result(result)
        del work, future  # an error's traceback has this frame, and would keep itself
        return True
