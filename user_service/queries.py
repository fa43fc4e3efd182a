"""What the user service is asked for, straight from its tables."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import keys, sessions_ended, signing_keys
from user_service.commands import EmailTaken, LoginTaken, Register
from user_service.state import compared
from user_service.tables import credentials, users

NAMED_TWICE = """/* users.named_twice: whose names are one since they are compared as they are now */
SELECT 'login: ' || string_agg(id::text, ' has it, not ' ORDER BY created_at, id)
FROM users GROUP BY login_key HAVING count(*) > 1
UNION ALL
SELECT 'e-mail address: ' || string_agg(id::text, ' has it, not ' ORDER BY created_at, id)
FROM users GROUP BY email_key HAVING count(*) > 1"""

BY_LOGIN = """/* users.by_login: whoever has it; two, where it was two names before */
SELECT id, id::text, NULL::uuid FROM users WHERE login_key = %(name)s"""

BY_EMAIL = """/* users.by_email */
SELECT id, id::text, NULL::uuid FROM users WHERE email_key = %(name)s"""


async def user_of(engine: AsyncEngine, user_id: UUID) -> Row[Any] | None:
    async with engine.connect() as conn:
        return (await conn.execute(select(users).where(users.c.id == user_id))).first()


async def taken(engine: AsyncEngine, registration: Register) -> LoginTaken | EmailTaken | None:
    """What it would be refused with by now, without a trace: refusals that nobody asks for again would be
    kept for ever.
    """
    query = select(users.c.login_key == registration.login_key).where(
        (users.c.login_key == registration.login_key) | (users.c.email_key == registration.email_key)
    )
    async with engine.connect() as conn:
        found = (await conn.execute(query)).scalars().all()
    return (LoginTaken() if any(found) else EmailTaken()) if found else None


async def credentials_of(engine: AsyncEngine, login: str) -> Any:
    """Id and password hash of whoever has this login, in whatever capitals and spelling."""
    query = (
        select(users.c.id, credentials.c.password_hash)
        .join(credentials, credentials.c.user_id == users.c.id)
        .where(users.c.login_key == compared(login))
        .order_by(users.c.created_at, users.c.id)
        .limit(1)
    )
    async with engine.connect() as conn:
        return (await conn.execute(query)).first()


async def session_start(engine: AsyncEngine, user: Any, clock: Callable[[], datetime]) -> datetime | None:
    """When a session of these credentials may begin; None where the password was changed meanwhile.

    Whoever changes it, or ends sessions, holds the user's key and looks at the clock then. So they either see
    to it that this is None, or end what begins now.
    """
    lock = select(keys.c.key).where(keys.c.key == str(user.id)).with_for_update(read=True)
    query = (
        select(credentials.c.password_hash, sessions_ended.c.not_before)
        .outerjoin(sessions_ended, sessions_ended.c.user_id == credentials.c.user_id)
        .where(credentials.c.user_id == user.id)
    )
    async with engine.connect() as conn:
        await conn.execute(lock)
        now = clock()
        found = (await conn.execute(query)).one()
    if found.password_hash != user.password_hash:
        return None
    ended = found.not_before
    return now if ended is None else max(now, ended + timedelta(microseconds=1))


async def published_keys(engine: AsyncEngine, now: datetime) -> Sequence[Row[Any]]:
    """The public keys that are good at this time."""
    query = select(signing_keys).where(signing_keys.c.not_after > now).order_by(signing_keys.c.kid)
    async with engine.connect() as conn:
        return (await conn.execute(query)).all()
