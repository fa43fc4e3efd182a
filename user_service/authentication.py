"""Whether somebody knows the password of a login: in turn, and within the limit of failures."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.problems import Problem
from choreo.chassis.waiting.turns import Turns
from user_service import queries
from user_service.login_limit import LoginLimit, digest_of
from user_service.passwords import Passwords

log = structlog.get_logger()


class Authentication:
    def __init__(self, engine: AsyncEngine, clock: Callable[[], datetime], turns: Turns) -> None:
        self._engine = engine
        self._turns = turns
        self.passwords = Passwords()
        self.limit = LoginLimit(engine, clock)

    async def user_who_knows(self, login: str, password: str, address: str, wrong: Problem) -> Any:
        """Id and password hash. Raises `wrong`, which counts as a failure; 429 after too many, 503 where too
        many wait.
        """
        async with self._turns.one(address):
            known = await self.limit.knows(login, address)
        with self.passwords.checks.place(address, known):
            async with self.limit.attempt(login, address, known) as attempt:
                user = await queries.credentials_of(self._engine, login)
                stored = user.password_hash if user else None
                if not await self.passwords.matches(stored, password, known):
                    attempt.failed()
                    tell("password_wrong", login, address)
                    raise wrong
                await attempt.succeeded()
        return user


def tell(what: str, login: str, address: str) -> None:
    """One kind of log line, `audit`, for all that has to do with accounts: so that a brute force is seen."""
    log.info("audit", what=what, login=digest_of(login), address=address)
