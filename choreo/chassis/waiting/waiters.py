"""Waiting for something to happen to a key, without asking again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")


def tag_of(key: str) -> str:
    """Eight characters that stand for the key among processes. Two keys may share one: a look too many."""
    return f"{crc32(key.encode()):08x}"


class Waiters:
    """Whoever waits registers first and looks then, so nothing slips in between."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.closed = False
        """Nobody waits any more: this process is about to stop."""

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def wake(self, keys: Iterable[str]) -> None:
        if self._waiting:
            self.wake_tags(map(tag_of, keys))

    def wake_tags(self, tags: Iterable[str]) -> None:
        for tag in tags:
            for signal in self._waiting.get(tag, ()):
                signal.set()

    def wake_all(self) -> None:
        self.wake_tags(self._waiting)

    def close(self) -> None:
        """Whoever waits goes on with what there is, now and from now on."""
        self.closed = True
        self.wake_all()

    @contextmanager
    def watching(self, key: str) -> Iterator[asyncio.Event]:
        """A signal that is set whenever the key was woken. Clear it, then look, then wait for it."""
        signal = asyncio.Event()
        tag = tag_of(key)
        self._waiting.setdefault(tag, set()).add(signal)
        try:
            yield signal
        finally:
            self._waiting[tag].discard(signal)
            if not self._waiting[tag]:
                del self._waiting[tag]

    async def until(
        self, key: str, seconds: float, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]
    ) -> T:
        """What `look` sees as soon as it is enough, or after so many seconds whatever there is.

        Looks once at the beginning, and again whenever the key was woken.
        """
        with self.watching(key) as signal:
            seen = await look()
            try:
                async with asyncio.timeout(seconds):
                    while not enough(seen) and not self.closed:
                        await signal.wait()
                        signal.clear()
                        seen = await look()
            except TimeoutError:
                pass
            return seen
