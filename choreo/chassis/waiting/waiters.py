"""Waiting for something to happen to a key, without asking again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from zlib import crc32

T = TypeVar("T")
Look = Callable[[], Awaitable[T]]


def tag_of(key: str) -> str:
    """Eight characters that stand for the key among processes. Two keys may share one: a look too many."""
    return f"{crc32(key.encode()):08x}"


class Waiters:
    """Whoever waits registers first and looks then, so nothing slips in between."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._looks: dict[str, dict[Hashable, asyncio.Future[Any]]] = {}
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
            self._looks.pop(tag, None)  # they began before, and do not see what this wake is about
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

    async def look_again(self, key: str, look: Look[T], of: Hashable) -> T:
        """What `look` sees, for who was woken: all who look at the same, `of`, share one look."""
        looks = self._looks.setdefault(tag_of(key), {})
        if of not in looks:
            looks[of] = asyncio.ensure_future(look())
            looks[of].add_done_callback(partial(self._looked, tag_of(key), of))
        seen: T = await asyncio.shield(looks[of])
        return seen

    def _looked(self, tag: str, of: Hashable, look: "asyncio.Future[Any]") -> None:
        if not look.cancelled():
            look.exception()  # whoever still waits has it
        if self._looks.get(tag, {}).get(of) is look:
            del self._looks[tag][of]
            if not self._looks[tag]:
                del self._looks[tag]

    async def until(
        self, key: str, seconds: float, look: Look[T], enough: Callable[[T], bool], of: Hashable = None
    ) -> T:
        """What `look` sees as soon as it is enough, or after so many seconds whatever there is.

        Looks once at the beginning, and again whenever the key was woken, then together with all who look at
        the same.
        """
        with self.watching(key) as signal:
            seen = await look()
            try:
                async with asyncio.timeout(seconds):
                    while not enough(seen) and not self.closed:
                        await signal.wait()
                        signal.clear()
                        seen = await (look() if of is None else self.look_again(key, look, of))
            except TimeoutError:
                pass
            return seen
