"""Run in the background what is asked for last, and drop what that has overtaken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock
from typing import Any, ClassVar

PAUSE = 0.05  # seconds without a change before the model runs: a mouse on its way is quicker
_THREAD = ThreadPoolExecutor(1, "dycoke_lab_explorer")  # one for all: a model runs only one setting at a time


class Latest:
    """Run jobs one at a time, in the background. Of those that queue only the newest runs, and no result is
    shown that something newer has overtaken.

    waiting: the jobs of all panels that a user has asked for and that have not begun.
    """

    waiting: ClassVar[set[object]] = set()

    def __init__(self, pause: float = PAUSE) -> None:
        self.pause, self.number, self.lock = pause, 0, RLock()
        self.pending: Future[None] | None = None

    def submit(
        self,
        job: Callable[[], Any],
        show: Callable[[Any], None],
        failed: Callable[[Exception], None],
        ahead: bool = False,
    ) -> None:
        """Call `show` with what `job` returns, or `failed` with its error, unless something newer comes.

        ahead: nobody waits for it.
        """
        with self.lock:
            self.number += 1
            ticket = object()
            if not ahead:
                self.waiting.add(ticket)
            self.pending = _THREAD.submit(self._run, ticket, self.number, time.monotonic(), job, show, failed)

    def overtake(self) -> None:
        """Show nothing any more that was asked for so far."""
        with self.lock:
            self.number += 1

    def each(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield the parts of a job as long as nothing newer comes; then end the job by an error, which is
        dropped as its result would be."""
        mine = self.number
        for item in items:
            if self.number != mine:
                raise RuntimeError("overtaken")
            yield item

    def wait(self) -> None:
        """Wait until nothing is left to do; for scripts and tests."""
        pending = None
        while pending is not self.pending:
            pending = self.pending
            if pending is not None:
                pending.result()

    def _run(
        self,
        ticket: object,
        number: int,
        asked: float,
        job: Callable[[], Any],
        show: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.waiting.discard(ticket)
        time.sleep(max(0.0, self.pause - (time.monotonic() - asked)))
        if number != self.number:
            return
        try:
            result = job()
            with self.lock:
                if number == self.number:
                    show(result)
        except Exception as error:
            with self.lock:
                if number == self.number:
                    failed(error)
