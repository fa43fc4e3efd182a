"""Waiting for something to happen to a key, without asking again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from zlib import crc32

from choreo.chassis.waiting.turns import Turns

T = TypeVar("T")
Look = Callable[[], Awaitable[T]]


def tag_of(key: str) -> str:
    """Eight characters that stand for the key among processes. Two keys may share one: a look too many."""
    return f"{crc32(key.encode()):08x}"


class Waiters:
    """Whoever waits registers first and looks then, so nothing slips in between."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._under_way: dict[tuple[str, Hashable], asyncio.Future[Any]] = {}
        self._next: dict[tuple[str, Hashable], asyncio.Future[Any]] = {}
        """Looks that have not begun."""
        self.turns = Turns()
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
        signal = self.watched(key)
        tag = tag_of(key)
        try:
            yield signal
        finally:
            self._waiting[tag].discard(signal)
            if not self._waiting[tag]:
                del self._waiting[tag]

    def watched(self, key: str) -> asyncio.Event:
        """The same for as long as this process runs."""
        signal = asyncio.Event()
        self._waiting.setdefault(tag_of(key), set()).add(signal)
        return signal

    async def look(self, key: str, look: Look[T], of: Hashable) -> T:
        """What `look` sees now. One after the other, each in a turn of the key's: all who ask for the same
        thing `of` the key meanwhile share the next one, so that nobody sees what was before he asked.

        Raises what `look` raises, and `TooManyBefore`.
        """
        shared = self._next.get((key, of))
        if shared is None:
            shared = self._next[key, of] = asyncio.ensure_future(self._look(key, look, of))
            shared.add_done_callback(partial(self._looked, (key, of)))
        seen: T = await asyncio.shield(shared)
        return seen

    async def _look(self, key: str, look: Look[T], of: Hashable) -> T:
        if (key, of) in self._under_way:
            await asyncio.wait([self._under_way[key, of]])
        async with self.turns.one(key):
            self._under_way[key, of] = self._next.pop((key, of))
            return await look()

    def _looked(self, name: tuple[str, Hashable], look: "asyncio.Future[Any]") -> None:
        for looks in (self._under_way, self._next):  # in the latter it never began
            if looks.get(name) is look:
                del looks[name]
        if not look.cancelled():
            look.exception()  # whoever still waits has it

    async def until(
        self, key: str, seconds: float, look: Look[T], enough: Callable[[T], bool], of: Hashable = None
    ) -> T:
        """What `look` sees as soon as it is enough, or after so many seconds whatever there is.

        Looks once at the beginning, and again whenever the key was woken: with all who look at the same
        (`of`). Where that is not given it looks by itself, and takes no turn.
        """
        with self.watching(key) as signal:
            seen = await (look() if of is None else self.look(key, look, of))
            try:
                async with asyncio.timeout(seconds):
                    while not enough(seen) and not self.closed:
                        await signal.wait()
                        signal.clear()
                        seen = await (look() if of is None else self.look(key, look, of))
            except TimeoutError:
                pass
            return seen
