"""Waiting for something to happen to a key, without asking again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Waiters:
    """Whoever waits registers first and looks then, so nothing slips in between."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def wake(self, key: str) -> None:
        for signal in self._waiting.get(key, ()):
            signal.set()

    async def until(
        self, key: str, seconds: float, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool]
    ) -> T:
        """What `look` sees as soon as it is enough, or after so many seconds whatever there is.

        Looks once at the beginning, and again whenever the key was woken.
        """
        signal = asyncio.Event()
        self._waiting.setdefault(key, set()).add(signal)
        try:
            seen = await look()
            async with asyncio.timeout(seconds):
                while not enough(seen):
                    await signal.wait()
                    signal.clear()
                    seen = await look()
        except TimeoutError:
            pass
        finally:
            self._waiting[key].discard(signal)
            if not self._waiting[key]:
                del self._waiting[key]
        return seen
