"""What is read for those who ask, outside the kernel's transaction."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.pages import PageRequest
from choreo.templates.pinboard_service.tables import boards, notes


async def board_of(engine: AsyncEngine, user_id: UUID) -> Row[Any] | None:
    async with engine.connect() as conn:
        return (await conn.execute(select(boards).where(boards.c.user_id == user_id))).first()


async def notes_of(engine: AsyncEngine, user_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    """Newest first."""
    return await page.rows(engine, select(notes).where(notes.c.user_id == user_id), notes.c.step)
