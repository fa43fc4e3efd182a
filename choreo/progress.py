"""How far a measurement or other long work is, on standard error: results alone go to standard output."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from choreo.terminal import Console

_LINE_SECONDS = 4.0
_QUIET = 2.0
"""Seconds; what is done by then needs no progress."""

Tell = Callable[[str, int, int], None]
"""To be told what is being done, how much of it is done, and of about how much; 0 where nobody knows."""


@contextmanager
def telling() -> Iterator[Tell]:
    """Says how far work is, once that has taken a while."""
    progress, since = Progress(), time.monotonic()
    stage: str | None = None
    begun = since

    def tell(what: str, done: int, total: int) -> None:
        nonlocal stage, begun
        now = time.monotonic()
        if what != stage:
            begun = now if stage else since
            stage = what
        if now - since <= _QUIET:
            return
        if total:
            progress.step(what, done, max(done, total), now - begun)
        else:
            progress.stage(what)

    try:
        yield tell
    finally:
        progress.done()


class Progress:
    """On a terminal one line that changes; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._said, self._stage = 0.0, ""

    def stage(self, what: str) -> None:
        self._show(what, always=what != self._stage)
        self._stage = what

    def step(self, what: str, done: float, total: float, seconds: float, *, timed: bool = False) -> None:
        """`done` of `total` after so many seconds. Where it is `timed`, both are seconds."""
        left = total - done if timed else (total - done) * seconds / done if done else 0.0
        rate = "" if timed or not seconds else f", {done / seconds:.0f}/s"
        self._show(f"{what}: {done:.0f} of {total:.0f}{' s' if timed else ''}{rate}, about {left:.0f} s left")

    def counting(self, what: str, total: int) -> Callable[[int], None]:
        """To be told how many there are, from now on."""
        since = time.monotonic()
        return lambda done: self.step(what, done, total, time.monotonic() - since)

    def done(self) -> None:
        if self._status:
            self._status.stop()

    def _show(self, text: str, *, always: bool = False) -> None:
        if self._status:
            self._status.update(text)
            self._status.start()
        elif always or time.monotonic() > self._said + _LINE_SECONDS:
            self._said = time.monotonic()
            self._console.print(text)
