"""Whose request may read the database next: whoever asks a thousand times waits for himself."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

AT_ONCE = 6
TURN_TIMEOUT_SECONDS = 5.0


class TooManyBefore(Exception):
    """Others of the same user come first, for too long."""


class Turns:
    """At most so many at once; each user, or address, that waits has one, and goes behind all others then."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = at_once
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By whose they are; who is next stands first."""

    @asynccontextmanager
    async def one(self, whose: str) -> AsyncIterator[None]:
        """A turn, for as long as the block runs. Who has one must not ask for another: all may be taken.

        Raises `TooManyBefore` after `TURN_TIMEOUT_SECONDS`.
        """
        if self._free:
            self._free -= 1
        else:
            await self._given(whose)
        try:
            yield
        finally:
            self._give_on()

    async def _given(self, whose: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whose, deque()).append(turn)
        try:
            async with asyncio.timeout(TURN_TIMEOUT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give_on()
            if isinstance(error, TimeoutError):
                raise TooManyBefore from None
            raise

    def _give_on(self) -> None:
        while self._waiting:
            whose, turns = next(iter(self._waiting.items()))
            del self._waiting[whose]
            turn = turns.popleft()
            if turns:
                self._waiting[whose] = turns  # behind everybody else
            with suppress(asyncio.InvalidStateError):  # whoever waited has left
                turn.set_result(None)
                return
        self._free += 1
