"""Passwords, hashed with Argon2id off the event loop, by turns: nobody's logins keep another from his own."""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from choreo.chassis.http.problems import unavailable


def _commonest() -> frozenset[str]:
    """Those of a maintained package that a registration would take else. Its file alone is run: the package
    would keep all its dictionaries in memory.
    """
    package = find_spec("zxcvbn")
    assert package is not None and package.origin is not None
    lists = run_path(str(Path(package.origin).with_name("frequency_lists.py")))["FREQUENCY_LISTS"]
    return frozenset(password for password in lists["passwords"] if len(password) >= SHORTEST)


SHORTEST, LONGEST = 8, 128
COMMONEST = _commonest()
"""In lower case."""
CHECKS_AT_ONCE = 2
HASHES_AT_ONCE = 1
MOST_QUEUED = 64
"""Beyond this (about a second of work) the answer is 503 at once. So many known, so many strangers."""
MOST_OF_ADDRESS = MOST_QUEUED // 4


class Turns:
    """So many at once; who is known comes before strangers, and each kind in the order of its coming."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}
        self._places: Counter[bool] = Counter()
        self._held: Counter[tuple[bool, str]] = Counter()

    @contextmanager
    def place(self, address: str, known: bool) -> Iterator[None]:
        """In the queue. Raises 503 where it is full, or this address holds its quarter."""
        if self._places[known] >= MOST_QUEUED or self._held[known, address] >= MOST_OF_ADDRESS:
            raise unavailable("Too many passwords are being checked; try again soon.")
        self._places[known] += 1
        self._held[known, address] += 1
        try:
            yield
        finally:
            self._places[known] -= 1
            self._held[known, address] -= 1
            if not self._held[known, address]:
                del self._held[known, address]

    async def begin(self, known: bool) -> None:
        """Returns when it is one's turn. To be ended."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[known].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.end()
            raise

    def end(self) -> None:
        for waiting in (self._waiting[True], self._waiting[False]):
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1


class Passwords:
    """OWASP's parameters for Argon2id: 19 MiB, two passes, one lane. About 26 ms of CPU each."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE + HASHES_AT_ONCE, thread_name_prefix="argon2")
        self._nobodys_hash = self._hasher.hash("nobody has this password")
        self.checks = Turns(CHECKS_AT_ONCE)
        self._hashes = Turns(HASHES_AT_ONCE)

    async def hash(self, password: str, address: str = "") -> str:
        """For a registration, which has a queue of its own."""
        with self._hashes.place(address, known=False):
            await self._hashes.begin(known=False)
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._hasher.hash, password
                )
            finally:
                self._hashes.end()

    async def matches(self, stored: str | None, password: str, known: bool = False) -> bool:
        """With `stored=None`, for an unknown login: the same work, then `False`. For who has a place."""
        await self.checks.begin(known)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._matches, stored, password
            )
        finally:
            self.checks.end()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str | None, password: str) -> bool:
        try:
            self._hasher.verify(self._nobodys_hash if stored is None else stored, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None
