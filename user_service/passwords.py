"""Passwords, hashed with Argon2id off the event loop, as many at once as there are threads for it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from choreo.chassis.http.problems import unavailable

THREADS = 2
MOST_QUEUED = 64
"""Beyond this (about a second of work) the answer is 503 at once."""


class Passwords:
    """OWASP's parameters for Argon2id: 19 MiB, two passes, one lane. About 26 ms of CPU each."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._queued = 0
        self._nobodys_hash = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        self._take_a_place()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._hasher.hash, password
            )
        finally:
            self._queued -= 1

    async def matches(self, stored: str | None, password: str) -> bool:
        """With `stored=None`, for an unknown login: the same work, then `False`."""
        self._take_a_place()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._matches, stored, password
            )
        finally:
            self._queued -= 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str | None, password: str) -> bool:
        try:
            self._hasher.verify(self._nobodys_hash if stored is None else stored, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    def _take_a_place(self) -> None:
        if self._queued >= MOST_QUEUED:
            raise unavailable("Too many passwords are being checked; try again soon.")
        self._queued += 1
