"""Whose request is begun next, and whose may read: whoever asks a thousand times waits for himself."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

AT_ONCE = 6
TURN_TIMEOUT_SECONDS = 5.0
BEGUN_IN_A_ROUND = 4


class TooManyBefore(Exception):
    """Others of the same user come first, for too long."""


class _Line:
    """Of those who stand in it each user has one turn, and goes behind all others then."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By whose they are; who is next stands first."""

    def stand(self, whose: str) -> "asyncio.Future[None]":
        """Resolved when it is one's turn. Who leaves cancels it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(whose, deque()).append(turn)
        return turn

    def give(self) -> bool:
        """A turn to who is next; whether there is anybody."""
        while self._waiting:
            whose, turns = next(iter(self._waiting.items()))
            del self._waiting[whose]
            turn = turns.popleft()
            if turns:
                self._waiting[whose] = turns  # behind everybody else
            with suppress(asyncio.InvalidStateError):  # whoever stood there has left
                turn.set_result(None)
                return True
        return False


class Turns:
    """At most so many at once. Those who wait have their turns by users, or by addresses."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._free = at_once
        self._line = _Line()

    @asynccontextmanager
    async def one(self, whose: str) -> AsyncIterator[None]:
        """A turn, for as long as the block runs. Who has one must not ask for another: all may be taken.

        Raises `TooManyBefore` after `TURN_TIMEOUT_SECONDS`.
        """
        if self._free:
            self._free -= 1
        else:
            await self._given(self._line.stand(whose))
        try:
            yield
        finally:
            self._give_on()

    async def _given(self, turn: "asyncio.Future[None]") -> None:
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
        if not self._line.give():
            self._free += 1


class Pace:
    """So many are begun in one round of the event loop, and the others by turns in those to come. What one
    client has ready at once, on however many connections, is not done in one go before anybody else's.
    """

    def __init__(self, in_a_round: int = BEGUN_IN_A_ROUND) -> None:
        self._most = self._left = in_a_round
        self._line = _Line()

    async def begin(self, whose: str) -> None:
        """Returns when it may."""
        if self._left:
            self._takes_one()
        else:
            await self._line.stand(whose)

    def _takes_one(self) -> None:
        if self._left == self._most:
            asyncio.get_running_loop().call_soon(self._next_round)
        self._left -= 1

    def _next_round(self) -> None:
        self._left = self._most
        while self._left and self._line.give():
            self._takes_one()
