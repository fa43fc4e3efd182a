"""What the user service is asked for, straight from its tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.database.tables import signing_keys
from user_service.tables import credentials, users


async def user_of(engine: AsyncEngine, user_id: UUID) -> Row[Any] | None:
    async with engine.connect() as conn:
        return (await conn.execute(select(users).where(users.c.id == user_id))).first()


async def credentials_of(engine: AsyncEngine, login: str) -> Any:
    """Id and password hash of whoever has this login, in whatever capitals."""
    query = (
        select(users.c.id, credentials.c.password_hash)
        .join(credentials, credentials.c.user_id == users.c.id)
        .where(users.c.login_key == login.casefold())
    )
    async with engine.connect() as conn:
        return (await conn.execute(query)).first()


async def published_keys(engine: AsyncEngine, now: datetime) -> Sequence[Row[Any]]:
    """The public keys that are good at this time."""
    query = select(signing_keys).where(signing_keys.c.not_after > now).order_by(signing_keys.c.kid)
    async with engine.connect() as conn:
        return (await conn.execute(query)).all()
